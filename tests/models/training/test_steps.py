import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from models.training.bins import edges
from models.training.steps import sharp_steps


@pytest.fixture(scope="module")
def columns():
    """A number with a sharp step at 61.7, one with a slope, one that is noise, one with holes and a step at 0.2."""
    rng = np.random.default_rng(0)
    age, slope, noise, load = rng.uniform(18, 90, 6000), rng.normal(size=6000), rng.normal(size=6000), rng.random(6000)
    effect = 2.0 * (age > 61.7) + slope + 1.5 * (load < 0.2) - 1
    y = rng.random(6000) < 1 / (1 + np.exp(-effect))
    load[rng.random(6000) < 0.2] = np.nan
    numbers = np.stack([age, slope, noise, load], axis=1).astype(np.float32)
    trees = [HistGradientBoostingClassifier(max_iter=30, max_leaf_nodes=4, random_state=seed) for seed in range(2)]
    return numbers, [one.fit(numbers[seed::2], y[seed::2]) for seed, one in enumerate(trees)]


def test_the_sharpest_steps_are_found_where_they_are(columns):
    numbers, trees = columns
    steps = sharp_steps(trees, numbers)
    assert steps[0][:2] == pytest.approx([61.7, 61.7], abs=0.7)
    assert steps[3][:2] == pytest.approx([0.2, 0.2], abs=0.02)
    assert not len(steps[2])


def test_both_sides_of_a_step_become_edges_and_there_are_no_more_of_them(columns):
    numbers, trees = columns
    steps = sharp_steps(trees, numbers)
    plain, with_steps = edges(numbers[:, 0], 12), edges(numbers[:, 0], 12, steps[0])
    assert len(with_steps) <= len(plain) + 1
    near = with_steps[np.abs(with_steps - 61.7) < 0.8]
    assert len(near) >= 2
    assert set(with_steps) <= set(numbers[:, 0])


def test_trees_that_never_split_have_no_steps():
    numbers = np.zeros((100, 2), np.float32)
    trees = HistGradientBoostingClassifier(max_iter=3).fit(numbers, np.arange(100) % 2)
    assert [len(steps) for steps in sharp_steps([trees], numbers)] == [0, 0]


def test_steps_are_those_of_their_number_whatever_categories_stand_beside_it():
    rng = np.random.default_rng(1)
    table = np.column_stack([rng.random((4000, 3)), rng.integers(0, 4, (4000, 2))]).astype(np.float32)
    y = rng.random(4000) < np.where(table[:, 0] > 0.3, 0.7, 0.2) + 0.05 * table[:, 3]
    trees = HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=4, categorical_features=[3, 4]).fit(table, y)
    steps = sharp_steps([trees], table[:, :3])
    assert steps[0][:2] == pytest.approx([0.3, 0.3], abs=0.02)
    assert not len(steps[1])
    assert not len(steps[2])
