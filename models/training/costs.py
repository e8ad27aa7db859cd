"""The threshold that costs least, where a missed positive and a false alarm have their prices.

With probabilities that are right, the least costly decision is `score >= false_alarm / (false_alarm + missed)`: Elkan,
"The Foundations of Cost-Sensitive Learning" (2001). What costs least on rows that the network has not learnt from needs
no such trust: Sheng and Ling, "Thresholding for Making Classifiers Cost-sensitive" (2006).
"""

import numpy as np

from models.declaration import DecisionCosts
from models.scoring import Scores
from models.training.split import Labels

NOISE = 0.5  # standard errors: more would trust probabilities that are wrong


def cost(y: Labels, scores: Scores, threshold: float, costs: DecisionCosts) -> float:
    """Return the mean price of a row's decision: of positives below the threshold, and of negatives that reach it."""
    stopped, positive = scores >= np.float32(threshold), y == 1
    missed, false_alarms = int((positive & ~stopped).sum()), int((stopped & ~positive).sum())
    return (missed * costs.missed + false_alarms * costs.false_alarm) / len(y)


def cost_saved(y: Labels, scores: Scores, threshold: float, costs: DecisionCosts) -> float:
    """Return the share of the price of stopping nothing that the decisions save: 1 at best, below 0 if they cost."""
    return 1 - cost(y, scores, threshold, costs) / (float(y.mean()) * costs.missed)


def least_costly_threshold(y: Labels, scores: Scores, costs: DecisionCosts) -> float:
    """Return the threshold that costs least on scores, float32 [rows], with outcomes `y`; it lies between two of them.

    Of several whose prices differ by less than half a standard error of the difference, the one nearest to Elkan's is
    returned: the minimum alone follows noise, and costs up to 5 % more on new rows where the probabilities are right.
    """
    elkan = np.float32(costs.false_alarm / (costs.false_alarm + costs.missed))
    order = np.argsort(-scores, kind="stable")
    above = np.concatenate([[np.float32(1)], scores[order]])  # of cut i, which stops the i highest scores
    below = np.concatenate([scores[order], [np.float32(0)]])
    steps = np.where(y[order] == 1, -costs.missed, costs.false_alarm)
    prices, squares = (np.concatenate([[0.0], np.cumsum(values)]) for values in (steps, steps**2))
    cuts = np.flatnonzero(below < above)  # not within scores that are the same
    best = cuts[np.argmin(prices[cuts])]
    chance = NOISE * np.sqrt(np.abs(squares[cuts] - squares[best]))
    cuts = cuts[prices[cuts] - prices[best] <= chance]
    thresholds = _within(below[cuts], above[cuts], elkan)
    return float(thresholds[np.argmin(np.abs(thresholds - elkan))])


def _within(below: Scores, above: Scores, wanted: np.float32) -> Scores:
    """Return the wanted threshold where it lies above `below` and not above `above`; else one in their middle."""
    middle = below + (above - below) / 2
    middle = np.where((below < middle) & (middle <= above), middle, above)
    return np.where((below < wanted) & (wanted <= above), wanted, middle).astype(np.float32)
