"""Rows counted into a profile's bins, on the way through the scorer: a few array operations, and no second scan.

Large populations are sampled: one row of each `stride` that follow each other, the place within them drawn by a seed,
so that no pattern in the order of the rows can meet it. The same rows in the same shares give the same counts.
How far a sample's index is from that of all rows is in docs/drift.md.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from models.audit import Counts
from models.encoding import Encoded
from models.profile import CategoryBins, NumberBins, Profile
from models.scoring import Scores

SAMPLED_ROWS = 50_000  # at least so many are counted, or all
PLACES = 4096  # drawn once, then repeated
BLOCK = 16_384  # rows that are counted at once: their bins stay in the cache

Positions = npt.NDArray[np.int64]


def stride_for(rows: int) -> int:
    """Return of how many rows one is counted, in a population of so many."""
    return max(1, rows // SAMPLED_ROWS)


@dataclass(frozen=True)
class BinCounter:
    """Counts rows into a profile's bins; can be sent to other processes."""

    profile: Profile
    stride: int = 1

    @property
    def nothing(self) -> Counts:
        """Counts of no rows."""
        return np.zeros(self._size, np.int64)

    def count(self, rows: Encoded, scores: Scores, before: int = 0) -> Counts:
        """Count the sampled rows of a batch: int64 [all bins], in the order of `Profile.all_bins`.

        `before` is how many rows of the share came before the batch.
        """
        if self.stride > 1:
            picked = self.sampled(before, len(rows))
            rows, scores = rows[picked], scores[picked]
        total = self.nothing
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            found = np.concatenate([self._numbers(rows.numbers[block], scores[block]), self._codes(rows, block)])
            total += np.bincount(found, minlength=self._size)
        return total

    def sampled(self, before: int, rows: int) -> Positions:
        """Return the positions of the sampled rows of a batch that `before` rows of the share came before."""
        blocks = np.arange(before // self.stride, (before + rows - 1) // self.stride + 1)
        positions: Positions = blocks * self.stride + self._places[blocks % PLACES] - before
        return positions[(positions >= 0) & (positions < rows)]

    def _numbers(self, numbers: npt.NDArray[np.float32], scores: Scores) -> Positions:
        """Return the bin of each number and each score, in no order."""
        values = np.concatenate([numbers.T, scores[None]])
        bins = np.zeros(values.shape, np.uint8)
        for edges in self._edges:
            bins += values > edges
        np.copyto(bins, self._missing, where=np.isnan(values))
        return (bins + self._number_starts).ravel()

    def _codes(self, rows: Encoded, block: slice) -> Positions:
        """Return the bin of each category's code, in no order."""
        bins: Positions = self._bin_of_code[rows.categories[block] + self._code_starts]
        return bins.ravel()

    # --- where the bins are -------------------------------------------------------------------------------------

    @cached_property
    def _places(self) -> Positions:
        return np.random.default_rng(self.stride).integers(0, self.stride, PLACES)

    @cached_property
    def _size(self) -> int:
        return sum(len(bins.counts) for bins in self.profile.all_bins)

    @cached_property
    def _starts(self) -> list[int]:
        """The first bin of each feature, and of the score."""
        return [0, *np.cumsum([len(bins.counts) for bins in self.profile.all_bins])[:-1].tolist()]

    @cached_property
    def _number_bins(self) -> list[NumberBins]:
        return [bins for bins in self.profile.all_bins if isinstance(bins, NumberBins)]

    @cached_property
    def _number_starts(self) -> Positions:
        pairs = zip(self._starts, self.profile.all_bins, strict=True)
        return np.array([[start] for start, bins in pairs if isinstance(bins, NumberBins)], np.int64)

    @cached_property
    def _edges(self) -> npt.NDArray[np.float32]:
        """The edges of the numbers, float32 [most edges, numbers, 1]; nothing is above those that are missing."""
        most = max(len(bins.edges) for bins in self._number_bins)
        edges = np.full((most, len(self._number_bins), 1), np.inf, np.float32)
        for column, bins in enumerate(self._number_bins):
            edges[: len(bins.edges), column, 0] = bins.edges
        return edges

    @cached_property
    def _missing(self) -> npt.NDArray[np.uint8]:
        """The bin of a missing number, uint8 [numbers, 1]."""
        return np.array([[len(bins.edges) + 1] for bins in self._number_bins], np.uint8)

    @cached_property
    def _category_bins(self) -> list[tuple[int, CategoryBins]]:
        pairs = zip(self._starts, self.profile.all_bins, strict=True)
        return [(start, bins) for start, bins in pairs if isinstance(bins, CategoryBins)]

    @cached_property
    def _code_starts(self) -> npt.NDArray[np.int32]:
        """Where the codes of each category begin in `_bin_of_code`."""
        widths = [bins.values + 2 for _, bins in self._category_bins]
        return np.cumsum([0, *widths[:-1]], dtype=np.int32) if widths else np.empty(0, np.int32)

    @cached_property
    def _bin_of_code(self) -> Positions:
        """The bin of each code of each category."""
        tables = [np.empty(0, np.int64)]
        for start, bins in self._category_bins:
            table = np.full(bins.values + 2, start + len(bins.codes))
            table[list(bins.codes)] = start + np.arange(len(bins.codes))
            table[-2:] = start + len(bins.codes) + 1, start + len(bins.codes) + 2
            tables.append(table)
        return np.concatenate(tables)
