"""The rows that are loaded: columns as they are read, the label as it is declared, the newest row of each key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import OnboardingError
from onboarding.columns import Column, finite
from onboarding.outcomes import Outcome
from onboarding.staging import Staged
from onboarding.words import EMPTY

Mask = npt.NDArray[np.bool_]
SHOWN = 3  # keys that an error shows


@dataclass(frozen=True)
class Label:
    """How the label stands in the table: as two texts, 0 and 1, or yes and no."""

    outcome: Outcome
    type: pa.DataType

    @property
    def positive(self) -> str | None:
        """What the declaration names as `positive`: only of texts."""
        return self.outcome.positive[0] if pa.types.is_string(self.type) else None

    def is_as_it_was(self, dtype: pa.DataType) -> bool:
        """Whether a column of that type can be the label without a change: of numbers, 1 must be what means yes."""
        if not len(self.outcome.positive) == len(self.outcome.negative) == 1:
            return False
        (positive,), (negative,) = self.outcome.positive, self.outcome.negative
        if pa.types.is_string(dtype):
            return bool(self.type == dtype)
        if pa.types.is_boolean(dtype):
            return positive == "true"
        return float(positive) == 1 and float(negative) == 0

    def read(self, values: pa.Array) -> pa.Array:
        """Return the label of each row; null where there is none yet."""
        positive, negative = (self._as(values.type, words) for words in (self.outcome.positive, self.outcome.negative))
        yes, no = pc.is_in(values, positive), pc.is_in(values, negative)
        known = pc.or_(yes, no)
        found = values if pa.types.is_string(self.type) else yes.cast(self.type)
        return pc.if_else(known, found, pa.scalar(None, self.type))

    @staticmethod
    def _as(dtype: pa.DataType, words: Sequence[str]) -> pa.Array:
        """Return words as the values that they were in the source: numbers are written there in more than one way."""
        number = pa.types.is_integer(dtype) or pa.types.is_floating(dtype)
        return pa.array([float(word) for word in words] if number else list(words)).cast(dtype)


def label_of(outcome: Outcome) -> Label:
    """Keep two texts as they are; make several spellings, and numbers other than 0 and 1, a yes or no."""
    words = {*outcome.positive, *outcome.negative}
    if outcome.positive == ("1",) and outcome.negative == ("0",):
        return Label(outcome, pa.int64())
    number = all(word.lstrip("+-").replace(".", "", 1).isdigit() for word in words)
    truth = {word.casefold() for word in words} == {"true", "false"}
    return Label(outcome, pa.bool_() if len(words) > 2 or number or truth else pa.string())


@dataclass(frozen=True)
class Rows:
    """What both tables are made from."""

    staged: Staged
    columns: Sequence[Column]  # in the order of the source; key and time are among them, the label is not
    label: Label
    label_position: int

    @property
    def schema(self) -> pa.Schema:
        """The population's columns."""
        return pa.schema([(column.name, column.type) for column in self.columns])

    @property
    def examples_schema(self) -> pa.Schema:
        """Those of the examples: the label is the last."""
        return self.schema.append(pa.field(self.label.outcome.column, self.label.type))

    def batches(self, with_label: bool, kept: Mask | None = None) -> Iterator[pa.RecordBatch]:
        """Stream rows as they are read: with the label only those that have one, and of those the `kept` ones."""
        positions = [column.position for column in self.columns]
        start, schema = 0, self.examples_schema if with_label else self.schema
        for batch in self.staged.batches([*positions, *([self.label_position] if with_label else [])]):
            read = [column.reading.read(batch.column(i)) for i, column in enumerate(self.columns)]
            read = [finite(values).cast(field.type) for values, field in zip(read, schema, strict=False)]
            read += [self.label.read(batch.column(len(positions)))] if with_label else []
            mask = None if kept is None else kept[start : start + len(batch)]
            start += len(batch)
            made = pa.record_batch(read, schema=schema)
            if with_label:
                labelled = pc.is_valid(made.column(len(positions))).to_numpy(zero_copy_only=False)
                mask = labelled if mask is None else mask & labelled
            yield made if mask is None else made.filter(pa.array(mask))


def kept_rows(staged: Staged, key: Column, time: Column | None) -> Mask | None:
    """Return which rows are the population: the newest of each key by time, or all (None) where each key stands once.

    `OnboardingError` for keys that are missing, or stand twice without a time.
    """
    if key.absent.rows:
        raise OnboardingError(
            f"--key {key.name!r} is missing in {key.absent.rows:,} of {key.all_rows:,} rows, like "
            f"{_rows_without(staged, key)}. Every row needs one: fill it in, or leave those rows out.{_said(key)}"
        )
    if key.distinct == key.present:
        return None
    if time is None:
        twice = [i for i in key.most_frequent if key.rows[i] > 1]
        shown = "; ".join(f"{key.values[int(i)].as_py()!r} in {_rows_with(staged, key, int(i))}" for i in twice[:SHOWN])
        raise OnboardingError(
            f"--key {key.name!r} does not name one row: {len(twice):,} of {key.distinct:,} keys stand in several rows, "
            f"like {shown}. Keep one row of each key, or name the column that says when a row was true with --time: "
            "then all rows are examples and the newest of each key is scored."
        )
    return _newest(staged, key, time)


def _newest(staged: Staged, key: Column, time: Column) -> Mask:
    keys, times = [], []
    for batch in staged.batches([key.position, time.position]):
        keys.append(key.reading.read(batch.column(0)))
        times.append(time.reading.read(batch.column(1)))
    codes = pa.chunked_array(keys).combine_chunks().dictionary_encode().indices.to_numpy()
    moments = pc.fill_null(pa.chunked_array(times).cast(pa.timestamp("us")).cast(pa.int64()), -(2**62)).to_numpy()
    order = np.lexsort((np.arange(len(codes)), moments, codes))
    last = np.append(codes[order][1:] != codes[order][:-1], True)
    kept = np.zeros(len(codes), np.bool_)
    kept[order[last]] = True
    return kept


def _said(key: Column) -> str:
    """Name the words that make keys missing only because --missing says so."""
    words = " and ".join(map(repr, sorted(key.reading.found - EMPTY)))
    return f" --missing says so of {words}: leave that out, and mend the other columns in the source." if words else ""


def _rows_without(staged: Staged, key: Column) -> str:
    found: list[int] = []
    for values, numbers in staged.numbered(key.position):
        found += numbers.filter(pc.is_null(key.reading.read(values))).slice(0, SHOWN).to_pylist()
        if len(found) >= SHOWN:
            break
    return _numbers(found[:SHOWN])


def _rows_with(staged: Staged, key: Column, value: int) -> str:
    sql = f"SELECT number FROM $rows WHERE c{key.position} = ? ORDER BY 1 LIMIT {SHOWN}"  # noqa: S608
    return _numbers([row for (row,) in staged.query(sql, [key.values[value].as_py()])])


def _numbers(rows: Sequence[int]) -> str:
    counted = [f"{row:,}" for row in rows]
    return f"row {counted[0]}" if len(counted) == 1 else f"rows {', '.join(counted[:-1])} and {counted[-1]}"
