"""Pinned reads: a plan lists the files of one snapshot; a reader streams their rows, in this process or another."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import pyarrow as pa
from pyiceberg.conversions import from_bytes
from pyiceberg.expressions import BooleanExpression, EqualTo, In
from pyiceberg.io.pyarrow import ArrowScan, _read_all_delete_files
from pyiceberg.table import FileScanTask
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot
from pyiceberg.types import PrimitiveType

from models.errors import LakehouseError

PROPERTIES = "tandem."  # prefix of ours among a snapshot's properties
logging.getLogger("pyiceberg.io.pyarrow").addFilter(lambda record: "dictionary type" not in record.getMessage())

Key = int | str


@dataclass(frozen=True)
class Snapshot:
    """One state of a table. `properties` are those that Tandem wrote, without their prefix."""

    table: str
    id: int
    rows: int
    committed_at: datetime
    properties: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FileTask:
    """One data file of a plan."""

    position: int
    rows: int
    task: FileScanTask

    @property
    def address(self) -> str:
        """Where the file is."""
        return str(self.task.file.file_path)


@dataclass(frozen=True)
class Share:
    """Files that belong together: what an engine maps a function over."""

    position: int
    files: tuple[FileTask, ...]

    @property
    def rows(self) -> int:
        """How many rows the files have, deleted ones included."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class Reader:
    """How to read the files of one snapshot; can be sent to other processes."""

    table: str
    schema: pa.Schema
    scan: ArrowScan

    def batches(self, file: FileTask) -> Iterator[pa.RecordBatch]:
        """Stream one file's rows; the columns of `dictionary_columns` arrive dictionary-encoded.

        `LakehouseError`, with its address, for a file that is gone or damaged.
        """
        try:
            deletes = _read_all_delete_files(self.scan._io, [file.task])
            # The public `to_record_batches` holds a whole file in memory; this generator under it streams.
            yield from self.scan._record_batches_from_scan_tasks_and_deletes([file.task], deletes)
        except (OSError, pa.ArrowException) as error:
            raise LakehouseError(
                f"Data file {file.address} of table {self.table!r} cannot be read: {error}. "
                "Restore it, or write the table again."
            ) from error

    def range_of(self, file: FileTask, column: str) -> tuple[Key, Key] | None:
        """Return bounds of a file's integers or texts as the manifest has them; None where it has none."""
        found = self.scan._table_metadata.schema().find_field(column)
        low = (file.task.file.lower_bounds or {}).get(found.field_id)
        high = (file.task.file.upper_bounds or {}).get(found.field_id)
        if low is None or high is None or not isinstance(found.field_type, PrimitiveType):
            return None
        return from_bytes(found.field_type, low), from_bytes(found.field_type, high)


@dataclass(frozen=True)
class Plan:
    """The files of one pinned snapshot and how to read them."""

    snapshot: Snapshot
    files: list[FileTask]
    reader: Reader

    @property
    def schema(self) -> pa.Schema:
        """The columns that are read."""
        return self.reader.schema

    def batches(self, file: FileTask) -> Iterator[pa.RecordBatch]:
        """Stream one file's rows: see `Reader.batches`."""
        return self.reader.batches(file)

    def shares(self, count: int) -> list[Share]:
        """Deal the files out, in their order, into at most `count` shares of about as many rows each."""
        total, dealt, seen = sum(file.rows for file in self.files), dict[int, list[FileTask]](), 0
        for file in self.files:
            dealt.setdefault(min(count - 1, count * seen // max(1, total)), []).append(file)
            seen += file.rows
        return [Share(position, tuple(files)) for position, files in enumerate(dealt.values())]


def partition_is(column: str, value: date) -> BooleanExpression:
    """Filter for one daily partition."""
    return EqualTo(column, value)


def is_one_of(column: str, values: Sequence[int] | Sequence[str]) -> BooleanExpression:
    """Filter for a few keys."""
    return In(column, values)


def snapshot_of(table: str, found: IcebergSnapshot | None) -> Snapshot:
    """Read what pyiceberg knows of a snapshot."""
    assert found is not None  # every caller has looked, or has just committed it
    summary = found.summary
    entries = summary.additional_properties if summary else {}
    ours = {key.removeprefix(PROPERTIES): value for key, value in entries.items() if key.startswith(PROPERTIES)}
    committed_at = datetime.fromtimestamp(found.timestamp_ms / 1000, UTC)
    rows = int(entries.get("total-records", 0)) - int(entries.get("total-position-deletes", 0))
    return Snapshot(table, found.snapshot_id, rows, committed_at, ours)
