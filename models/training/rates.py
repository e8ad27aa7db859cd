"""Categories of many values as numbers: how often each value comes with a positive outcome, shrunk and cross-fitted.

A value with few rows is drawn towards the mean of all, by as much as the values differ less than chance lets them
(empirical Bayes; Micci-Barreca, "A Preprocessing Scheme for High-Cardinality Categorical Attributes", 2001). No row's
own outcome is in what it reads, or a value of one row would give its outcome away.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.encoding import Codes, Encoded
from models.training.split import Labels

MANY_VALUES = 30  # a category with more of them is read by its rates; of fewer, each is learnt by itself
FOLDS = 5
LEAST_WEIGHT, MOST_WEIGHT = 1.0, 1e9  # of the mean of all, in rows

LogOdds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rates:
    """The log-odds of every code of the categories with many values."""

    categories: tuple[int, ...]
    log_odds: tuple[LogOdds, ...]  # of each of those categories, [codes]

    def added_to(self, rows: Encoded) -> Encoded:
        """Return the rows with one more number for each of those categories."""
        found = [odds[rows.categories[:, j]] for j, odds in zip(self.categories, self.log_odds, strict=True)]
        return _with_numbers(rows, np.array(found, np.float32).reshape(len(found), len(rows)).T)


def many_valued(rows: Encoded) -> tuple[int, ...]:
    """Return the categories with more than 30 values among the rows."""
    distinct = [len(np.unique(codes)) for codes in rows.categories.T]
    return tuple(j for j, values in enumerate(distinct) if values > MANY_VALUES)


def learn_rates(rows: Encoded, y: Labels, categories: tuple[int, ...], widths: list[int]) -> Rates:
    """Learn the log-odds of the codes of `categories`; `widths` are the numbers of codes of all categories."""
    return Rates(categories, tuple(log_odds(rows.categories[:, j], y, widths[j]) for j in categories))


def cross_fitted(rows: Encoded, y: Labels, categories: tuple[int, ...], widths: list[int], seed: int) -> Encoded:
    """Return the rows with one more number for each of `categories`, learnt without the row's own fifth of the rows."""
    fold = np.random.default_rng(seed).permutation(len(rows)) % FOLDS
    numbers = np.empty((len(rows), len(categories)), np.float32)
    for k in range(FOLDS):
        inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        rates = learn_rates(rows[inside], y[inside], categories, widths)
        numbers[outside] = rates.added_to(rows[outside]).numbers[:, rows.numbers.shape[1] :]
    return _with_numbers(rows, numbers)


def log_odds(codes: Codes, y: Labels, width: int) -> LogOdds:
    """Return the shrunken log-odds of each of `width` codes, float64 [width]; of one without rows, those of all."""
    rows = np.bincount(codes, minlength=width).astype(np.float64)
    positives = np.bincount(codes, y, width).astype(np.float64)
    mean = (positives.sum() + 0.5) / (rows.sum() + 1)
    weight = _weight_of_the_mean(rows, positives, mean)
    rate = (positives + weight * mean) / (rows + weight)
    shrunken: LogOdds = np.log(rate / (1 - rate))
    return shrunken


def _weight_of_the_mean(rows: LogOdds, positives: LogOdds, mean: float) -> float:
    """Return how many rows the mean of all counts for: few if the rates differ by more than chance (moments)."""
    seen = rows > 0
    count, total = rows[seen], float(rows.sum())
    chance = mean * (1 - mean)
    spread = float((count * (positives[seen] / count - mean) ** 2).sum()) - (len(count) - 1) * chance
    spare = total - float((count**2).sum()) / total
    if spread <= 0 or spare <= 0:
        return MOST_WEIGHT
    return float(np.clip(chance * spare / spread - 1, LEAST_WEIGHT, MOST_WEIGHT))


def _with_numbers(rows: Encoded, more: npt.NDArray[np.float32]) -> Encoded:
    return Encoded(np.ascontiguousarray(np.hstack([rows.numbers, more])), rows.categories)
