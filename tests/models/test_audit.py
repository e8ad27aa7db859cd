"""The audit: each thing that can be wrong with staged rows is found, named and counted."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.audit import (
    BINS,
    AuditReport,
    Expected,
    Limits,
    Tally,
    audit,
    histogram_from_text,
    histogram_of,
    histogram_to_text,
    population_stability_index,
    tally_of,
)

KEYS = {
    "integer": lambda keys: pa.array(keys, pa.int64()),
    "string": lambda keys: pa.array(map(str, keys), pa.string()),
}


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def audited(
    *batches: tuple[pa.Array, np.ndarray],
    rows: int | None = None,
    rejected: int = 0,
    written: np.ndarray | None = None,
    last_night: np.ndarray | None = None,
    repeated: int = 0,
    **limits: float,
) -> AuditReport:
    """Audit batches that are as many, and as they were written, unless told otherwise."""
    scores = np.concatenate([scores for _, scores in batches]) if batches else floats()
    population = len(scores) + rejected if rows is None else rows
    expected = Expected(population, rejected, histogram_of(scores if written is None else written))
    tally = sum((tally_of(keys, values) for keys, values in batches), Tally())
    allowed = Limits(**({"max_shift": 0.25, "max_rejected_share": 0.1} | limits))
    return audit(tally, repeated, expected, last_night, allowed)


def fields(report: AuditReport) -> list[str]:
    return [problem.field for problem in report.problems]


# --- what holds -----------------------------------------------------------------------------------------------------


def test_good_rows_have_no_problems_and_their_figures():
    report = audited((KEYS["integer"]([4, 2]), floats(0.25, 0.5)), (KEYS["integer"]([9, 1, 3]), floats(0.0, 1.0, 0.75)))
    assert report.problems == []
    assert (report.rows, report.mean, report.tally.minimum, report.tally.maximum) == (5, 0.5, 0.0, 1.0)
    assert report.tally.histogram.sum() == 5
    assert report.shift is None


def test_the_figures_are_summed_in_double_precision():
    scores = np.full(1_000_000, 0.1, np.float32)
    report = audited((pa.array(np.arange(1_000_000)), scores))
    assert report.mean == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_empty_batches_change_nothing():
    empty = (KEYS["integer"]([]), floats())
    report = audited(empty, (KEYS["integer"]([1]), floats(0.5)), empty)
    assert (report.problems, report.rows, report.mean) == ([], 1, 0.5)


# --- rows and keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("population", "rejected"), [(1, 0), (3, 0), (2, 1), (4, 1)])
def test_lost_and_added_rows_are_found(population, rejected):
    rows = (KEYS["integer"]([1, 2]), floats(0.5, 0.5))
    report = audited(rows, rows=population, rejected=rejected, max_rejected_share=0.9)
    assert fields(report) == ["rows"]
    assert report.problems[0].value == 2
    assert f"from the {population - rejected} that the population has, rejects taken off" in report.problems[0].message


def test_no_rows_at_all_are_found():
    assert fields(audited(rows=3)) == ["rows"]


def test_keys_that_stand_twice_are_named_with_their_number():
    report = audited((KEYS["integer"]([1, 1]), floats(0.5, 0.5)), repeated=1)
    assert fields(report) == ["entity key"]
    assert str(report.problems[0]).startswith("entity key: keys stand more than once (value: 1). Run again")


@pytest.mark.parametrize("kind", ["integer", "string"])
def test_null_keys_are_found(kind):
    keys = [KEYS[kind]([7, 8]), pa.nulls(2, KEYS[kind]([]).type), KEYS[kind]([9])]
    report = audited(*[(chunk, np.full(len(chunk), 0.5, np.float32)) for chunk in keys])
    assert fields(report) == ["entity key"]
    assert "is null in 2 rows" in report.problems[0].message


# --- rejects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rejected", "share"), [(0, 0.0), (1, 0.1)])
def test_rejects_up_to_their_share_are_no_problem(rejected, share):
    rows = (pa.array(np.arange(10 - rejected)), np.full(10 - rejected, 0.5, np.float32))
    report = audited(rows, rejected=rejected)
    assert (report.problems, report.rejected, report.rejected_share) == ([], rejected, share)


def test_rejects_beyond_their_share_are_found():
    report = audited((pa.array(np.arange(8)), np.full(8, 0.5, np.float32)), rejected=2)
    assert fields(report) == ["rejected rows"]
    (problem,) = report.problems
    assert (problem.value, report.rejected_share) == (2, 0.2)
    assert "are 20.00% of the population's 10" in problem.message
    assert "gates.max_rejected_share" in problem.remedy


def test_where_none_may_be_rejected_one_is_too_many():
    rows = (pa.array(np.arange(9)), np.full(9, 0.5, np.float32))
    assert fields(audited(rows, rejected=1, max_rejected_share=0)) == ["rejected rows"]
    assert audited(rows, max_rejected_share=0).problems == []


# --- scores ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, -0.001, 1.001, -1e30])
def test_a_score_that_is_no_probability_is_found(broken):
    report = audited((KEYS["integer"]([1, 2, 3]), floats(0.5, broken, 0.25)))
    assert fields(report) == ["score"]
    assert report.problems[0].value == "1 rows"
    assert "is not a number from 0 to 1" in report.problems[0].message


def test_zero_and_one_are_probabilities():
    assert audited((KEYS["integer"]([1, 2, 3]), floats(0.0, -0.0, 1.0))).problems == []


def test_scores_that_changed_on_their_way_are_found():
    report = audited((KEYS["integer"]([1, 2]), floats(0.5, 0.9)), written=floats(0.5, 0.1))
    assert fields(report) == ["score"]
    assert "read back differs" in report.problems[0].message


def test_a_shift_beyond_the_limit_is_found():
    rng = np.random.default_rng(0)
    low, high = rng.beta(2, 8, 5000).astype(np.float32), rng.beta(8, 2, 5000).astype(np.float32)
    keys = pa.array(np.arange(5000))
    shifted = audited((keys, high), last_night=histogram_of(low))
    assert fields(shifted) == ["score shift"]
    assert shifted.shift > 0.25
    assert shifted.problems[0].value == round(shifted.shift, 4)
    assert "gates.max_score_shift" in shifted.problems[0].remedy
    assert audited((keys, high), last_night=histogram_of(low), max_shift=100.0).problems == []
    assert audited((keys, low), last_night=histogram_of(low)).shift == 0


def test_every_problem_is_reported_at_once():
    keys = pa.array([1, 1, None], pa.int64())
    limits = {"max_rejected_share": 0.001}
    night = np.zeros(BINS, np.int64)
    night[40] = 1000
    rows = (keys, floats(0.1, math.nan, 0.1))
    report = audited(rows, rows=5, rejected=1, repeated=1, written=floats(0.9), last_night=night, **limits)
    assert fields(report) == ["rows", "entity key", "entity key", "rejected rows", "score", "score", "score shift"]
    assert all(problem.remedy for problem in report.problems)


# --- histograms -----------------------------------------------------------------------------------------------------

SCORES = arrays(np.float32, st.integers(0, 200), elements=st.floats(width=32))


@given(SCORES)
def test_a_histogram_counts_every_probability_once(scores):
    good = [score for score in scores.tolist() if 0 <= score <= 1]
    expected = [0] * BINS
    for score in good:
        expected[min(BINS - 1, int(np.float32(score) * np.float32(BINS)))] += 1
    histogram = histogram_of(scores)
    assert histogram.tolist() == expected
    assert (histogram.dtype, histogram.shape) == (np.int64, (BINS,))


@given(SCORES, st.integers(0, 200))
def test_histograms_of_parts_add_up(scores, cut):
    assert np.array_equal(histogram_of(scores[:cut]) + histogram_of(scores[cut:]), histogram_of(scores))


@given(SCORES)
def test_a_histogram_survives_its_trip_through_text(scores):
    back = histogram_from_text(histogram_to_text(histogram_of(scores)))
    assert back.dtype == np.int64
    assert np.array_equal(back, histogram_of(scores))


def test_bins_are_equally_wide_with_the_last_one_closed():
    edges = histogram_of(floats(0, 0.02, 0.9799, 0.98, 1.0))
    assert {i: int(n) for i, n in enumerate(edges) if n} == {0: 1, 1: 1, 48: 1, 49: 2}


# --- population stability index -------------------------------------------------------------------------------------


def counts(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("expected", "actual", "psi"),
    [
        (counts(50, 50), counts(50, 50), 0.0),
        (counts(5, 5), counts(500, 500), 0.0),  # shares count, not rows
        (counts(50, 50), counts(75, 25), 0.25 * math.log(1.5) - 0.25 * math.log(0.5)),
        (counts(20, 30, 50), counts(50, 30, 20), 2 * 0.3 * math.log(2.5)),
        (counts(100, 0), counts(0, 100), 2 * 0.995 * math.log(200)),  # an empty bin counts as half a row
    ],
)
def test_the_index_of_known_histograms(expected, actual, psi):
    assert population_stability_index(expected, actual) == pytest.approx(psi, abs=1e-12)


HISTOGRAM = arrays(np.int64, BINS, elements=st.integers(0, 10**6))


@given(HISTOGRAM, HISTOGRAM)
def test_the_index_is_finite_symmetric_and_never_negative(one, other):
    index = population_stability_index(one, other)
    assert math.isfinite(index)
    assert index >= 0
    assert index == pytest.approx(population_stability_index(other, one))
    assert population_stability_index(one, one) == 0


# --- tallies --------------------------------------------------------------------------------------------------------


@given(SCORES, st.integers(0, 200))
def test_tallies_of_parts_add_up(scores, cut):
    keys = pa.array([None if i % 7 == 0 else i for i in range(len(scores))], pa.int64())
    whole, parts = tally_of(keys, scores), tally_of(keys[:cut], scores[:cut]) + tally_of(keys[cut:], scores[cut:])
    assert (parts.rows, parts.missing_keys) == (whole.rows, whole.missing_keys)
    assert np.array_equal(parts.histogram, whole.histogram)
    if not np.isnan(scores).any():
        assert (parts.minimum, parts.maximum) == (whole.minimum, whole.maximum)
