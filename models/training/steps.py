"""Where boosted trees found sharp steps in a number: places that quantiles miss, and that deserve edges (`bins`)."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier

from models.encoding import Numbers

NEAR = 0.005  # share of the rows within which splits of several trees are one step
LEAST_SHARE = 0.1  # of the gain of a number's splits: with less, it is no step but part of a slope
LEAST_GAIN = 0.01  # of a number's splits, as a share of all numbers': with less, what it has is noise
MOST_STEPS = 4

Reals = npt.NDArray[np.float64]


def sharp_steps(ensembles: Iterable[HistGradientBoostingClassifier], numbers: Numbers) -> list[Reals]:
    """Return for each number, float32 [rows, numbers], the thresholds around its sharp steps, the sharpest first.

    Each step is told by two thresholds, of which the splits that found it are between.
    """
    feature, threshold, gain = (np.concatenate(part) for part in zip(*map(_splits, ensembles), strict=True))
    known = feature < numbers.shape[1]
    total = gain[known].sum()
    steps = []
    for j, column in enumerate(numbers.T):
        own = feature == j
        worth_a_look = gain[own].sum() >= LEAST_GAIN * total > 0
        steps.append(
            _steps(np.sort(column[~np.isnan(column)]), threshold[own], gain[own]) if worth_a_look else np.empty(0)
        )
    return steps


def _splits(trees: HistGradientBoostingClassifier) -> tuple[npt.NDArray[np.int64], Reals, Reals]:
    """Return feature, threshold and gain of every split of a number."""
    nodes = np.concatenate([tree.nodes for stage in trees._predictors for tree in stage])
    nodes = nodes[(nodes["is_leaf"] == 0) & (nodes["is_categorical"] == 0) & np.isfinite(nodes["num_threshold"])]
    categories = 0 if trees.is_categorical_ is None else int(trees.is_categorical_.sum())  # their places come first
    return nodes["feature_idx"].astype(np.int64) - categories, nodes["num_threshold"], nodes["gain"].astype(np.float64)


def _steps(values: Numbers, threshold: Reals, gain: Reals) -> Reals:
    place = np.searchsorted(values, threshold, "right") / len(values)
    order = np.argsort(place, kind="stable")
    place, threshold, gain = place[order], threshold[order], gain[order]
    total, left = gain.sum(), gain.copy()
    found: list[tuple[float, float, float]] = []
    while len(found) < MOST_STEPS:
        at = int(left.argmax())
        first = np.searchsorted(place, place[at] - NEAR, "left")
        last = np.searchsorted(place, place[at] + NEAR, "right")
        if left[first:last].sum() < LEAST_SHARE * total:
            break
        found.append((left[first:last].sum(), threshold[first], threshold[last - 1]))
        left[np.abs(place - place[at]) <= 3 * NEAR] = 0
    found.sort(reverse=True)
    return np.array([threshold for _, low, high in found for threshold in (low, high)])
