"""Which dense column each code of a category has: one of its own, one that it shares with others, or none.

Of a category with few values, each that has enough rows has its own column. Of many values the most frequent have their
own, and the others share columns with those that come with positive outcomes about as often (`rates`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.encoding import Codes, Encoded
from models.training.rates import LogOdds, log_odds
from models.training.split import Labels

LEAST_ROWS = 10  # a column that fewer training rows would switch on has nothing to learn from
MOST_VALUES = 64  # columns of one category
OF_THEIR_OWN = 32  # columns, of a category with more values than that; the others are shared


@dataclass(frozen=True)
class Grouping:
    """The columns of one category, counted from 0: int32 [codes], -1 for a code that has none.

    The first `own` columns belong to one code each. Shared column i belongs to log-odds from `cuts[i - 1]` to `cuts[i]`.
    """

    columns: Codes
    own: int
    cuts: LogOdds | None = None

    @property
    def width(self) -> int:
        """How many columns there are."""
        return int(self.columns.max(initial=-1)) + 1

    def shared_column(self, odds: LogOdds) -> Codes:
        """Return the shared column of each of some log-odds."""
        assert self.cuts is not None
        return (self.own + np.searchsorted(self.cuts, odds, "right")).astype(np.int32)


def learn_grouping(codes: Codes, width: int, y: Labels | None) -> Grouping:
    """Group the codes, of which there are `width`, by the rows of training; without outcomes nothing is shared."""
    counts = np.bincount(codes, minlength=width)
    frequent = np.argsort(-counts, kind="stable")
    if y is None or (counts > 0).sum() <= MOST_VALUES:
        frequent = frequent[:MOST_VALUES]
        return _alone(np.sort(frequent[counts[frequent] >= LEAST_ROWS]), width)
    alone = _alone(np.sort(frequent[:OF_THEIR_OWN]), width)
    odds, others = log_odds(codes, y, width), alone.columns < 0
    order = np.flatnonzero(others)[np.argsort(odds[others], kind="stable")]
    reached, groups = np.cumsum(counts[order]), MOST_VALUES - OF_THEIR_OWN
    at = np.searchsorted(reached, reached[-1] * np.arange(1, groups) / groups)
    shared = Grouping(alone.columns, OF_THEIR_OWN, np.setdiff1d(odds[order[at]], odds[order[0]]))
    return Grouping(np.where(others, shared.shared_column(odds), alone.columns), OF_THEIR_OWN, shared.cuts)


def unknowing(rows: Encoded, y: Labels, groupings: Sequence[Grouping], folds: Sequence[np.ndarray]) -> Encoded:
    """Return the rows with stand-ins for codes that share columns: codes of the column that the other folds would give.

    A code's column tells how often its rows were positive. A network that learnt from a row's own outcome through it
    would believe too much of what rare values say.
    """
    categories = rows.categories.copy()
    for j, grouping in enumerate(groupings):
        if grouping.cuts is None:
            continue
        columns, first = np.unique(grouping.columns, return_index=True)
        for outside in folds:
            inside = np.setdiff1d(np.arange(len(rows)), outside, assume_unique=True)
            odds = log_odds(rows.categories[inside, j], y[inside], len(grouping.columns))
            stand_in = first[np.searchsorted(columns, grouping.shared_column(odds))]
            codes = rows.categories[outside, j]
            categories[outside, j] = np.where(grouping.columns[codes] < grouping.own, codes, stand_in[codes])
    return Encoded(rows.numbers, categories)


def _alone(kept: Codes, width: int) -> Grouping:
    columns = np.full(width, -1, np.int32)
    columns[kept] = np.arange(len(kept))
    return Grouping(columns, len(kept))
