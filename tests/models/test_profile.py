"""A profile in an ONNX file's metadata, and histograms in a snapshot's properties: what goes in comes out."""

import numpy as np
import pytest

from models.contract import CategoryFeature, NumberFeature
from models.encoding import Encoded
from models.profile import METADATA_KEY, CategoryBins, Histograms, NumberBins, Profile, bin_names, profile_in
from models.training.profiling import learn_profile
from tests.tiny_model import tiny_contract

SCORE = NumberBins(edges=(0.1, 0.5), counts=(6, 3, 1, 0))
PLAN = CategoryBins(values=30, codes=(0, 7), counts=(5, 2, 1, 1, 1))
PROFILE = Profile(features={"balance": NumberBins(edges=(), counts=(9, 1)), "plan": PLAN}, score=SCORE)


def test_a_profile_comes_out_of_the_metadata_as_it_went_in():
    assert profile_in({"other": "entry", **PROFILE.to_metadata()}) == PROFILE


@pytest.mark.parametrize("text", [None, "", "{}", '{"format":2,"features":{},"score":{"edges":[],"counts":[0,0]}}'])
def test_a_file_without_a_profile_that_can_be_read_has_none(text):
    assert profile_in({} if text is None else {METADATA_KEY: text}) is None


def test_histograms_come_out_of_a_property_as_they_went_in():
    written = PROFILE.histograms
    read = Histograms.from_text(written.to_text())
    assert read.to_text() == written.to_text()
    assert list(read.features) == ["balance", "plan"]
    assert (read.rows, read.score.dtype) == (10, np.int64)


def test_flat_counts_are_taken_apart_in_the_order_of_the_features_with_the_score_last():
    found = Histograms.from_flat(PROFILE, np.arange(11))
    assert {name: counts.tolist() for name, counts in found.features.items()} == {
        "balance": [0, 1],
        "plan": [2, 3, 4, 5, 6],
    }
    assert found.score.tolist() == [7, 8, 9, 10]
    assert found.fit(PROFILE)


@pytest.mark.parametrize(
    "features",
    [{"balance": [1, 0]}, {"balance": [1, 0], "plan": [1, 0]}, {"other": [1, 0], "plan": [1, 0, 0, 0, 0]}],
    ids=["a feature too few", "a bin too few", "another name"],
)
def test_histograms_over_other_bins_do_not_fit(features):
    found = Histograms({name: np.array(counts) for name, counts in features.items()}, np.array([1, 0, 0, 0]))
    assert not found.fit(PROFILE)


def test_every_bin_has_a_name_for_a_person():
    assert bin_names(SCORE) == ["up to 0.1", "above 0.1 up to 0.5", "above 0.5", "missing"]
    assert bin_names(NumberBins(edges=(), counts=(1, 0))) == ["any value", "missing"]
    names = [f"tariff {i}" for i in range(30)]
    assert bin_names(PLAN, names) == ["tariff 0", "tariff 7", "further", "unseen", "missing"]


def test_bins_that_are_near_each_other_have_different_names():
    seconds = NumberBins(edges=(1_700_000_000, 1_700_001_024), counts=(1, 1, 1, 0))
    assert len(set(bin_names(seconds))) == 4


def test_a_profile_of_many_features_with_large_vocabularies_stays_small():
    numbers = {f"a_long_name_of_a_number_{i}": NumberFeature(kind="number") for i in range(10)}
    words = tuple(f"value {i}" for i in range(1000))
    texts = {f"a_long_name_of_a_text_{i}": CategoryFeature(kind="category", values=words) for i in range(10)}
    rng = np.random.default_rng(0)
    rows = Encoded(
        rng.normal(0, 1e6, (50_000, 10)).astype(np.float32), rng.integers(0, 1001, (50_000, 10)).astype(np.int32)
    )
    contract = tiny_contract(features=numbers | texts)
    (text,) = learn_profile(contract, rows, rng.random(50_000, np.float32)).to_metadata().values()
    assert len(text) < 8000
