"""Gates that can be reached: the figures behind them, on cases that can be counted or drawn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from models.training.evaluation import expected_calibration_error
from onboarding.baseline import best_f1, least_auc, most_calibration_error
from tests.onboarding.tables import customers, made_from, write_csv


def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return outcomes that are drawn from the scores themselves: a calibrated model."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(1, 3, rows)
    return (rng.random(rows) < scores).astype(np.float32), scores


@pytest.mark.parametrize("rows", [200, 1000, 5000])
def test_a_model_as_good_as_the_baseline_passes_its_gates_nearly_always(rows):
    y, scores = drawn(100_000, 0)
    auc, share = roc_auc_score(y, scores), float(y.mean())
    passed = []
    for seed in range(1, 61):
        fresh, ours = drawn(rows, seed)
        least = least_auc(auc, int(fresh.sum()), int(rows - fresh.sum()))
        error = expected_calibration_error(fresh, ours.astype(np.float32))
        passed.append(roc_auc_score(fresh, ours) >= least and error <= most_calibration_error(share, rows))
    assert np.mean(passed) > 0.95


def test_rare_outcomes_that_are_easily_told_are_told(home, tmp_path):
    rare = write_csv(tmp_path / "t.csv", customers(20_000, seed=1, rate=0.005))
    assert made_from(home, rare).baseline.auc > 0.95


def test_with_many_test_rows_the_gates_ask_for_nearly_what_was_reached():
    assert least_auc(0.851, 20_000, 60_000) == 0.84
    assert least_auc(0.851, 20, 60) < 0.76
    assert most_calibration_error(0.3, 80_000) == 0.03


def test_a_baseline_of_nothing_asks_for_nothing():
    assert least_auc(0.5, 100, 100) == 0.5


def test_the_threshold_is_that_of_the_best_f1():
    y, scores = drawn(4000, 3)
    threshold, precision, recall = best_f1(y, scores)
    best = max(f1_score(y, scores >= t) for t in np.linspace(0.02, 0.98, 97))
    assert f1_score(y, scores >= threshold) == pytest.approx(best, abs=0.005)
    assert f1_score(y, scores >= threshold) == pytest.approx(2 * precision * recall / (precision + recall))
