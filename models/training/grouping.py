"""Which dense column each code of a category has: one of its own, one that it shares with others, or none.

Of a category with few values, each that has enough rows has its own column. How many values come to share columns is
in `shared_columns`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.encoding import Codes, Encoded

LEAST_ROWS = 10  # a column that fewer training rows would switch on has nothing to learn from
MOST_VALUES = 64  # columns of one category, where its values do not share them


@dataclass(frozen=True)
class Grouping:
    """The column of each code of one category, counted from 0: int32 [codes], -1 for a code that has none.

    `unknowing` has, where codes share columns, the column that each fold's learners would give, int32 [folds, codes].
    """

    columns: Codes
    unknowing: npt.NDArray[np.int32] | None = None

    @property
    def width(self) -> int:
        """How many columns there are."""
        return int(self.columns.max(initial=-1)) + 1


def ungrouped(codes: Codes, width: int) -> Grouping:
    """Give each of the most frequent codes with at least 10 rows a column; `width` codes there are."""
    counts = np.bincount(codes, minlength=width)
    frequent = np.argsort(-counts, kind="stable")[:MOST_VALUES]
    kept = np.sort(frequent[counts[frequent] >= LEAST_ROWS])
    columns = np.full(width, -1, np.int32)
    columns[kept] = np.arange(len(kept))
    return Grouping(columns)


def unknowing(rows: Encoded, groupings: Sequence[Grouping], folds: Sequence[npt.NDArray[np.int64]]) -> Encoded:
    """Return the rows with stand-ins for codes that share columns: codes of the column that their fold would give.

    A code's column tells how often its rows were positive. A network that learnt from a row's own outcome through it
    would believe too much of what rare values say.
    """
    categories = rows.categories.copy()
    for j, grouping in enumerate(groupings):
        if grouping.unknowing is None:
            continue
        first = np.unique(grouping.columns, return_index=True)[1]
        for outside, columns in zip(folds, grouping.unknowing, strict=True):
            categories[outside, j] = first[columns[rows.categories[outside, j]]]
    return Encoded(rows.numbers, categories)
