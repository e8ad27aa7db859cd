"""The columns of the network's dense input, as learnt from training rows: pieces, indicators and one-hot values.

What a feature means is in the contract; how the columns are computed is in `graph`.
"""

from dataclasses import dataclass

import numpy as np

from models.contract import Contract
from models.encoding import Encoded, Numbers
from models.errors import TrainingDataError
from models.training.bins import edges, median
from models.training.grouping import LEAST_ROWS, Grouping, learn_grouping
from models.training.split import Labels


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


def learn_layout(contract: Contract, rows: Encoded, bins: int, y: Labels | None = None) -> Layout:
    """Learn the columns from training rows. A missing value or a category seen in under 10 rows gets no column.

    With the rows' outcomes `y`, categories of many values get columns that values share. `TrainingDataError` when
    nothing varies, so that there would be no column at all.
    """
    absent = np.isnan(rows.numbers).sum(0)
    indicators = tuple(int(j) for j in np.flatnonzero(absent >= LEAST_ROWS))
    cuts = tuple(edges(rows.numbers[:, j], bins) for j in range(len(contract.numbers)))
    widths = [category.missing_code + 1 for category in contract.categories.values()]
    groupings = tuple(learn_grouping(rows.categories[:, j], width, y) for j, width in enumerate(widths))
    medians = np.array([median(rows.numbers[:, j]) for j in range(len(contract.numbers))], np.float32)
    layout = Layout(cuts, indicators, groupings, medians)
    if not any(layout.pieces) and not any(grouping.width > 1 for grouping in groupings):
        raise TrainingDataError(
            f"None of the features of model {contract.model!r} varies in the {len(rows)} training rows: "
            "declare features that tell the rows apart."
        )
    return layout
