"""The Gold table's optional column of reasons: the features that moved a score most, and what each adds to it.

What a reason is, and what it costs, is in `models.reasons`; a night without the column does not come here.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backends.gold_tables import REASONS_TYPE
from models.encoding import Encoded
from models.errors import ModelFileError
from models.reasons import Explainer
from models.scoring import Scorer, Scores


@dataclass(frozen=True)
class ReasonsColumn:
    """Makes the column; can be sent to other processes."""

    explainer: Explainer
    count: int  # of features in a row, as far as there are so many
    for_all: bool  # or else for the rows that reach the threshold

    @classmethod
    def of(cls, scorer: Scorer, count: int, for_all: bool) -> Self | None:
        """Return what makes the column, None for no reasons; `ModelFileError` when the model gives none."""
        if not count:
            return None
        try:
            return cls(Explainer(scorer), min(count, len(scorer.contract.features)), for_all)
        except ModelFileError as error:
            raise ModelFileError(f"{error} Until then, declare `predictions.reasons: 0`.") from error

    def of_rows(self, rows: Encoded, scores: Scores, decisions: npt.NDArray[np.bool_]) -> pa.Array:
        """Return the column for scored rows; empty where a row is not explained.

        Not null: pyiceberg 0.12 reads a list of structs that is null as an empty one, other readers do not.
        """
        explained = np.ones(len(rows), bool) if self.for_all else decisions
        found = self.explainer.explain(rows[explained], scores[explained])
        features = pa.array([name for reasons in found for name in reasons.features[: self.count]], pa.string())
        contributions = [reasons.contributions[: self.count] for reasons in found]
        values = np.concatenate(contributions) if found else np.empty(0, np.float32)
        reason = REASONS_TYPE.value_type
        entries = pa.StructArray.from_arrays([features, pa.array(values)], fields=list(reason))
        offsets = np.concatenate([[0], np.cumsum(explained * self.count)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), entries, type=REASONS_TYPE)
