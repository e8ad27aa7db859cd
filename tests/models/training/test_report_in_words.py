"""The report in plain words: each figure is right, and what is wrong with a model is said."""

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from models.encoding import encode_rows
from models.scoring import Scorer
from models.training.evaluation import evaluate
from models.training.report_in_words import (
    IMPORTANCE_ROWS,
    alarms_of,
    importance_of,
    report_in_words,
    top_of,
)
from tests.lives import TINY, merged
from tests.tiny_model import tiny_contract, tiny_onnx, tiny_rows

ROWS = 3000


@pytest.fixture(scope="module")
def scored():
    """Outcomes that are drawn from the scores: the model ranks, and is calibrated."""
    rng = np.random.default_rng(0)
    scores = rng.beta(1, 3, ROWS).astype(np.float32)
    return (rng.random(ROWS) < scores).astype(np.float32), scores


@pytest.fixture(scope="module")
def declaration():
    from models.declaration import Declaration

    return Declaration.model_validate(merged(TINY, {"examples": {"positive": "Yes"}, "gates": {"min_auc": 0.6}}))


def words_of(declaration, y, scores, importance=None, trees=None) -> str:
    metrics = {
        "network": evaluate(y, scores, 0.5),
        "boosted_trees": evaluate(y, scores if trees is None else trees, 0.5),
    }
    return "\n".join(report_in_words(declaration, tiny_contract(), y, scores, metrics, importance or {"plan": 0.1}))


def test_the_highest_scores_of_a_case_small_enough_to_count():
    y = np.array([1, 0] + [0] * 15 + [1, 1, 1], np.float32)
    scores = np.linspace(1, 0, 20).astype(np.float32)
    top = top_of(y, scores)
    assert (top.rows, top.positives, top.by_chance) == (2, 1, pytest.approx(0.4))


def test_the_top_is_a_hundred_rows_where_there_are_a_thousand(scored):
    y, scores = scored
    top = top_of(y, scores)
    best = y[np.argsort(-scores, kind="stable")][:100]
    assert (top.rows, top.positives, top.by_chance) == (100, best.sum(), pytest.approx(100 * y.mean()))


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.9])
def test_alarms_are_scikit_learns_recall_and_precision(scored, threshold):
    y, scores = scored
    alarms, raised = alarms_of(y, scores, threshold), scores >= np.float32(threshold)
    assert alarms.alarms == raised.sum()
    assert alarms.found == recall_score(y, raised)
    assert alarms.right == precision_score(y, raised)


def test_every_figure_of_the_words_is_counted(scored, declaration):
    y, scores = scored
    words, raised = words_of(declaration, y, scores), scores >= 0.5
    top = int(y[np.argsort(-scores, kind="stable")][:100].sum())
    assert f"Of the 100 test rows with the highest scores, {top} have {TINY['examples']['label']} = Yes" in words
    assert f"of 100 taken at random, {100 * y.mean():.0f} would" in words
    assert f"finds {recall_score(y, raised):.0%} of them and is right in {precision_score(y, raised):.0%}" in words
    auc = f"{roc_auc_score(y, scores):.3f}"
    assert f"as well as boosted trees (AUC {auc} against {auc})" in words
    assert f"within {100 * evaluate(y, scores, 0.5)['calibration_error']:.1f} percentage points" in words
    assert "Warning" not in words


@pytest.mark.parametrize(("noise", "said"), [(3.0, "better than"), (0.0, "as well as")])
def test_it_is_said_how_it_ranks_beside_trees(scored, declaration, noise, said):
    y, scores = scored
    trees = scores + noise * np.random.default_rng(1).random(ROWS).astype(np.float32)
    assert f"It ranks {said} boosted trees" in words_of(declaration, y, scores, trees=np.clip(trees / 4, 0, 1))
    if noise:
        assert "It ranks worse than" in words_of(declaration, y, np.clip(trees / 4, 0, 1), trees=scores)


@pytest.mark.parametrize(
    ("rows", "scores_of", "said"),
    [
        (400, lambda y, s: s, "only 1"),
        (ROWS, lambda y, s: 1 - s, "a gate does not hold"),
        (ROWS, lambda y, s: np.clip(s * 0.1, 0, 1), "a gate does not hold"),  # not calibrated
        (ROWS, lambda y, s: np.clip(y * 0.9 + s * 0.05, 0, 1), "Is plan known when the prediction is made?"),
        (ROWS, lambda y, s: s * 0.4, "it raises no alarm"),
    ],
)
def test_what_is_wrong_is_said(scored, declaration, rows, scores_of, said):
    y, scores = scored
    y = y[:rows] if rows == ROWS else np.where(np.arange(rows) % 25 == 0, 1, 0).astype(np.float32)
    assert said in words_of(declaration, y, scores_of(y, scores[:rows]).astype(np.float32))


def test_what_matters_is_what_the_model_looks_at():
    contract = tiny_contract()
    scorer, rows = Scorer(tiny_onnx(contract)), encode_rows(contract, tiny_rows(contract, 6000))
    rng = np.random.default_rng(3)
    y = (rng.random(6000) < scorer.score(rows)).astype(np.float32)
    importance = importance_of(scorer, rows, y)
    assert set(importance) == set(contract.features)
    assert list(importance.values()) == sorted(importance.values(), reverse=True)
    assert importance == importance_of(scorer, rows, y)  # seeded
    assert max(importance.values()) > 0.02


def test_a_feature_that_the_model_does_not_look_at_does_not_matter():
    contract = tiny_contract()
    scorer = Scorer(tiny_onnx(contract))
    rows = encode_rows(contract, tiny_rows(contract, 2000))
    rows.numbers[:, 0] = 5  # shuffling what is the same everywhere changes nothing
    y = (np.random.default_rng(3).random(2000) < scorer.score(rows)).astype(np.float32)
    assert importance_of(scorer, rows, y)["tenure_months"] == pytest.approx(0, abs=1e-12)


def test_rare_outcomes_are_all_looked_at():
    from models.training.report_in_words import _some_of_each

    y = np.zeros(100_000, np.float32)
    y[:50] = 1
    picked = _some_of_each(y, np.random.default_rng(0))
    assert (len(picked), y[picked].sum()) == (IMPORTANCE_ROWS, 50)
