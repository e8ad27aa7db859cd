"""Shifts of the population are found and named, and chance is not taken for one."""

import numpy as np
import pyarrow as pa
import pytest

from models.counting import BinCounter
from models.drift import MOVING, Drift, drift_of, feature_problems, score_problems, shift_index
from models.encoding import encode_arrow
from models.profile import Histograms, profile_in
from models.scoring import Scorer
from tests.backends.nights import customers, with_column
from tests.tiny_model import tiny_contract, tiny_onnx_with_profile

CONTRACT = tiny_contract()
TRAINING = customers(20_000, seed=1)
SCORER = Scorer(tiny_onnx_with_profile(CONTRACT, TRAINING))


def drift(rows: pa.Table) -> Drift:
    """Compare rows with the training set, as a night does."""
    profile, encoded = profile_in(SCORER.metadata), encode_arrow(CONTRACT, rows)
    assert profile is not None
    counts = BinCounter(profile).count(encoded, SCORER.score(encoded))
    return drift_of(CONTRACT, profile, Histograms.from_flat(profile, counts))


def beyond(found: Drift) -> list[str]:
    return [shift.name for shift in found.beyond(0.25)]


def shift_of(found: Drift, name: str):
    return next(shift for shift in found.features if shift.name == name)


@pytest.mark.parametrize("seed", range(2, 12))
@pytest.mark.parametrize("rows", [1000, 20_000])
def test_rows_of_the_same_distribution_do_not_drift(rows, seed):
    """In expectation the index is (bins - 1) * (1/n + 1/m); three times that is beyond chance for ten bins."""
    found = drift(customers(rows, seed=seed))
    noise = 3 * 12 * (1 / rows + 1 / len(TRAINING))
    assert found.features[0].index < noise < MOVING
    assert found.score.index < noise


def test_the_training_set_itself_has_no_shift_at_all():
    found = drift(TRAINING)
    assert {shift.index for shift in (*found.features, found.score)} == {0.0}


def test_a_number_that_has_grown_is_found_and_the_others_are_not():
    rows = customers(5000, seed=3)
    found = drift(with_column(rows, "tenure_months", np.minimum(rows["tenure_months"].to_numpy() * 2, 600)))
    assert beyond(found) == ["tenure_months"]
    assert found.features[0].moved_most.startswith("above 54")
    assert all(shift.index < MOVING for shift in found.features[1:])


def test_a_category_that_has_vanished_is_found():
    rows = customers(5000, seed=3)
    plan = ["plus" if value == "pro" else value for value in rows["plan"].to_pylist()]
    found = drift(with_column(rows, "plan", plan))
    assert beyond(found) == ["plan"]
    assert found.features[0].moved_most.startswith("pro: 2")
    assert found.features[0].moved_most.endswith("-> 0.0%")


def test_a_feature_that_has_gone_missing_is_found():
    found = drift(with_column(customers(5000, seed=3), "age_years", pa.nulls(5000, pa.float64())))
    assert beyond(found) == ["age_years"]
    assert found.features[0].moved_most.startswith("missing: ")
    assert found.features[0].missing == (pytest.approx(0.1, abs=0.01), 1.0)
    assert found.features[0].unseen is None


def test_a_flood_of_new_values_is_found():
    rows = customers(5000, seed=3)
    found = drift(with_column(rows, "channel", ["kiosk" if i % 10 == 0 else "web" for i in range(5000)]))
    assert "channel" in beyond(found)
    assert shift_of(found, "channel").unseen == (0.0, 0.1)
    assert shift_of(found, "plan").unseen == (pytest.approx(0.25, abs=0.02), pytest.approx(0.25, abs=0.02))


def test_scores_are_judged_apart_from_features():
    balance = with_column(customers(5000, seed=3), "balance", np.full(5000, 9000, np.float32))
    found = drift(balance)
    assert found.score.index > 0.25
    (problem,) = score_problems(found, 0.25)
    assert str(problem).startswith("tiny_probability: has moved away from the training set, most in ")
    assert "Allowed is 0.25 (drift.max_score_shift)" in str(problem)
    assert score_problems(found, found.score.index) == []


def test_each_feature_beyond_the_limit_is_a_problem_with_its_value_and_a_remedy_the_worst_first():
    rows = with_column(customers(5000, seed=3), "balance", np.full(5000, 9000, np.float32))
    problems = feature_problems(drift(with_column(rows, "plan", ["plus"] * 2500 + ["pro"] * 2500)), 0.25)
    assert [problem.field for problem in problems] == ["balance", "plan"]
    assert problems[0].value > problems[1].value > 0.25
    assert "Allowed is 0.25 (drift.max_feature_shift). Look for a changed source first" in str(problems[0])


def test_a_verdict_is_one_word():
    shift = shift_of(drift(customers(5000, seed=3)), "plan")
    assert shift.verdict(limit=0.25) == "steady"
    assert shift.verdict(limit=0.0) == "shifted"
    missing = shift_of(drift(with_column(customers(5000), "age_years", pa.nulls(5000, pa.float64()))), "age_years")
    assert missing.verdict(limit=100) == "moving"


# --- the index ------------------------------------------------------------------------------------------------------


def test_the_index_is_what_its_formula_says():
    before, now = np.array([50, 30, 20]), np.array([40, 30, 30])
    by_hand = (0.4 - 0.5) * np.log(0.4 / 0.5) + (0.3 - 0.2) * np.log(0.3 / 0.2)
    assert shift_index(before, now) == pytest.approx(by_hand)


def test_a_bin_that_is_empty_in_both_does_not_count_and_in_one_as_half_a_row():
    before, now, half = np.array([30_000, 0, 0]), np.array([990, 10, 0]), 0.5 / 30_000
    assert shift_index(before, now) == shift_index(before[:2], now[:2])
    assert shift_index(before, now) == pytest.approx((0.01 - half) * np.log(0.01 / half) - 0.01 * np.log(0.99))


def test_no_rows_at_all_are_no_shift():
    assert shift_index(np.zeros(3, np.int64), np.zeros(3, np.int64)) == 0
