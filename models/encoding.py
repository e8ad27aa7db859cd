"""From an Arrow batch or a JSON request to the graph's two inputs: the only encoder.

Batch, the API, training, evaluation and calibration all come through here, so a value means the same everywhere.

numbers:    float32 [rows, numbers]   NaN is missing
categories: int32   [rows, categories] codes of `CategoryFeature`

Out-of-bounds values, and missing ones where that is not allowed, are refused with `ValueRejectedError`, never clipped.
pyarrow is imported only where an Arrow batch comes in: the service does without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt

from models.contract import CategoryFeature, Contract, NumberFeature
from models.errors import ColumnError, Problem, ValueRejectedError
from models.transposing import rows_first

if TYPE_CHECKING:
    import pyarrow as pa

Numbers = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]

Value = TypeVar("Value", bound=np.generic)

EXACT = float(2**53)  # up to here a float64 holds every integer, so one rounding makes the float32
NAN = np.float32(np.nan).view(np.int32)
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Encoded:
    """Rows ready for the graph."""

    numbers: Numbers
    categories: Codes

    def __len__(self) -> int:
        """How many rows."""
        return len(self.numbers)

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        """Put rows behind each other; there is at least one part."""
        if len(parts) == 1:
            return parts[0]
        return cls(np.concatenate([p.numbers for p in parts]), np.concatenate([p.categories for p in parts]))

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> Encoded:
        """Pick rows by slice, mask or positions."""
        return Encoded(self.numbers[rows], self.categories[rows])


@dataclass(frozen=True)
class Violation:
    """Rows whose value in one column the contract refuses."""

    column: str
    reason: str
    rows: npt.NDArray[np.int64]  # positions in the batch, ascending


@dataclass(frozen=True)
class Screened:
    """A batch as encoded, and what in it the contract refuses."""

    encoded: Encoded
    violations: list[Violation]
    unseen: dict[str, int]  # rows by category, for values that the vocabulary has not


# --- Arrow ----------------------------------------------------------------------------------------------------------


def check_columns(contract: Contract, schema: pa.Schema) -> None:
    """Raise `ColumnError`, naming every column of the contract that is missing from `schema` or of a wrong type.

    Columns that the contract does not name, and their order, do not matter.
    """
    import pyarrow.types as pt

    wrong = []
    for name, feature in contract.features.items():
        if (found := schema.names.count(name)) != 1:
            wrong.append(f"column {name!r} {'stands twice' if found else 'is missing'} (a {feature.kind} is expected)")
            continue
        dtype = schema.field(name).type
        dtype = dtype.value_type if pt.is_dictionary(dtype) else dtype
        numeric = pt.is_integer(dtype) or pt.is_floating(dtype) or pt.is_decimal(dtype) or pt.is_boolean(dtype)
        text = pt.is_string(dtype) or pt.is_large_string(dtype) or pt.is_integer(dtype) or pt.is_boolean(dtype)
        if isinstance(feature, NumberFeature) and not numeric:
            wrong.append(f"column {name!r} has type {dtype}, but a number is expected")
        elif isinstance(feature, CategoryFeature) and not text:
            wrong.append(f"column {name!r} has type {dtype}, but a category needs text (or integers, booleans)")
    if wrong:
        raise ColumnError(
            f"The data do not fit the contract of model {contract.model!r}: {'; '.join(wrong)}. "
            "Mend the table, or declare the features as they are and train again."
        )


def entity_key_type(schema: pa.Schema, key: str, declared: str = "entity_key") -> Literal["integer", "string"]:
    """Return what kind of key a column is; `ColumnError` when it is missing or can be no key."""
    import pyarrow.types as pt

    found = schema.field(key).type if key in schema.names else None
    if found is not None and pt.is_integer(found):
        return "integer"
    if found is not None and (pt.is_string(found) or pt.is_large_string(found)):
        return "string"
    what = "event key" if declared == "events.key" else "entity key"
    raise ColumnError(
        f"The {what} {key!r} must be a column of integers or texts, but "
        f"{'there is no such column' if found is None else f'it has type {found}'}. "
        f"Name another `{declared}`, or mend the table. Its columns: {', '.join(schema.names)}."
    )


def encode_arrow(contract: Contract, batch: pa.RecordBatch | pa.Table) -> Encoded:
    """Encode the contract's columns of an Arrow batch; other columns and the column order do not matter.

    Dictionary-encoded text is fastest. Raises `ColumnError` for the schema, `ValueRejectedError` for values.
    """
    screened = screen_arrow(contract, batch)
    if screened.violations:
        raise ValueRejectedError([_problem(contract, violation, batch) for violation in screened.violations])
    return screened.encoded


def screen_arrow(contract: Contract, batch: pa.RecordBatch | pa.Table) -> Screened:
    """Encode a batch whatever its values are, and say which rows the contract refuses. `ColumnError` as above.

    An unseen category is no violation: it has a code of its own.
    """
    check_columns(contract, batch.schema)
    numbers = np.empty((len(contract.numbers), batch.num_rows), np.float32)
    categories = np.empty((len(contract.categories), batch.num_rows), np.int32)
    violations: list[Violation] = []
    for name, number, column in zip(contract.numbers, contract.numbers.values(), numbers, strict=True):
        _read_numbers(batch.column(name), column)
        violations += _number_violations(name, number, column)
    for j, (name, category) in enumerate(contract.categories.items()):
        categories[j] = codes = _codes(batch.column(name), category)
        if not category.missing:
            violations += _violations(name, "is missing", codes == category.missing_code)
    unseen = _unseen(contract, categories)
    return Screened(Encoded(rows_first(numbers), rows_first(categories)), violations, unseen)


def unseen_values(contract: Contract, encoded: Encoded) -> dict[str, int]:
    """Count the rows whose category the vocabulary has not, by column; columns without any are left out."""
    return _unseen(contract, encoded.categories.T)


def _unseen(contract: Contract, columns: Codes) -> dict[str, int]:
    """Count by column; int32 [categories, rows]."""
    others = {
        name: int(np.count_nonzero(codes == category.other_code))
        for codes, (name, category) in zip(columns, contract.categories.items(), strict=True)
    }
    return {name: rows for name, rows in others.items() if rows}


def _read_numbers(column: pa.Array | pa.ChunkedArray, out: Numbers) -> None:
    """Read a numeric column as float32 into `out`, null as NaN; plain arrays in one pass over their values."""
    import pyarrow as pa

    plain = isinstance(column, pa.Array) and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
    if not plain:
        out[:] = _float32(column)
        return
    valid, values = column.buffers()
    with np.errstate(over="ignore"):  # too large is infinite, which is out of any bounds
        out[:] = pa.Array.from_buffers(column.type, len(column), [None, values], offset=column.offset).to_numpy()
    if column.null_count:
        skipped, first = divmod(column.offset, 8)
        of_slice = np.frombuffer(valid, np.uint8, offset=skipped)
        bits = np.unpackbits(of_slice, count=first + len(column), bitorder="little")[first:]
        null, words = bits.astype(np.int32) - 1, out.view(np.int32)  # -1 has all bits; no branch, which nulls mislead
        words |= null
        words &= ~null | NAN


def _float32(column: pa.Array | pa.ChunkedArray) -> Numbers:
    """Read a numeric column as float32, null as NaN."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if not pa.types.is_float32(column.type):
        column = column.cast(pa.float32(), safe=False)
    if column.null_count:
        column = column.fill_null(pa.scalar(math.nan, pa.float32()))
    return cast(Numbers, column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy())


def _codes(column: pa.Array | pa.ChunkedArray, feature: CategoryFeature) -> Codes:
    """Read a category column as codes: each chunk's small dictionary is looked up, then its indices are mapped."""
    import pyarrow as pa

    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    code_of = {value: code for code, value in enumerate(feature.values)}
    missing = feature.missing_code
    codes = []
    for chunk in chunks:
        encoded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        words = (_word(value) for value in encoded.dictionary.to_pylist())
        table = np.array([missing if w is None else code_of.get(w, feature.other_code) for w in words], np.int32)
        indices = encoded.indices
        if indices.null_count:
            indices = indices.cast(pa.int32()).fill_null(len(table))
        codes.append(np.append(table, np.int32(missing)).take(indices.to_numpy(zero_copy_only=False)))
    return np.concatenate(codes) if codes else np.empty(0, np.int32)


def _number_violations(name: str, feature: NumberFeature, column: Numbers) -> list[Violation]:
    """Infinities are out of any bounds; NaN is missing, and compares as within them."""
    low, high = _bounds(feature)
    missing = [] if feature.missing else _violations(name, "is missing", np.isnan(column))
    return [*missing, *_violations(name, "is out of bounds", (column < low) | (column > high))]


def _violations(name: str, reason: str, refused: npt.NDArray[np.bool_]) -> list[Violation]:
    return [Violation(name, reason, np.flatnonzero(refused))] if refused.any() else []


def _problem(contract: Contract, violation: Violation, batch: pa.RecordBatch | pa.Table) -> Problem:
    """Put a violation into words, with the first value that is concerned."""
    feature = contract.features[violation.column]
    remedy = _number_remedy(feature) if isinstance(feature, NumberFeature) else _category_remedy(feature)
    missing = violation.reason == "is missing"
    value = None if missing else float(_float32(batch.column(violation.column))[violation.rows[0]])
    return Problem(violation.column, value, f"{violation.reason} in {len(violation.rows)} rows", remedy)


# --- JSON -----------------------------------------------------------------------------------------------------------


def encode_rows(contract: Contract, rows: Sequence[Mapping[str, Any]]) -> Encoded:
    """Encode feature values as a JSON request carries them; an absent key and a null both mean missing.

    Raises `ValueRejectedError` with a problem for each field that does not fit (with `[row]` behind its name when
    there is more than one row). Keys that the contract does not name are refused too: they are most likely typos.
    """
    fitting = _encode_fitting(contract, rows)
    return _encode_any(contract, rows) if fitting is None else fitting


def _encode_fitting(contract: Contract, rows: Sequence[Mapping[str, Any]]) -> Encoded | None:
    """Encode column by column what is plainly right, as `_encode_any` would; None when anything needs a second look."""
    if not all(row.keys() <= contract.features.keys() for row in rows):
        return None
    numbers = np.empty((len(rows), len(contract.numbers)), np.float32)
    categories = np.empty((len(rows), len(contract.categories)), np.int32)
    for j, (name, number) in enumerate(contract.numbers.items()):
        values = _fitting_numbers(number, [row.get(name) for row in rows])
        if values is None:
            return None
        numbers[:, j] = values
    for j, (name, category) in enumerate(contract.categories.items()):
        codes = _fitting_codes(category, [row.get(name) for row in rows])
        if codes is None:
            return None
        categories[:, j] = codes
    return Encoded(numbers, categories)


def _fitting_numbers(feature: NumberFeature, values: list[Any]) -> list[Any] | None:
    low, high = (float(bound) for bound in _bounds(feature))
    low, high = max(low, -EXACT), min(high, EXACT)
    for i, value in enumerate(values):
        kind = type(value)
        if kind is float or kind is int:
            if not low <= value <= high:
                return None
        elif value is None and feature.missing:
            values[i] = math.nan
        else:
            return None
    return values


def _fitting_codes(feature: CategoryFeature, values: list[Any]) -> list[int] | None:
    codes, other, missing = feature.codes, feature.other_code, feature.missing_code if feature.missing else None
    found = []
    for value in values:
        code = codes.get(value, other) if type(value) is str else missing if value is None else None
        if code is None:
            return None
        found.append(code)
    return found


def _encode_any(contract: Contract, rows: Sequence[Mapping[str, Any]]) -> Encoded:
    """Encode value by value, and name each problem."""
    numbers = np.empty((len(rows), len(contract.numbers)), np.float32)
    categories = np.empty((len(rows), len(contract.categories)), np.int32)
    problems: list[Problem] = []
    for i, row in enumerate(rows):
        at = f"[{i}]" if len(rows) > 1 else ""
        known = f"Known: {', '.join(contract.features)}."
        unknown = [name for name in row if name not in contract.features]
        problems += [Problem(name + at, row[name], "is not a feature", known) for name in unknown]
        for j, (name, number) in enumerate(contract.numbers.items()):
            value = _number(name + at, number, row.get(name), problems)
            numbers[i, j] = value
        for j, (name, category) in enumerate(contract.categories.items()):
            categories[i, j] = _code(name + at, category, row.get(name), problems)
    if problems:
        raise ValueRejectedError(problems)
    return Encoded(numbers, categories)


def _number(name: str, feature: NumberFeature, value: Any, problems: list[Problem]) -> float | np.float32:
    """Read one JSON number as the float32 that the same value has in the lake."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        if not feature.missing:
            problems.append(Problem(name, None, "is missing", _number_remedy(feature)))
        return math.nan
    if not isinstance(value, int | float):
        problems.append(Problem(name, value, "is not a number", _number_remedy(feature)))
        return math.nan
    number = _to_float32(value)
    low, high = _bounds(feature)
    if not low <= number <= high:
        problems.append(Problem(name, value, "is out of bounds", _number_remedy(feature)))
    return number


def _to_float32(value: int | float) -> np.float32:
    """Round once, as Arrow does: an int64 goes straight to float32; a larger integer is a float64 without its point."""
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return np.int64(value).astype(np.float32)
    with np.errstate(over="ignore"):
        try:
            return np.float32(value)
        except OverflowError:  # an integer beyond float64
            return np.float32(math.inf if value > 0 else -math.inf)


def _code(name: str, feature: CategoryFeature, value: Any, problems: list[Problem]) -> int:
    word = _word(value)
    if word is None:
        if not feature.missing:
            problems.append(Problem(name, None, "is missing", _category_remedy(feature)))
        return feature.missing_code
    if not isinstance(value, str | int):
        problems.append(Problem(name, value, "is not a text", _category_remedy(feature)))
        return feature.other_code
    try:
        return feature.values.index(word)
    except ValueError:
        return feature.other_code


# --- both -----------------------------------------------------------------------------------------------------------


def _word(value: Any) -> str | None:
    """Write a category's value as text: integers and booleans read as the declaration writes them."""
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _bounds(feature: NumberFeature) -> tuple[np.float32, np.float32]:
    """Bounds as float32, like the values that they are compared with. Infinities never fit."""
    return _as_float32(feature.min, feature.max)


@lru_cache(maxsize=4096)
def _as_float32(least: float | None, most: float | None) -> tuple[np.float32, np.float32]:
    low = -_LARGEST if least is None else least
    high = _LARGEST if most is None else most
    return np.float32(max(low, -_LARGEST)), np.float32(min(high, _LARGEST))


def _number_remedy(feature: NumberFeature) -> str:
    low = "any" if feature.min is None else f"{feature.min:g}"
    high = "any" if feature.max is None else f"{feature.max:g}"
    return f"Give a finite number from {low} to {high}{', or null' if feature.missing else ''}."


def _category_remedy(feature: CategoryFeature) -> str:
    known = ", ".join(feature.values[:8]) + (", ..." if len(feature.values) > 8 else "")
    return f"Give a text, one of: {known}{'; or null' if feature.missing else ''}."
