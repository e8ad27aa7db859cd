"""A column as it was found: how it is read, its values, what is missing, and how well it alone tells the outcome."""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from onboarding.readings import Reading
from onboarding.staging import Counts, Frequencies

GROUPS = 64  # into which a number's values are put, to see how well they tell the outcome

Amounts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """One column by its distinct values, ascending, as they are read."""

    name: str
    position: int
    reading: Reading
    values: pa.Array
    rows: Amounts
    labelled: Amounts
    positives: Amounts
    absent: Counts
    infinite: int = 0  # rows, of those that are absent

    @property
    def type(self) -> pa.DataType:
        """What it is in the table."""
        return self.values.type

    @property
    def present(self) -> int:
        """Rows that have a value."""
        return int(self.rows.sum())

    @property
    def all_rows(self) -> int:
        """Rows with and without a value."""
        return self.present + self.absent.rows

    @property
    def is_number(self) -> bool:
        """Whether it is read as a number."""
        return self.reading.kind == "number"

    @property
    def is_whole(self) -> bool:
        """Whether all numbers are whole ones."""
        if pa.types.is_integer(self.type):
            return True
        numbers = self.numbers
        return bool(len(numbers)) and bool(np.all(numbers == np.floor(numbers)))

    @property
    def is_text(self) -> bool:
        """Whether it is read as text."""
        return self.reading.kind == "text"

    @property
    def distinct(self) -> int:
        """How many values there are."""
        return len(self.values)

    @cached_property
    def numbers(self) -> npt.NDArray[np.float64]:
        """A number's distinct values, ascending."""
        found: npt.NDArray[np.float64] = self.values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return found

    @property
    def most_frequent(self) -> npt.NDArray[np.int64]:
        """Positions of the values, the most frequent first."""
        order: npt.NDArray[np.int64] = np.argsort(-self.rows, kind="stable")
        return order

    @cached_property
    def auc(self) -> float:
        """How well the column alone tells the outcome: ROC-AUC, out of fold, of the positive rate of its values."""
        return out_of_fold_auc(*self._groups())

    def _groups(self) -> tuple[Amounts, Amounts]:
        labelled, positives = self.labelled, self.positives
        if self.distinct > GROUPS and (self.is_number or self.reading.kind == "date"):
            share = (np.cumsum(self.rows) - self.rows / 2) / self.rows.sum()
            group = np.minimum((share * GROUPS).astype(np.int64), GROUPS - 1)
            labelled, positives = (np.bincount(group, n, GROUPS).astype(np.int64) for n in (labelled, positives))
        return np.append(labelled, self.absent.labelled), np.append(positives, self.absent.positives)


def words_of(name: str) -> set[str]:
    """Return the words of a column's name, in lower case: `MonthlyCharges` and `monthly_charges` have the same."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return set(re.split(r"[\W_]+", apart.lower()))


def column_of(name: str, position: int, reading: Reading, found: Frequencies) -> Column:
    """Read a column's distinct values; spellings of the same value become one, words for missing become absent."""
    taken = reading.read(found.values)
    read = finite(taken)
    there = pc.is_valid(read).to_numpy(zero_copy_only=False)
    counts = np.stack([found.rows, found.labelled, found.positives])
    none = counts[:, ~there].sum(axis=1)
    values, (rows, labelled, positives) = _each_once(read.filter(pa.array(there)), counts[:, there])
    absent = found.absent
    missing = Counts(absent.rows + int(none[0]), absent.labelled + int(none[1]), absent.positives + int(none[2]))
    infinite = int(found.rows[_are_infinite(taken)].sum())
    return Column(name, position, reading, values, rows, labelled, positives, missing, infinite)


def finite(values: pa.Array) -> pa.Array:
    """Make infinities, and what is no number, missing: no contract takes them."""
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))


def _are_infinite(values: pa.Array) -> npt.NDArray[np.bool_]:
    if not pa.types.is_floating(values.type):
        return np.zeros(len(values), np.bool_)
    found: npt.NDArray[np.bool_] = np.isinf(values.to_numpy(zero_copy_only=False))
    return found


def _each_once(values: pa.Array, counts: Amounts) -> tuple[pa.Array, Amounts]:
    """Return distinct values, ascending, and the sums of their counts, int64 [3, values]."""
    order = pc.sort_indices(values)
    values, counts = values.take(order), counts[:, order.to_numpy()]
    if len(values) < 2:
        return values, counts
    first = np.append(True, pc.not_equal(values[1:], values[:-1]).to_numpy(zero_copy_only=False))
    return values.filter(pa.array(first)), np.add.reduceat(counts, np.flatnonzero(first), axis=1)


def out_of_fold_auc(labelled: Amounts, positives: Amounts) -> float:
    """Return the ROC-AUC of groups' positive rates, learnt on one half of the rows and measured on the other.

    `labelled` and `positives` are counts by group, int64 [groups]. .5 where one outcome only is in a half.
    """
    rng = np.random.default_rng(0)
    negatives = labelled - positives
    first = np.stack([rng.binomial(negatives, 0.5), rng.binomial(positives, 0.5)])
    second = np.stack([negatives, positives]) - first
    found = [_auc(_rates(a), b) for a, b in ((first, second), (second, first))]
    return float(np.mean(found))


def _rates(counts: Amounts) -> npt.NDArray[np.float64]:
    """Return positive rates, those of rare groups drawn towards the rate of all."""
    base = counts[1].sum() / max(counts.sum(), 1)
    rates: npt.NDArray[np.float64] = (counts[1] + base) / (counts.sum(axis=0) + 1)
    return rates


def _auc(rates: npt.NDArray[np.float64], counts: Amounts) -> float:
    """Return the chance that a positive row's group has the higher rate than a negative row's; ties count half."""
    _, rank = np.unique(rates, return_inverse=True)
    negatives, positives = (np.bincount(rank, amounts) for amounts in counts)
    if not negatives.sum() or not positives.sum():
        return 0.5
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (positives.sum() * negatives.sum()))
