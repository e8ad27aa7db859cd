"""The threshold that costs least."""

import numpy as np
import pytest

from models.declaration import DecisionCosts
from models.training.costs import cost, cost_saved, least_costly_threshold

COSTS = DecisionCosts(missed=150, false_alarm=4)


def drawn(rows: int, seed: int = 0, power: float = 1.0):
    """Return rare outcomes and their probabilities, which `power` distorts."""
    rng = np.random.default_rng(seed)
    chances = rng.beta(0.05, 8, rows)
    return (rng.random(rows) < chances).astype(np.float32), (chances**power).astype(np.float32)


def by_hand(y, scores, threshold, costs) -> float:
    prices = [
        costs.missed * (not stopped) if positive else costs.false_alarm * stopped
        for positive, stopped in zip(y == 1, scores >= np.float32(threshold), strict=True)
    ]
    return sum(prices) / len(prices)


def test_the_price_is_of_missed_positives_and_of_false_alarms():
    y, scores = drawn(500)
    for threshold in (0.001, 0.02, 0.5):
        assert cost(y, scores, threshold, COSTS) == pytest.approx(by_hand(y, scores, threshold, COSTS))
    assert cost_saved(y, scores, 1.0, COSTS) == pytest.approx(0, abs=1e-6)  # nothing stopped, nothing saved
    assert cost_saved(y, y, 0.5, COSTS) == 1  # and all of it by who knows


def test_with_right_probabilities_it_is_near_elkans():
    found = [least_costly_threshold(*drawn(20_000, seed), COSTS) for seed in range(8)]
    assert np.float32(4 / 154) in found
    assert np.exp(np.mean(np.log(found))) == pytest.approx(4 / 154, rel=0.3)


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_with_wrong_probabilities_it_is_what_costs_least_on_the_rows(power):
    y, scores = drawn(200_000, power=power)
    found = least_costly_threshold(y, scores, COSTS)
    elkan = 4 / 154
    assert cost(y, scores, found, COSTS) < cost(y, scores, elkan, COSTS)
    assert cost(y, scores, found, COSTS) < 1.01 * cost(y, scores, elkan**power, COSTS)  # what is right for these


def test_it_is_near_the_least_price_of_all_thresholds():
    y, scores = drawn(3000, seed=3, power=2)
    least = min(cost(y, scores, t, COSTS) for t in np.unique(scores))
    chance = np.sqrt(float(y.sum())) * COSTS.missed / len(y)
    assert least <= cost(y, scores, least_costly_threshold(y, scores, COSTS), COSTS) <= least + chance / 2


@pytest.mark.parametrize(
    ("y", "scores"),
    [
        ([0, 1], [0.1, 0.9]),
        ([0, 1], [0.5, 0.5]),
        ([1, 0], [0.0, 1.0]),
        ([1, 0, 1], [0.0, 0.0, 1.0]),
        ([0, 1], [0.3, np.nextafter(np.float32(0.3), np.float32(1))]),  # nothing lies between
    ],
)
def test_it_lies_between_0_and_1_whatever_the_scores(y, scores):
    found = least_costly_threshold(np.array(y, np.float32), np.array(scores, np.float32), COSTS)
    assert 0 <= found <= 1
    assert np.isfinite(found)


def test_perfect_scores_are_parted_exactly():
    y, low = np.repeat(np.array([0, 1], np.float32), 50), np.float32(0.3)
    scores = np.where(y == 1, np.nextafter(low, np.float32(1)), low)
    found = least_costly_threshold(y, scores, DecisionCosts(missed=1, false_alarm=1))
    assert ((scores >= np.float32(found)) == (y == 1)).all()
