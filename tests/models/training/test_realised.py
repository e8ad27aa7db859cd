"""Realised quality: its figures, and when they are a verdict."""

from datetime import date

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.training import plots
from models.training.evaluation import evaluate
from models.training.realised import (
    CALIBRATION,
    RANKING,
    Quality,
    auc_standard_error,
    limits_of,
    quality_of,
    realised_verdict,
    why_not_judged,
)
from tests.backends.published_nights import dated_tiny
from tests.models.training.test_plots import size_of


def drawn(rows: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return outcomes of calibrated scores."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(1, 9, rows).astype(np.float32)
    return (rng.random(rows) < scores).astype(np.float32), scores


def test_the_figures_are_those_of_every_evaluation():
    y, scores = drawn()
    found, same = quality_of(y, scores), evaluate(y, scores, 0.5)
    assert (found.rows, found.positives) == (4000, int(y.sum()))
    assert found.auc == same["auc"]
    assert found.log_loss == same["log_loss"]
    assert found.calibration_error == same["calibration_error"]
    assert found.top_decile_lift == same["top_decile_lift"]
    assert found.base_rate == pytest.approx(y.mean())
    assert found.mean_predicted == pytest.approx(scores.mean(), abs=1e-6)


@pytest.mark.parametrize("y", [[], [0, 0], [1, 1, 1]], ids=["none", "negative", "positive"])
def test_without_both_outcomes_there_is_nothing_to_rank(y):
    found = quality_of(np.array(y, np.float32), np.full(len(y), 0.25, np.float32))
    assert found == Quality(len(y), sum(y), 0.25 if y else 0.0)


def test_the_standard_error_is_the_spread_of_the_auc_over_draws():
    draws = [drawn(1000, seed) for seed in range(300)]
    aucs = [roc_auc_score(y, scores) for y, scores in draws]
    errors = [auc_standard_error(y, scores) for y, scores in draws]
    assert np.mean(errors) == pytest.approx(np.std(aucs), rel=0.1)


def test_the_standard_error_is_that_of_its_definition_ties_too():
    y, scores = drawn(300)
    scores = np.round(scores, 1)
    wins = (scores[y == 1][:, None] > scores[y == 0]) + 0.5 * (scores[y == 1][:, None] == scores[y == 0])
    positives, negatives = wins.mean(axis=1), wins.mean(axis=0)
    expected = np.sqrt(positives.var(ddof=1) / len(positives) + negatives.var(ddof=1) / len(negatives))
    assert auc_standard_error(y, scores) == pytest.approx(expected)


def test_one_positive_has_a_standard_error_too():
    assert auc_standard_error(np.array([0, 0, 1], np.float32), np.array([0.1, 0.3, 0.2], np.float32)) > 0


def test_limits_are_declared_or_follow_from_the_gates():
    gates = {"min_auc": 0.8, "max_calibration_error": 0.04}
    assert limits_of(dated_tiny(gates=gates)) == {RANKING: 0.8, CALIBRATION: 0.08}
    declared = {"min_auc": 0.0, "max_calibration_error": 0.5}
    assert limits_of(dated_tiny(gates=gates, outcomes=declared)) == {RANKING: 0.0, CALIBRATION: 0.5}


LIMITS = {"min_rows": 500, "min_auc": 0.75, "max_calibration_error": 0.05}


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, []),
        ({"auc": 0.75, "calibration_error": 0.05}, []),  # reached, both
        ({"auc": 0.7499}, [RANKING]),
        ({"calibration_error": 0.0501}, [CALIBRATION]),
        ({"auc": 0.5, "calibration_error": 0.9}, [RANKING, CALIBRATION]),
        ({"auc": 0.5, "rows": 499}, []),  # too few to say
        ({"auc": None, "calibration_error": None}, []),
        ({"auc": float("nan")}, [RANKING]),
    ],
)
def test_the_verdict_holds_the_figures_against_their_limits(changes, problems):
    good = {"rows": 500, "positives": 40, "mean_predicted": 0.1, "auc": 0.8, "calibration_error": 0.01}
    quality = Quality(**(good | changes))
    assert [problem.field for problem in realised_verdict(dated_tiny(outcomes=LIMITS), quality)] == problems


def test_a_problem_names_figure_limit_and_remedy():
    quality = Quality(600, 60, 0.25, auc=0.7, calibration_error=0.15)
    ranking, calibration = map(str, realised_verdict(dated_tiny(outcomes=LIMITS), quality))
    assert ranking.startswith("realised_auc: realised ROC-AUC is below 0.75 (value: 0.7). Train again")
    assert "above 0.05 (value: 0.15). Predicted were 25.00% on average, 10.00% came about" in calibration


def test_it_is_said_why_there_is_no_verdict():
    declaration = dated_tiny(outcomes=LIMITS)
    assert "499 matured predictions are fewer than outcomes.min_rows, 500" in why_not_judged(
        declaration, Quality(499, 9, 0.1, auc=0.9)
    )
    assert "the outcome of all 500 matured predictions is the same" in why_not_judged(declaration, Quality(500, 0, 0.1))
    assert why_not_judged(declaration, Quality(500, 9, 0.1, auc=0.9)) == ""


@pytest.mark.parametrize("versions", [1, 6])
def test_the_picture_is_drawn_860_pixels_wide(versions):
    names = [f"version {number}" for number in range(versions)]
    days = {(name, date(2026, 10, 1 + number)): (0.8, 0.01) for number, name in enumerate(names)}
    png = plots.realised_quality({name: drawn(50, 3) for name in names}, days, 0.75)
    assert size_of(png)[0] == 860
