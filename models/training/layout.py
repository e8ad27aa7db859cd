"""The columns of the network's dense input, as learnt from training rows: pieces, indicators and one-hot values.

What a feature means is in the contract; how the columns are computed is in `graph`.
"""

from dataclasses import dataclass

import numpy as np

from models.contract import Contract
from models.encoding import Codes, Encoded, Numbers
from models.errors import TrainingDataError
from models.training.bins import edges, median

LEAST_ROWS = 10  # a column that fewer training rows would switch on has nothing to learn from
MOST_VALUES = 64  # one-hot columns of one category, the most frequent first


@dataclass(frozen=True)
class Layout:
    """Dense columns in order: the pieces of each number, the indicators of missing numbers, the kept categories."""

    edges: tuple[Numbers, ...]  # of each number, ascending; fewer than two where it never varied
    indicators: tuple[int, ...]  # positions of the numbers with an indicator column for missing values
    kept: tuple[Codes, ...]  # of each category, the ascending codes that have a one-hot column
    medians: Numbers  # float32 [numbers], read for a missing value where training never had one

    @property
    def pieces(self) -> list[int]:
        """How many pieces each number has."""
        return [max(len(cuts) - 1, 0) for cuts in self.edges]

    @property
    def width(self) -> int:
        """How many dense columns there are."""
        return sum(self.pieces) + len(self.indicators) + sum(map(len, self.kept))


def learn_layout(contract: Contract, rows: Encoded, bins: int) -> Layout:
    """Learn the columns from training rows. A missing value or a category seen in under 10 rows gets no column.

    `TrainingDataError` when nothing varies, so that there would be no column at all.
    """
    absent = np.isnan(rows.numbers).sum(0)
    indicators = tuple(int(j) for j in np.flatnonzero(absent >= LEAST_ROWS))
    cuts = tuple(edges(rows.numbers[:, j], bins) for j in range(len(contract.numbers)))
    kept = tuple(_kept(rows.categories[:, j], c.width) for j, c in enumerate(contract.categories.values()))
    medians = np.array([median(rows.numbers[:, j]) for j in range(len(contract.numbers))], np.float32)
    layout = Layout(cuts, indicators, kept, medians)
    if not any(layout.pieces) and not any(len(codes) > 1 for codes in kept):
        raise TrainingDataError(
            f"None of the features of model {contract.model!r} varies in the {len(rows)} training rows: "
            "declare features that tell the rows apart."
        )
    return layout


def _kept(codes: Codes, width: int) -> Codes:
    counts = np.bincount(codes, minlength=width)
    frequent = np.argsort(-counts, kind="stable")[:MOST_VALUES]
    return np.sort(frequent[counts[frequent] >= LEAST_ROWS]).astype(np.int32)
