"""One file of a request log: its rows as Arrow batches, and the lines that are none, which are set aside, not lost."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic_core import from_json

from models.request_record import DAY, FORMAT, TIME

ASIDE = "bad"  # folder beside the files, of what cannot be read, under the same names
BATCH_ROWS = 8192
UNREADABLE = (ValueError, TypeError, OverflowError, KeyError)  # Arrow's errors are among them

_TYPES: dict[str, tuple[pa.DataType, set[type]]] = {
    "integer": (pa.int64(), {int, type(None)}),
    "small_integer": (pa.int32(), {int, type(None)}),
    "text": (pa.string(), {str, type(None)}),
    "boolean": (pa.bool_(), {bool, type(None)}),
    "time": (pa.timestamp("us", tz="UTC"), {str, type(None)}),
    "numerical": (pa.float32(), {float, int, type(None)}),
    "categorical": (pa.string(), {str, type(None)}),
}


class LogFile:
    """A complete file. `rows`, `bad_lines` and `reason` (of the last one) are known when it was read.

    `schema` has the columns of its rows and their day; none when the first line does not name them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = self.bad_lines = 0
        self.reason = ""
        with path.open("rb") as file:
            self._kinds = _kinds_of(file.readline())
        fields = [(name, _TYPES[kind][0]) for name, kind in self._kinds.items()]
        self.schema = pa.schema([*fields, (DAY, pa.date32())] if fields else [])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the rows and set aside the lines that are none."""
        with self.path.open("rb") as file:
            file.readline()
            while lines := list(islice(file, BATCH_ROWS)):
                try:
                    batch = self._rows_of(lines)
                except UNREADABLE:
                    batch = self._sorted_out(lines)
                self.rows += batch.num_rows
                yield batch

    def refuse(self, reason: str) -> None:
        """Set all of it aside."""
        self._set_aside(self.path.read_bytes().splitlines(keepends=True))
        self.reason = reason

    def _sorted_out(self, lines: list[bytes]) -> pa.RecordBatch:
        good, bad = [], []
        for line in lines:
            try:
                self._rows_of([line])
                good.append(line)
            except UNREADABLE as error:
                self.reason = str(error)
                bad.append(line)
        self._set_aside(bad)
        return self._rows_of(good)

    def _set_aside(self, lines: list[bytes]) -> None:
        folder = self.path.parent / ASIDE
        folder.mkdir(exist_ok=True, mode=0o700)
        mode = "ab" if self.bad_lines else "wb"  # the first time it replaces what a run that was killed has left
        with (folder / self.path.name).open(mode) as file:
            file.writelines(lines)
        self.bad_lines += len(lines)

    def _rows_of(self, lines: list[bytes]) -> pa.RecordBatch:
        """Return the rows of some lines; one of `UNREADABLE` when any of them cannot be read."""
        rows = [_row(line) for line in lines]
        columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(self._kinds)
        arrays = [_array(name, kind, values) for (name, kind), values in zip(self._kinds.items(), columns, strict=True)]
        days = arrays[list(self._kinds).index(TIME)].cast(pa.date32())
        if days.null_count:
            raise ValueError(f"{TIME} is missing")
        return pa.RecordBatch.from_arrays([*arrays, days], schema=self.schema)


def _row(line: bytes) -> list[Any]:
    row = from_json(line, allow_inf_nan=False)
    if not isinstance(row, list):
        raise TypeError("a line is no JSON array")
    return row


def _array(name: str, kind: str, values: Sequence[Any]) -> pa.Array:
    """Return a column; Arrow alone would round 1.5 to an integer and read true as 1."""
    dtype, types = _TYPES[kind]
    if strange := set(map(type, values)) - types:
        raise TypeError(f"{name} is {', '.join(sorted(t.__name__ for t in strange))}, not {kind}")
    return pa.array(values, pa.string()).cast(dtype) if kind == "time" else pa.array(values, dtype)


def _kinds_of(header: bytes) -> dict[str, str]:
    """Return the kind of each column that a file's first line names; nothing when it is no such line."""
    try:
        read = from_json(header)
        columns = {column["name"]: column["type"] for column in read["columns"]} if read["format"] == FORMAT else {}
        sound = len(columns) == len(read["columns"]) and TIME in columns and DAY not in columns
        return columns if sound and all(kind in _TYPES for kind in columns.values()) else {}
    except UNREADABLE:
        return {}
