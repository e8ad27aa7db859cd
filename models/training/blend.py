"""Several learners' scores as one: a weighted sum of their log-odds, with weights that fit scores of rows unseen.

Stacking: Wolpert, "Stacked Generalization" (1992), with weights that are not negative, after Breiman (1996).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.scoring import Scores
from models.training.network import sigmoid
from models.training.split import Labels

CAUTION = 5.0  # nats that a weight one away from its even share costs: on few rows the weights stay near even
SMALLEST = 1e-6  # a probability nearer to 0 or 1 counts as this near

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Blend:
    """`sigmoid(log_odds @ weights + intercept)`."""

    weights: Reals  # [learners]
    intercept: float

    def mix(self, scores: list[Scores]) -> Scores:
        """Return one probability of the learners', float32 [rows] each."""
        logit = log_odds(scores) @ self.weights + self.intercept
        mixed: Scores = sigmoid(logit).astype(np.float32)
        return mixed


def fit_blend(scores: list[Scores], y: Labels) -> Blend:
    """Return the weights with the least log-loss of out-of-fold scores, float32 [rows] of each learner."""
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    logits, learners = log_odds(scores), len(scores)
    even = np.full(learners, 1 / learners)

    def loss(at: Reals) -> tuple[float, Reals]:
        logit, away = logits @ at[:-1] + at[-1], at[:-1] - even
        wrong = sigmoid(logit) - y
        value = float((np.logaddexp(0, logit) - y * logit).sum() + CAUTION * (away @ away))
        return value, np.append(logits.T @ wrong + 2 * CAUTION * away, wrong.sum())

    bounds = [(0, None)] * learners + [(None, None)]
    found = minimize(loss, np.append(even, 0), jac=True, method="L-BFGS-B", bounds=bounds).x
    return Blend(found[:-1], float(found[-1]))


def log_odds(scores: list[Scores]) -> Reals:
    """Return float64 [rows, learners]."""
    probabilities = np.clip(np.stack(scores, axis=1).astype(np.float64), SMALLEST, 1 - SMALLEST)
    return np.log(probabilities) - np.log1p(-probabilities)
