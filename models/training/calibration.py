"""Platt scaling of the network's logits on held-out rows, folded into its last layer.

Platt, "Probabilistic Outputs for Support Vector Machines" (1999).
"""

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from models.training.graph import Layer
from models.training.split import Labels

PARAMETERS = 2  # slope and intercept


def platt(logit: npt.NDArray[np.float32], y: Labels) -> tuple[float, float]:
    """Return slope and intercept that fit the logits, float32 [rows], to the outcomes `y`; (1, 0) leaves them alone.

    They are left alone unless the log-likelihood of the rows rises by more than one for each parameter (Akaike's
    criterion): on few rows a fit follows noise. A slope that is not positive would turn the ranking over. The targets
    are Platt's, a little inside 0 and 1, so that a few rows that are separated perfectly do not drive the slope away.
    """
    exact = logit.astype(np.float64)
    positives, negatives = float(y.sum()), float(len(y) - y.sum())
    target = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    twice, outcomes = np.tile(exact, 2)[:, None], np.repeat([1, 0], len(y))
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    model.fit(twice, outcomes, sample_weight=np.concatenate([target, 1 - target]))
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    gain = _log_likelihood(slope * exact + intercept, y) - _log_likelihood(exact, y)
    return (slope, intercept) if slope > 0 and gain > PARAMETERS else (1.0, 0.0)


def fold_into(layers: list[Layer], slope: float, intercept: float) -> list[Layer]:
    """Return the layers with `slope * logit + intercept` as their output."""
    weights, bias = layers[-1]
    scaled = (weights * np.float32(slope), bias * np.float32(slope) + np.float32(intercept))
    return [*layers[:-1], scaled]


def _log_likelihood(logit: npt.NDArray[np.float64], y: Labels) -> float:
    return float((y * logit - np.logaddexp(0, logit)).sum())
