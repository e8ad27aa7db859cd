import numpy as np
import pytest

from models.encoding import Encoded
from models.training.calibration import fold_into, platt
from models.training.network import _Parameters, logits, sigmoid, train_network


def plain(rows: Encoded) -> np.ndarray:
    return rows.numbers


def xor(rows: int) -> tuple[Encoded, np.ndarray]:
    x = np.random.default_rng(0).choice([-1, 1], (rows, 2)).astype(np.float32)
    return Encoded(x, np.empty((rows, 0), np.int32)), (x[:, 0] != x[:, 1]).astype(np.float32)


def learn(rows, targets, **changes):
    options = {"hidden": (16, 8), "presentations": 100_000, "seed": 0} | changes
    return train_network(plain, rows, targets, **options)


def test_it_learns_what_no_linear_model_can():
    rows, y = xor(2000)
    network = learn(rows, y)
    assert np.abs(sigmoid(logits(network.layers, plain, rows)) - y).max() < 0.1
    assert network.curve[-1] < 0.05 < network.curve[0]


def test_soft_targets_are_learnt_as_probabilities():
    rows, y = xor(2000)
    network = learn(rows, np.float32(0.2) + np.float32(0.5) * y)
    np.testing.assert_allclose(sigmoid(logits(network.layers, plain, rows)), 0.2 + 0.5 * y, atol=0.02)


def test_the_seed_decides_everything():
    rows, y = xor(500)
    once, again, other = learn(rows, y), learn(rows, y), learn(rows, y, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(once.layers[0], again.layers[0], strict=True))
    assert not np.array_equal(once.layers[0][0], other.layers[0][0])


@pytest.mark.parametrize("hidden", [(5,), (6, 4), (6, 5, 4)])
def test_gradients_are_those_of_finite_differences(hidden):
    rng = np.random.default_rng(0)
    x, targets = rng.random((40, 3)).astype(np.float32), rng.random(40).astype(np.float32)
    parameters = _Parameters([3, *hidden, 1], 0.4, rng)
    parameters.backward(x, targets)
    gradients = [(weights.copy(), bias.copy()) for weights, bias in parameters._gradients]
    for layer, gradient in zip(parameters.layers, gradients, strict=True):
        for values, expected in zip(layer, gradient, strict=True):
            before = values.flat[0]
            losses = []
            for step in (1e-2, -1e-2):
                values.flat[0] = before + step
                losses.append(parameters.backward(x, targets))
            values.flat[0] = before
            assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(float(expected.flat[0]), abs=2e-3)


def test_extreme_logits_do_not_overflow():
    np.testing.assert_allclose(sigmoid(np.array([-200, 0, 200], np.float32)), [0, 0.5, 1], atol=1e-30)


def test_calibration_straightens_bent_logits_and_leaves_straight_ones():
    rng = np.random.default_rng(0)
    true = rng.normal(-1, 1.5, 20_000).astype(np.float32)
    y = (rng.random(20_000) < sigmoid(true)).astype(np.float32)
    slope, intercept = platt(2 * true + 1, y)
    assert slope == pytest.approx(0.5, abs=0.03)
    assert intercept == pytest.approx(-0.5, abs=0.06)
    assert platt(true[:300], y[:300]) == (1.0, 0.0)


def test_few_rows_hardly_move_the_calibration():
    rng = np.random.default_rng(1)
    true = rng.normal(0, 1, 30).astype(np.float32)
    y = (rng.random(30) < sigmoid(true)).astype(np.float32)
    slope, intercept = platt(true * 4, y)  # four times too sure
    assert 0.3 < slope < 1
    assert abs(intercept) < 0.5


def test_calibration_never_turns_the_ranking_over_nor_explodes():
    y = np.array([0] * 50 + [1] * 50, np.float32)
    assert platt(-3 * (y - np.float32(0.5)), y) == (1.0, 0.0)
    slope, _ = platt(y - np.float32(0.5), y)  # separated perfectly
    assert 1 < slope < 5


def test_calibration_is_folded_into_the_last_layer():
    rows, y = xor(100)
    layers = learn(rows, y, presentations=1000).layers
    folded = logits(fold_into(layers, 1.5, -0.25), plain, rows)
    np.testing.assert_allclose(folded, 1.5 * logits(layers, plain, rows) - 0.25, atol=1e-5)


def test_dropout_keeps_a_network_from_learning_noise_by_heart():
    rng = np.random.default_rng(0)
    rows = Encoded(rng.normal(size=(200, 10)).astype(np.float32), np.empty((200, 0), np.int32))
    y = (rng.random(200) < 0.5).astype(np.float32)
    by_heart, dropped = (learn(rows, y, hidden=(32, 8), dropout=dropout).curve[-1] for dropout in (0.0, 0.5))
    assert dropped > by_heart + 0.1
