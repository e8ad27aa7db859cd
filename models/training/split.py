"""From the table of examples to labels and to the rows for training, calibration and test.

No row stands in two parts. What the parts are used for is decided elsewhere.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.declaration import Declaration, StratifiedSplit, TimeSplit
from models.errors import ColumnError, TrainingDataError

Labels = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]
Facts = dict[str, str | int | float]
Mask = npt.NDArray[np.bool_]
MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: a multiplication by it loses nothing, and moves every bit upwards


@dataclass(frozen=True)
class Split:
    """Ascending int64 row positions of the three parts, and how they came about, for people."""

    train: Positions
    calibration: Positions
    test: Positions
    description: Facts


def labels(declaration: Declaration, table: pa.Table, one_outcome_will_do: bool = False) -> Labels:
    """Return the outcomes as float32 [rows], 0 or 1.

    The label is boolean, 0/1, or one of two texts, of which the declaration's `positive` is the 1. `TrainingDataError`
    when there are no rows, a label is missing, holds anything else or is the same everywhere (unless that will do);
    `ColumnError` without the column.
    """
    name = declaration.examples.label
    column = _column(declaration, table, name, "label")
    if not len(column):
        raise TrainingDataError(f"The examples {declaration.examples.table!r} have no rows: fill the table first.")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if absent := pc.is_null(column, nan_is_null=True).to_numpy().sum():
        raise TrainingDataError(f"Label {name!r} is missing in {absent} of {len(column)} rows: leave those rows out.")
    found = sorted(pc.unique(column).to_pylist())
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    only_one = len(found) == 1 and one_outcome_will_do
    positive: str | int | bool
    if is_text:
        positive = _positive_text(declaration, found, it_may_be_absent=only_one)
    else:
        positive = _positive_number(declaration, column.type, found)
    if len(found) == 1 and not only_one:
        raise TrainingDataError(f"Label {name!r} is {found[0]!r} in every row: examples of both outcomes are needed.")
    y: Labels = pc.equal(column, pa.scalar(positive, column.type)).to_numpy().astype(np.float32)
    return y


def split_examples(declaration: Declaration, table: pa.Table) -> Split:
    """Split the rows as declared: by time, or stratified by class. Seeded, so the same rows give the same split.

    `TrainingDataError`, saying what was found, when a part would be empty or know one outcome only.
    """
    y = labels(declaration, table)
    method = declaration.examples.split
    rng = np.random.default_rng(method.seed)
    description: Facts = {"method": method.method, "seed": method.seed}
    if isinstance(method, TimeSplit):
        in_test, months = _latest_months(declaration, table, method)
        description |= months
    else:
        in_test = _the_same_rows_each_time(declaration, table, y, method)
    in_calibration = _share_of_each_class(y, ~in_test, method.calibration_share, rng)
    masks = {"train": ~in_test & ~in_calibration, "calibration": in_calibration, "test": in_test}
    for name, mask in masks.items():
        _has_both_outcomes(declaration, name, y[mask], method)
        description[f"{name}_rows"] = int(mask.sum())
        description[f"{name}_positive_rate"] = float(y[mask].mean())
    train, calibration, test = (np.flatnonzero(mask) for mask in masks.values())
    return Split(train, calibration, test, description)


def _column(declaration: Declaration, table: pa.Table, name: str, role: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise ColumnError(
            f"The examples {declaration.examples.table!r} have no {role} column {name!r} (they have: "
            f"{', '.join(table.column_names)}). Name the right one under `examples`."
        )
    return table.column(name)


def _positive_text(declaration: Declaration, found: list[str], it_may_be_absent: bool) -> str:
    name, positive = declaration.examples.label, declaration.examples.positive
    shown = ", ".join(map(repr, found[:5])) + (", ..." if len(found) > 5 else "")
    if len(found) > 2:
        raise TrainingDataError(f"Label {name!r} has {len(found)} values ({shown}): two are needed, yes and no.")
    if positive is None:
        raise TrainingDataError(f"Label {name!r} is a text ({shown}): say which means yes, under `examples.positive`.")
    if positive not in found and not it_may_be_absent:
        raise TrainingDataError(f"Label {name!r} is never {positive!r}, only {shown}: mend `examples.positive`.")
    return positive


def _positive_number(declaration: Declaration, dtype: pa.DataType, found: list[object]) -> int | bool:
    name, positive = declaration.examples.label, declaration.examples.positive
    if not (pa.types.is_boolean(dtype) or pa.types.is_integer(dtype) or pa.types.is_floating(dtype)):
        raise TrainingDataError(f"Label {name!r} has type {dtype}: make it boolean, 0/1, or one of two texts.")
    if odd := [value for value in found if value not in (0, 1)]:
        raise TrainingDataError(f"Label {name!r} has the value {odd[0]!r}: only 0 and 1 (or true and false) can be.")
    if positive is not None:
        raise TrainingDataError(
            f"Label {name!r} has type {dtype}, for which 1 means yes, but `examples.positive` is {positive!r}: "
            "remove it, since it is for texts only."
        )
    return True if pa.types.is_boolean(dtype) else 1


def _latest_months(declaration: Declaration, table: pa.Table, method: TimeSplit) -> tuple[Mask, Facts]:
    """Find the rows of the latest calendar months, counted back from the latest month that has rows."""
    name = declaration.examples.time or ""
    column = _column(declaration, table, name, "time")
    if not (pa.types.is_date(column.type) or pa.types.is_timestamp(column.type)):
        raise TrainingDataError(f"Time column {name!r} has type {column.type}: make it a date or a timestamp.")
    if column.null_count:
        raise TrainingDataError(
            f"Time {name!r} is missing in {column.null_count} of {len(column)} rows: leave those rows out."
        )
    months = (pc.year(column).to_numpy() * 12 + pc.month(column).to_numpy() - 1).astype(np.int64)
    first, last = int(months.min()), int(months.max())
    begin = last - method.test_months + 1
    if first >= begin:
        raise TrainingDataError(
            f"{name!r} spans {_month(first)} to {_month(last)}, but the latest {method.test_months} calendar months "
            "are the test set and earlier rows are needed to train: add older examples, or lower `test_months`."
        )
    found: Facts = {
        "train_months": f"{_month(first)} to {_month(int(months[months < begin].max()))}",
        "test_months": f"{_month(int(months[months >= begin].min()))} to {_month(last)}",
    }
    return months >= begin, found


def _month(number: int) -> str:
    return f"{number // 12}-{number % 12 + 1:02d}"


def _the_same_rows_each_time(declaration: Declaration, table: pa.Table, y: Labels, method: StratifiedSplit) -> Mask:
    """Pick a share of each class, those with the lowest hashes of what stands in them.

    When rows are added, nearly all of those that were picked are again: what a champion has trained on does not judge
    it. Of rows that are alike, each copy is picked or not by itself: together they would all be on one side.
    """
    from pandas import Series
    from pandas.util import hash_array, hash_pandas_object

    names = [name for name in (*declaration.features, declaration.examples.label) if name in table.column_names]
    columns = pa.table({name: _hashable(table.column(name)) for name in names})  # who encodes tells which are missing
    hashes = hash_pandas_object(columns.to_pandas(), index=False).to_numpy()
    copies = Series(hashes).groupby(hashes, sort=False).cumcount().to_numpy()
    order = np.argsort((hashes ^ hash_array(copies) ^ np.uint64(method.seed)) * MIX, kind="stable")
    picked = np.zeros(len(y), np.bool_)
    for outcome in (0, 1):
        rows = order[y[order] == outcome]
        picked[rows[: max(1, round(method.test_share * len(rows)))]] = True
    return picked


def _hashable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without the nulls that would make pandas change its type, and with it every row's hash."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        return column.fill_null(0)
    return column.fill_null(False) if pa.types.is_boolean(column.type) else column


def _share_of_each_class(y: Labels, among: Mask, share: float, rng: np.random.Generator) -> Mask:
    """Draw a share of the rows `among` of each class, at least one of each that has any."""
    drawn = np.zeros(len(y), np.bool_)
    for outcome in (0, 1):
        rows = np.flatnonzero(among & (y == outcome))
        count = max(1, round(share * len(rows)))
        drawn[rng.permutation(rows)[:count]] = True
    return drawn


def _has_both_outcomes(declaration: Declaration, part: str, y: Labels, method: TimeSplit | StratifiedSplit) -> None:
    positives = int(y.sum())
    if 0 < positives < len(y):
        return
    raise TrainingDataError(
        f"The {part} part of {declaration.examples.table!r} has {len(y)} rows, {positives} of them positive, but needs "
        f"both outcomes: add examples, or change the {method.method} split (`examples.split`)."
    )
