"""Platt scaling of the network's logits on held-out rows, folded into its last layer.

Platt, "Probabilistic Outputs for Support Vector Machines" (1999).
"""

import numpy as np
import numpy.typing as npt

from models.training.graph import Layer
from models.training.network import sigmoid
from models.training.split import Labels

PARAMETERS = 2  # slope and intercept
DOUBT = np.array([0.25, 0.25])  # standard deviations of slope and intercept about 1 and 0, before any row is seen

Reals = npt.NDArray[np.float64]


def platt(logit: npt.NDArray[np.float32], y: Labels) -> tuple[float, float]:
    """Return slope and intercept that fit the logits, float32 [rows], to the outcomes `y`; (1, 0) leaves them alone.

    They are left alone unless the log-likelihood of the rows rises by more than one for each parameter (Akaike's
    criterion). On few rows a fit follows noise: the network's logits are believed to be nearly right (`DOUBT`) until
    many rows say otherwise. A slope that is not positive would turn the ranking over.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    exact = logit.astype(np.float64)

    def loss(at: Reals) -> tuple[float, Reals]:
        away = (at - (1, 0)) / DOUBT
        scaled = at[0] * exact + at[1]
        wrong = sigmoid(scaled) - y
        gradient = np.array([wrong @ exact, wrong.sum()]) + away / DOUBT
        return float(away @ away) / 2 - _log_likelihood(scaled, y), gradient

    slope, intercept = map(float, minimize(loss, [1.0, 0.0], jac=True, method="BFGS", options={"gtol": 1e-6}).x)
    gain = _log_likelihood(slope * exact + intercept, y) - _log_likelihood(exact, y)
    return (slope, intercept) if slope > 0 and gain > PARAMETERS else (1.0, 0.0)


def fold_into(layers: list[Layer], slope: float, intercept: float) -> list[Layer]:
    """Return the layers with `slope * logit + intercept` as their output."""
    weights, bias = layers[-1]
    scaled = (weights * np.float32(slope), bias * np.float32(slope) + np.float32(intercept))
    return [*layers[:-1], scaled]


def _log_likelihood(logit: Reals, y: Labels) -> float:
    return float((y * logit - np.logaddexp(0, logit)).sum())
