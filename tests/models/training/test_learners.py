import numpy as np
import pytest

from models.contract import CategoryFeature, NumberFeature
from models.encoding import Encoded
from models.training import learners
from models.training.learners import Fold, Part, Schooling, fit_line, fit_network, fit_straight_line, with_rates
from models.training.trees import SHALLOW, Growth, fit_trees

FIRST = Schooling(4, 0, 0.1, 0.01)


@pytest.fixture(scope="module")
def fold(contract_of):
    """A tenth are positive, those with a large x mostly; a category of 40 values says nothing."""
    rng = np.random.default_rng(0)
    numbers, codes = rng.normal(size=(6000, 2)).astype(np.float32), rng.integers(0, 40, (6000, 1)).astype(np.int32)
    y = (rng.random(6000) < 1 / (1 + np.exp(3 - 1.5 * numbers[:, 0]))).astype(np.float32)
    place = CategoryFeature(kind="category", values=tuple(f"place {i}" for i in range(40)))
    number = NumberFeature(kind="number", missing=True)
    rows, contract = Encoded(numbers, codes), contract_of({"x": number, "z": number, "place": place})
    return Fold.of(contract, Part(rows[:4500], y[:4500]), Part(rows[4500:], y[4500:]), 0)


LEARNERS = {
    "shallow trees": lambda fold: fit_trees(fold, SHALLOW, 60, 0),
    "deep trees": lambda fold: fit_trees(fold, Growth(15, 0.7), 60, 0),
    "line": lambda fold: fit_line(fold, 0.1, 0),
    "straight line": lambda fold: fit_straight_line(fold, 1.0, 0),
    "network": lambda fold: fit_network(fold, FIRST, 60_000, 0),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_each_learner_ranks_rows_that_it_has_not_seen_and_is_right_on_average(fold, name):
    rows, y = fold.outside
    scores = LEARNERS[name](fold)(rows)
    assert scores.dtype == np.float32
    assert scores[y == 1].mean() > scores[y == 0].mean() + 0.1
    assert scores.mean() == pytest.approx(y.mean(), abs=0.03)


@pytest.mark.parametrize("name", ["line", "straight line", "network"])
def test_of_too_many_rows_the_rarer_outcome_stays_and_scores_stay_right(fold, name, monkeypatch):
    monkeypatch.setattr(learners, "MOST_ROWS", 1000 if name == "line" else 500)
    (kept, y), risen = learners.drawn(fold.inside, 1000, 0)
    assert len(kept) == 1000
    assert y.sum() == min(fold.inside.y.sum(), 500)
    assert risen > 1
    assert LEARNERS[name](fold)(fold.outside.rows).mean() == pytest.approx(fold.outside.y.mean(), abs=0.03)


def test_few_rows_are_all_learnt_from(fold):
    part, risen = learners.drawn(fold.inside, 4500, 0)
    assert part is fold.inside
    assert risen == 0


def test_a_wide_line_is_fitted_too(fold, monkeypatch):
    narrow = fit_line(fold, 0.1, 0)(fold.outside.rows)
    monkeypatch.setattr(learners, "MOST_COLUMNS", 10)
    np.testing.assert_allclose(fit_line(fold, 0.1, 0)(fold.outside.rows), narrow, atol=0.01)


def test_the_straight_line_has_one_weight_for_each_number(fold):
    line = fit_straight_line(fold, 1.0, 0)
    one_hot = 40
    assert len(line.layers[0][0]) == 3 + one_hot  # two numbers and a rate
    x = fold.outside.rows.numbers.copy()
    x[:, 0] = np.linspace(*np.quantile(fold.inside.rows.numbers[:, 0], [0.1, 0.9]), len(x))
    x[:, 1:] = 0
    scores = line(Encoded(x, np.zeros((len(x), 1), np.int32))).astype(np.float64)
    assert np.diff(np.log(scores / (1 - scores)), 2) == pytest.approx(0, abs=1e-3)
    assert scores[-1] > scores[0] + 0.1


def test_rates_stand_behind_the_contracts_own_numbers(contract_of):
    contract = contract_of({"x": NumberFeature(kind="number")})
    assert list(with_rates(contract, 2).numbers) == ["x", "rate 0", "rate 1"]
    assert with_rates(contract, 0) is contract
