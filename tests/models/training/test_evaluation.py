import math

import numpy as np
import pytest

from models.declaration import Gates, Int8Limits
from models.scoring import Scorer
from models.training.evaluation import (
    candidate_verdict,
    compare_int8,
    evaluate,
    expected_calibration_error,
    int8_verdict,
    recall_at,
    rows_per_second,
    speedup,
)

FINE = {
    "auc_drop": 0.001,
    "log_loss_rise": -0.001,
    "mean_change": 0.002,
    "p99_change": 0.01,
    "calibration_error_rise": 0.0,
    "decision_flips": 0.001,
}


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    scores = rng.beta(1, 3, 5000).astype(np.float32)
    return (rng.random(5000) < scores).astype(np.float32), scores


def test_metrics_of_a_case_small_enough_to_count():
    y, scores = np.array([0, 1, 0, 1], np.float32), np.array([0.1, 0.4, 0.6, 0.8], np.float32)
    metrics = evaluate(y, scores, 0.4)
    assert metrics["auc"] == 0.75
    assert metrics["pr_auc"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["log_loss"] == pytest.approx(-(math.log(0.9) + math.log(0.4) * 2 + math.log(0.8)) / 4, rel=1e-6)
    assert metrics["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.04) / 4)
    assert metrics["positive_rate"] == 0.75  # float32 0.4 reaches the threshold 0.4
    assert metrics["top_decile_lift"] == 2


@pytest.mark.parametrize(("rate", "share"), [(0, 0.25), (0.1, 0.25), (0.34, 0.5), (0.5, 0.5), (1, 1)])
def test_recall_at_a_rate_of_false_positives_is_that_of_the_best_threshold(rate: float, share: float):
    y = np.array([1, 0, 1, 0, 1, 0, 1], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.5, 0.5, 0.5, 0.1], np.float32)  # three that cannot be told apart
    assert recall_at(y, scores, rate) == share


def test_calibration_error_is_small_for_true_probabilities_and_the_gap_for_shifted_ones(scored):
    y, scores = scored
    assert expected_calibration_error(y, scores) < 0.03
    assert expected_calibration_error(np.zeros(100), np.full(100, 0.25, np.float32)) == pytest.approx(0.25)


def test_int8_that_changes_nothing_differs_by_nothing(scored):
    y, scores = scored
    assert set(compare_int8(y, scores, scores, 0.5).values()) == {0.0}


def test_int8_changes_are_counted(scored):
    y, scores = scored
    changes = compare_int8(y, scores, np.float32(1) - scores, 0.5)
    assert changes["auc_drop"] > 0.3
    assert changes["log_loss_rise"] > 0
    assert changes["decision_flips"] == pytest.approx(1, abs=0.01)
    assert changes["mean_change"] == pytest.approx(np.abs(1 - 2 * scores).mean(), rel=1e-4)


def test_good_int8_has_no_problem():
    assert int8_verdict(Int8Limits(), FINE, speedup=1.2, quantized=2, size_ratio=0.4) == []


@pytest.mark.parametrize("name", FINE)
@pytest.mark.parametrize("value", [0.5, math.nan])
def test_each_limit_of_int8_counts(name, value):
    (problem,) = int8_verdict(Int8Limits(), FINE | {name: value}, speedup=1.2, quantized=2, size_ratio=0.4)
    assert problem.field == name
    assert f"gates.int8.max_{name}" in problem.remedy


def test_int8_must_be_faster_real_and_smaller():
    problems = int8_verdict(Int8Limits(), FINE, speedup=0.9, quantized=0, size_ratio=1.1)
    assert [problem.field for problem in problems] == ["speedup", "quantized_nodes", "size_ratio"]


@pytest.mark.parametrize(
    ("auc", "error", "fields"),
    [
        (0.8, 0.01, []),
        (0.7, 0.05, []),  # at the limits
        (0.6, 0.01, ["min_auc"]),
        (0.6, 0.09, ["min_auc", "max_calibration_error"]),
        (math.nan, math.nan, ["min_auc", "max_calibration_error"]),
    ],
)
def test_candidates_are_judged_by_every_gate(auc, error, fields):
    found = candidate_verdict(Gates(), {"auc": auc, "calibration_error": error})
    assert [problem.field for problem in found] == fields


def test_throughput_is_measured(trained):
    scorer, rows = Scorer(trained.onnx), trained.test_rows
    assert rows_per_second(scorer, rows, 0.0) > 0
    assert speedup(scorer, scorer, rows) > 0
