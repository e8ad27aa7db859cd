"""Where a profile's bins are cut, and that the file which carries it is the same model as before."""

import numpy as np
import pytest

from models.contract import CategoryFeature, NumberFeature
from models.encoding import Encoded
from models.profile import METADATA_KEY, CategoryBins, NumberBins, Profile, profile_in
from models.scoring import Scorer
from models.training.graph import with_metadata
from models.training.profiling import BINS, MOST_VALUES, learn_profile
from tests.tiny_model import tiny_contract

SCORES = np.linspace(0, 1, 1000, dtype=np.float32)


def of_number(values) -> NumberBins:
    column = np.resize(np.asarray(values, np.float32), 1000)
    contract = tiny_contract(features={"x": NumberFeature(kind="number", missing=True)})
    rows = Encoded(column[:, None], np.empty((1000, 0), np.int32))
    bins = learn_profile(contract, rows, SCORES).features["x"]
    assert isinstance(bins, NumberBins)
    assert sum(bins.counts) == 1000
    return bins


def of_category(codes, values: int) -> CategoryBins:
    feature = CategoryFeature(kind="category", values=tuple(map(str, range(values))), missing=True)
    rows = Encoded(np.empty((1000, 0), np.float32), np.resize(np.asarray(codes, np.int32), 1000)[:, None])
    bins = learn_profile(tiny_contract(features={"c": feature}), rows, SCORES).features["c"]
    assert isinstance(bins, CategoryBins)
    assert sum(bins.counts) == 1000
    return bins


def test_a_number_is_cut_into_ten_bins_of_equal_count():
    bins = of_number(np.random.default_rng(0).permutation(1000))
    assert len(bins.edges) == BINS - 1
    assert all(abs(count - 100) <= 1 for count in bins.counts[:-1])
    assert bins.counts[-1] == 0


def test_few_values_have_a_bin_each():
    assert of_number([1, 2, 3, 3]) == NumberBins(edges=(1, 2), counts=(250, 250, 500, 0))


def test_a_value_that_most_rows_have_is_one_bin_and_not_several_empty_ones():
    bins = of_number([0] * 700 + list(range(1, 301)))
    assert bins.counts[0] == 700
    assert 0 not in bins.counts[:-1]
    assert list(bins.edges) == sorted(set(bins.edges))


def test_a_largest_value_that_many_rows_have_leaves_no_empty_bin_above_it():
    assert 0 not in of_number(list(range(100)) + [100] * 900).counts[:-1]


def test_missing_values_have_a_bin_of_their_own():
    assert of_number([np.nan, 5]) == NumberBins(edges=(), counts=(500, 500))
    assert of_number([np.nan]) == NumberBins(edges=(), counts=(0, 1000))


def test_edges_are_the_float32_that_rows_have_and_are_written_short():
    values = np.array([0.1, 0.2, 0.3, 1e-30, 16_777_217], np.float32)
    bins = of_number(values)
    assert np.array_equal(np.array(bins.edges, np.float32), np.sort(values)[:-1])
    assert bins.edges[1] == 0.1


def test_each_value_of_a_vocabulary_has_a_bin_in_its_order_and_unseen_and_missing_ones_too():
    assert of_category([0, 2, 2, 3, 4], values=3) == CategoryBins(
        values=3, codes=(0, 1, 2), counts=(200, 0, 400, 0, 200, 200)
    )


def test_of_a_large_vocabulary_the_most_frequent_values_have_a_bin():
    codes = [*range(1000), *range(500, 500 + MOST_VALUES)] * 3
    bins = of_category(np.resize(codes, 1020)[-1000:], values=1000)
    assert bins.codes == tuple(range(500, 500 + MOST_VALUES))
    assert len(bins.counts) == MOST_VALUES + 3


# --- in the file ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profile(trained) -> Profile:
    found = profile_in(Scorer(trained.onnx).metadata)
    assert found is not None
    return found


def test_a_trained_file_carries_the_profile_of_the_rows_that_it_learned_from(trained, profile):
    assert list(profile.features) == list(trained.contract.features)
    assert {sum(bins.counts) for bins in profile.all_bins} == {len(trained.split.train)}
    assert all(bins.counts[-1] == 0 for name, bins in profile.features.items() if name not in ("charge", "channel"))
    assert profile.features["charge"].counts[-1] == pytest.approx(0.1 * len(trained.split.train), rel=0.3)


def test_scores_and_contract_are_those_of_the_file_without_it(trained):
    with_profile = Scorer(trained.onnx)
    without = Scorer(with_metadata(trained.onnx, {METADATA_KEY: ""}))
    assert with_profile.contract == without.contract
    assert with_profile.contract.fingerprint == without.contract.fingerprint
    assert METADATA_KEY not in trained.contract.to_metadata()
    assert with_profile.score(trained.test_rows).tobytes() == without.score(trained.test_rows).tobytes()
    assert trained.scores_test.tobytes() == without.score(trained.test_rows).tobytes()
