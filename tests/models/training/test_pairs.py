from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.sparse import csr_array
from sklearn.metrics import roc_auc_score

from models.contract import CategoryFeature, NumberFeature
from models.encoding import Encoded
from models.training import pairs
from models.training.blend import log_odds
from models.training.learners import Fold, Part
from models.training.pairs import FACTORS, Misfit, fit_pairs

SHOPS, PRODUCTS, KINDS = 80, 40, 3
ROWS, LEARNT = 9000, 7000


@pytest.fixture(scope="module")
def contract(contract_of):
    sizes = {"shop": SHOPS, "product": PRODUCTS, "kind": KINDS}
    named = {name: CategoryFeature(kind="category", values=tuple(map(str, range(n)))) for name, n in sizes.items()}
    return contract_of({"x": NumberFeature(kind="number"), **named})


@pytest.fixture(scope="module")
def fold(contract):
    """What a shop means depends on the product, two rows of each pair; by itself neither says anything."""
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, n, ROWS) for n in (SHOPS, PRODUCTS, KINDS)], axis=1).astype(np.int32)
    codes[:LEARNT][codes[:LEARNT, 0] == 7, 0] = 8  # shop 7 comes later
    x = rng.normal(size=(ROWS, 1)).astype(np.float32)
    effect = rng.normal(0, 1.5, SHOPS)[codes[:, 0]] * rng.normal(0, 1, PRODUCTS)[codes[:, 1]] + x[:, 0] - 1
    y = (rng.random(ROWS) < 1 / (1 + np.exp(-effect))).astype(np.float32)
    rows = Encoded(x, codes)
    return Fold.of(contract, Part(rows[:LEARNT], y[:LEARNT]), Part(rows[LEARNT:], y[LEARNT:]), 0)


@pytest.fixture(scope="module")
def learnt(contract, fold):
    return fit_pairs(fold, 5.0, contract.code_counts, 0)


def test_what_two_values_mean_together_is_learnt_from_the_rows_of_each(fold, learnt):
    rows, y = fold.outside
    scores = learnt(rows)
    assert scores.dtype == np.float32
    assert roc_auc_score(y, scores) > roc_auc_score(y, learnt.line(rows)) + 0.08
    assert scores.mean() == pytest.approx(y.mean(), abs=0.03)


def test_the_log_odds_are_the_lines_the_effects_and_every_pairs_product(contract, fold, learnt):
    rows = fold.outside.rows[np.arange(20)]
    starts = np.cumsum([0, *contract.code_counts[:-1]])
    expected = log_odds([learnt.line(rows)])[:, 0] + learnt.intercept
    for i, places in enumerate(rows.categories + starts):
        expected[i] += learnt.effects[places].sum()
        expected[i] += sum(learnt.factors[a] @ learnt.factors[b] for a, b in combinations(places, 2))
    np.testing.assert_allclose(log_odds([learnt(rows)])[:, 0], expected, atol=1e-4)


def test_the_gradient_is_that_of_the_loss():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 3, 30), rng.integers(3, 7, 30), rng.integers(7, 9, 30)], axis=1)
    values = csr_array(np.eye(9)[codes].sum(1))
    misfit = Misfit(values, rng.normal(size=30), rng.integers(0, 2, 30).astype(np.float32), 2.0)
    at = rng.normal(size=1 + 9 + 9 * FACTORS)
    assert check_grad(lambda x: misfit(x)[0], lambda x: misfit(x)[1], at) < 1e-3


def test_nothing_is_made_up_about_a_value_that_never_came(learnt):
    assert not learnt.factors[7].any()
    assert learnt.effects[7] == 0
    assert learnt.factors[8].any()


def test_of_many_rows_some_are_learnt_from_with_the_intercept_put_right(contract, fold, monkeypatch):
    monkeypatch.setattr(pairs, "MOST_ROWS", 2000)
    rows, y = fold.outside
    assert fit_pairs(fold, 20.0, contract.code_counts, 0)(rows).mean() == pytest.approx(y.mean(), abs=0.04)


def test_a_strong_penalty_leaves_no_pairs(contract, fold):
    assert np.abs(fit_pairs(fold, 1e6, contract.code_counts, 0).factors).max() < 1e-3
