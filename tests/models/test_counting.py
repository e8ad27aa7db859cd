"""Rows in bins: each row once in each histogram, whatever the batches; and a sample that tells what all rows tell."""

import pickle

import numpy as np
import pytest

from models import counting
from models.contract import CategoryFeature, Contract, NumberFeature
from models.counting import PLACES, BinCounter, stride_for
from models.drift import shift_index
from models.encoding import Encoded
from models.profile import CategoryBins, Histograms, NumberBins, Profile
from models.scoring import Scores
from models.training.profiling import learn_profile
from tests.tiny_model import tiny_contract

NUMBER, CATEGORY = NumberFeature(kind="number", missing=True), CategoryFeature(kind="category", values=("a", "b", "c"))
PROFILE = Profile(
    features={
        "plan": CategoryBins(values=3, codes=(0, 2), counts=(0,) * 5),
        "balance": NumberBins(edges=(0.0, 10.0), counts=(0,) * 4),
        "same": NumberBins(edges=(), counts=(0,) * 2),
    },
    score=NumberBins(edges=(0.5,), counts=(0,) * 3),
)


def rows_of(rows: int, seed: int = 0) -> tuple[Encoded, Scores]:
    """Return random rows of two numbers, some missing, and of a category with all of its codes; and scores."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(5, 10, (rows, 2)).astype(np.float32)
    numbers[rng.random((rows, 2)) < 0.1] = np.nan
    return Encoded(numbers, rng.integers(0, 5, (rows, 1)).astype(np.int32)), rng.random(rows, np.float32)


def named(counter: BinCounter, counts) -> dict[str, list[int]]:
    found = Histograms.from_flat(counter.profile, counts)
    return {name: bins.tolist() for name, bins in found.features.items()} | {"score": found.score.tolist()}


def test_each_value_is_in_the_bin_that_its_edges_say():
    numbers = np.array([[-1, 7], [0, np.nan], [0.5, 7], [10, 7], [11, 7], [np.nan, 7]], np.float32)
    codes = np.array([[0], [1], [2], [3], [3], [4]], np.int32)  # a, b, c, unseen, missing
    counter = BinCounter(PROFILE)
    counts = counter.count(Encoded(numbers, codes), np.array([0, 0.5, 0.6, 1, 1, np.nan], np.float32))
    assert named(counter, counts) == {
        "plan": [1, 1, 1, 2, 1],  # a, c, further ones, unseen, missing
        "balance": [2, 2, 1, 1],  # an edge itself is below
        "same": [5, 1],
        "score": [2, 3, 1],
    }


@pytest.mark.parametrize("batch", [1, 7, 999, 5000])
@pytest.mark.parametrize("stride", [1, 2, 33])
def test_how_the_rows_are_cut_into_batches_does_not_matter(batch, stride):
    counter, (rows, scores) = BinCounter(PROFILE, stride), rows_of(5000)
    whole, pieces = counter.count(rows, scores), counter.nothing
    for start in range(0, 5000, batch):
        part = slice(start, start + batch)
        pieces += counter.count(rows[part], scores[part], before=start)
    assert pieces.tolist() == whole.tolist()


@pytest.mark.parametrize("rows", [0, 1, 32, 33, 34, 66, PLACES * 33 + 5])
def test_one_row_of_each_stride_is_picked_ascending_and_none_twice(rows):
    picked = BinCounter(PROFILE, 33).sampled(0, rows)
    assert rows // 33 <= len(picked) <= rows // 33 + 1
    assert (picked // 33).tolist() == list(range(len(picked)))


def test_more_rows_than_a_block_are_all_counted():
    counter, (rows, scores) = BinCounter(PROFILE), rows_of(3 * counting.BLOCK + 1)
    assert set(map(sum, named(counter, counter.count(rows, scores)).values())) == {len(rows)}


@pytest.mark.parametrize("features", [{"x": NUMBER}, {"c": CATEGORY}], ids=["numbers alone", "categories alone"])
def test_a_model_may_have_one_kind_of_feature(features):
    contract: Contract = tiny_contract(features=features)
    rng = np.random.default_rng(0)
    rows = Encoded(
        rng.random((100, len(contract.numbers)), np.float32),
        rng.integers(0, 4, (100, len(contract.categories))).astype(np.int32),
    )
    profile = learn_profile(contract, rows, rng.random(100, np.float32))
    counter = BinCounter(profile)
    assert counter.count(rows, rng.random(100, np.float32)).sum() == 200
    assert profile.histograms.rows == 100


def test_a_counter_that_was_sent_to_another_process_counts_the_same():
    counter, (rows, scores) = BinCounter(PROFILE, 5), rows_of(1000)
    sent = pickle.loads(pickle.dumps(counter))
    assert sent.count(rows, scores).tolist() == counter.count(rows, scores).tolist()


# --- the sample -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "stride"), [(0, 1), (99_999, 1), (100_000, 2), (1_000_000, 20), (5_000_000, 100)])
def test_small_populations_are_counted_whole_and_of_large_ones_enough(rows, stride):
    assert stride_for(rows) == stride
    assert stride == 1 or rows // stride >= counting.SAMPLED_ROWS


def test_an_order_that_repeats_with_the_stride_does_not_mislead_the_sample():
    rows = 100_000
    codes = (np.arange(rows) % 20 == 0).astype(np.int32)[:, None]  # one in twenty is a "b", always at the same place
    encoded = Encoded(np.zeros((rows, 2), np.float32), codes)
    counter = BinCounter(PROFILE, 20)
    plan = named(counter, counter.count(encoded, np.zeros(rows, np.float32)))["plan"]
    assert sum(plan) == 5000
    assert plan[2] / 5000 == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_the_index_of_a_sample_is_that_of_all_rows_within_the_stated_bound(seed):
    """Docs: with 50,000 rows and 12 bins, 0.001, and a twentieth of the index itself."""
    stride = 4
    training, scores = rows_of(30_000, seed=100 + seed)
    profile = learn_profile(tiny_contract(features={"x": NUMBER, "y": NUMBER, "c": CATEGORY}), training, scores)
    now, scores = rows_of(50_000 * stride, seed)
    now.numbers[:, 0] += 4  # this one has shifted
    whole, sample = (
        Histograms.from_flat(profile, BinCounter(profile, every).count(now, scores)) for every in (1, stride)
    )
    assert (whole.rows, sample.rows) == (200_000, 50_000)
    for name, training_counts in profile.histograms.features.items():
        of_all, of_sample = (shift_index(training_counts, found.features[name]) for found in (whole, sample))
        assert of_sample == pytest.approx(of_all, abs=0.001 + of_all / 20)
