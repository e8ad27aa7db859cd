"""Where a number's range is cut for the piecewise-linear encoding. How the pieces are computed is in `graph`.

Piecewise-linear encoding: Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning" (2022).
"""

import numpy as np
import numpy.typing as npt

from models.encoding import Numbers

Reals = npt.NDArray[np.float64]
PIECES = 336  # of all numbers together, where the declaration does not say how many each has
FEWEST, MOST = 8, 48  # of one number then
NARROWEST = 2.0**-16  # piece, by its distance from the median: below, float32 hardly tells its two ends apart
NO_STEPS = np.empty(0)
STEEPEST = 2.0**60  # piece, by the reach of all of them: above, float32 overflows


def edges(column: Numbers, bins: int, steps: Reals = NO_STEPS) -> Numbers:
    """Return the ascending, distinct edges for float32 [rows] of training values; NaN does not count.

    Few distinct values are all edges. Otherwise every value that at least 1/bins of the rows hold is an edge (quantiles
    alone collapse on zero-inflated columns), with quantiles of the other rows, at least bins/2, and both extremes.
    `steps` are pairs of places with a sharp step between them, sharpest first: the values on either side become edges,
    of a quarter of the bins at most. Every edge is a value that occurs. A column without two distinct values has fewer
    than two edges: no piece.
    """
    present = column[~np.isnan(column)]
    distinct, counts = np.unique(present, return_counts=True)
    if len(distinct) <= bins + 1:
        return _apart(distinct, median(column))
    heavy = distinct[counts * bins >= len(present)]
    light = present[~np.isin(present, heavy)]
    given = np.union1d(np.union1d(heavy, distinct[[0, -1]]), _around(distinct, steps[: bins // 4 // 2 * 2]))
    quantiles = max(bins + 1 - len(given), bins // 2)
    inner = np.quantile(light, np.arange(1, quantiles + 1) / (quantiles + 1), method="nearest")
    return _apart(np.union1d(given, inner).astype(np.float32), median(column))


def _around(distinct: Numbers, steps: Reals) -> Numbers:
    """Return the values just below the first and just above the second place of each pair."""
    below = np.searchsorted(distinct, steps[::2], "right") - 1
    above = np.searchsorted(distinct, steps[1::2], "right")
    around: Numbers = distinct[np.clip(np.concatenate([below, above]), 0, len(distinct) - 1)]
    return around


def bins_by_need(numbers: Numbers) -> int:
    """Return how many pieces each number is cut into where nothing is declared; float32 [rows, numbers].

    Few numbers get many, so that none of their steps is missed, and many get few, of which each has rows enough.
    """
    distinct = [len(np.unique(column)) for column in numbers.T]
    sharing = sum(values > FEWEST for values in distinct)
    return int(np.clip(PIECES // max(sharing, 1), FEWEST, MOST))


def median(column: Numbers) -> np.float32:
    """Return the middle value that occurs in float32 [rows], NaN left out; 0 if there is none."""
    present = column[~np.isnan(column)]
    return np.float32(np.quantile(present, 0.5, method="nearest") if len(present) else 0)


def _apart(cuts: Numbers, centre: np.float32) -> Numbers:
    """Leave out edges that are too close to the one before."""
    if len(cuts) < 2:
        return cuts
    exact = cuts.astype(np.float64)
    away = np.abs(exact - centre)
    narrowest = np.maximum(NARROWEST * np.maximum(away[1:], away[:-1]), (exact[-1] - exact[0]) / STEEPEST)
    kept: Numbers = cuts[np.concatenate([[True], np.diff(exact) > narrowest])]
    return kept
