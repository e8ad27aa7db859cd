import numpy as np
import pytest
from sklearn.metrics import log_loss

from models.training.blend import fit_blend


def told(logit):
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


@pytest.fixture
def learners():
    """Two learners who know different halves of the truth, and one who knows nothing."""
    rng = np.random.default_rng(0)
    one, two, nothing = rng.normal(size=(3, 4000))
    y = (rng.random(4000) < told(one + 2 * two)).astype(np.float32)
    return [told(one), told(2 * two), told(nothing)], y


def test_the_blend_is_better_than_each_and_gives_noise_no_weight(learners):
    scores, y = learners
    blend = fit_blend(scores, y)
    assert log_loss(y, blend.mix(scores)) < min(log_loss(y, one) for one in scores)
    assert blend.weights[2] < 0.05
    assert (blend.weights >= 0).all()


def test_on_few_rows_the_weights_stay_near_even(learners):
    scores, y = learners
    few = fit_blend([one[:15] for one in scores], y[:15])
    np.testing.assert_allclose(few.weights, 1 / 3, atol=0.45)


def test_one_learner_alone_is_calibrated(learners):
    scores, y = learners
    blend = fit_blend(scores[1:2], y)
    assert blend.mix(scores[1:2]).dtype == np.float32
    assert blend.mix([np.zeros(2, np.float32)]).min() > 0  # sure as it may be, never infinitely
