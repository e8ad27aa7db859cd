"""The columns of the network's dense input, as learnt from training rows: pieces, indicators and one-hot values.

What a feature means is in the contract; how the columns are computed is in `graph`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.contract import Contract
from models.encoding import Encoded, Numbers
from models.errors import TrainingDataError
from models.training.bins import NO_STEPS, Reals, edges, median
from models.training.grouping import LEAST_ROWS, Grouping, ungrouped


@dataclass(frozen=True)
class Layout:
    """Dense columns in order: the pieces of each number, the indicators of missing numbers, the categories' columns."""

    edges: tuple[Numbers, ...]  # of each number, ascending; fewer than two where it never varied
    indicators: tuple[int, ...]  # positions of the numbers with an indicator column for missing values
    groupings: tuple[Grouping, ...]  # of each category: which column a code switches on
    medians: Numbers  # float32 [numbers], read for a missing value where training never had one

    @property
    def pieces(self) -> list[int]:
        """How many pieces each number has."""
        return [max(len(cuts) - 1, 0) for cuts in self.edges]

    @property
    def width(self) -> int:
        """How many dense columns there are."""
        return sum(self.pieces) + len(self.indicators) + sum(grouping.width for grouping in self.groupings)


def learn_layout(
    contract: Contract, rows: Encoded, bins: int, steps: Sequence[Reals] = (), groupings: Sequence[Grouping] = ()
) -> Layout:
    """Learn the columns from training rows.

    A missing value or a category seen in under 10 rows gets no column, nor does a missing one where under 10 rows have
    a value. The teacher may have found sharp steps of each number (`sharp_steps`), which get edges, and values of a
    category that can share a column (`learn_groupings`). `TrainingDataError` when nothing varies: there would be no
    column.
    """
    absent = np.isnan(rows.numbers).sum(0)
    indicators = tuple(int(j) for j in np.flatnonzero(np.minimum(absent, len(rows) - absent) >= LEAST_ROWS))
    steps = steps or [NO_STEPS] * len(contract.numbers)
    cuts = tuple(edges(column, bins, at) for column, at in zip(rows.numbers.T, steps, strict=True))
    groupings = groupings or [
        ungrouped(codes, width) for codes, width in zip(rows.categories.T, contract.code_counts, strict=True)
    ]
    medians = np.array([median(rows.numbers[:, j]) for j in range(len(contract.numbers))], np.float32)
    layout = Layout(cuts, indicators, tuple(groupings), medians)
    if not any(layout.pieces) and not any(grouping.width > 1 for grouping in groupings):
        raise TrainingDataError(
            f"None of the features of model {contract.model!r} varies in the {len(rows)} training rows: "
            "declare features that tell the rows apart."
        )
    return layout
