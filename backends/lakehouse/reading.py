"""Pinned reads: a plan lists the files of one snapshot; a reader streams their rows, in this process or another.

A file is read in pieces of some row groups, so that a table of one large file keeps all cores busy too. pyiceberg reads
what has deleted rows or a filter; anything else is streamed here, a few batches ahead of nobody: its scanner would hold
two million rows of each file in memory.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.conversions import from_bytes
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, EqualTo, In
from pyiceberg.io.pyarrow import (
    ArrowScan,
    _get_column_projection_values,
    _read_all_delete_files,
    _to_requested_schema,
    pyarrow_to_schema,
)
from pyiceberg.manifest import FileFormat
from pyiceberg.schema import Schema, prune_columns
from pyiceberg.table import FileScanTask
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot
from pyiceberg.types import PrimitiveType

from models.errors import LakehouseError

BATCH_ROWS = 32_768  # a batch and what is made of it stay in the cache
END = 2**63 - 1
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
    """One data file of a plan, or a piece of it: the row groups that begin from `start` up to `end`, in bytes."""

    position: int
    rows: int  # of a piece: about
    task: FileScanTask
    start: int = 0
    end: int = END

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
            yield from self._stream(file) if is_plain(file.task) else self._merged(file)
        except (OSError, pa.ArrowException) as error:
            raise LakehouseError(
                f"Data file {file.address} of table {self.table!r} cannot be read: {error}. "
                "Restore it, or the storage if that is down, and run again."
            ) from error

    def _merged(self, file: FileTask) -> Iterator[pa.RecordBatch]:
        deletes = _read_all_delete_files(self.scan._io, [file.task])
        # The public `to_record_batches` holds a whole file in memory; this generator under it streams.
        yield from self.scan._record_batches_from_scan_tasks_and_deletes([file.task], deletes)

    def _stream(self, file: FileTask) -> Iterator[pa.RecordBatch]:
        """Read the piece's row groups in small batches, as pyiceberg would: columns by id, absent ones null."""
        wanted, table = self.scan._projected_schema, self.scan._table_metadata
        with self.scan._io.new_input(file.address).open() as stream:
            footer = pq.read_metadata(stream)
            names, version = table.name_mapping(), table.format_version
            physical = pyarrow_to_schema(footer.schema.to_arrow_schema(), names, version <= 2, version)
            present = prune_columns(physical, self.scan._projected_field_ids, select_full_types=False)
            spec = table.specs().get(file.task.file.spec_id)
            absent = _get_column_projection_values(file.task.file, wanted, table.schema(), spec, physical.field_ids)
            texts = {table.schema().find_field(name).field_id for name in self.scan._dictionary_columns}
            dictionaries = [field.name for field in present.fields if field.field_id in texts]
            parquet = pq.ParquetFile(stream, metadata=footer, read_dictionary=dictionaries, pre_buffer=True)
            for batch in _batches(parquet, file, present):
                yield _to_requested_schema(
                    wanted,
                    present,
                    batch,
                    version <= 2,
                    projected_missing_fields=absent,
                    allow_timestamp_tz_mismatch=True,
                )

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


def is_plain(task: FileScanTask) -> bool:
    """Tell whether every row of a Parquet file is in the plan: none is deleted, and none filtered out."""
    return task.file.file_format == FileFormat.PARQUET and not task.delete_files and task.residual == AlwaysTrue()


def pieces_of(task: FileScanTask) -> Iterator[tuple[int, int, int]]:
    """Yield the start and the end of each row group, as the manifest has them, with about how many rows it has."""
    starts = (task.file.split_offsets or []) if is_plain(task) else []
    if len(starts) < 2:
        yield 0, END, task.file.record_count
        return
    ends = [*starts[1:], END]
    done = 0
    for i, (start, end) in enumerate(zip([0, *starts[1:]], ends, strict=True), 1):
        rows = task.file.record_count * i // len(starts) - done
        done += rows
        yield start, end, rows


def _batches(parquet: pq.ParquetFile, file: FileTask, columns: Schema) -> Iterator[pa.RecordBatch]:
    """Stream the row groups that begin in the piece, on this thread alone."""
    begins = [_begin_of(parquet.metadata.row_group(i)) for i in range(parquet.metadata.num_row_groups)]
    groups = [i for i, begin in enumerate(begins) if file.start <= begin < file.end]
    names = [field.name for field in columns.fields]
    yield from parquet.iter_batches(BATCH_ROWS, groups, names, use_threads=False)


def _begin_of(group: pq.RowGroupMetaData) -> int:
    first = group.column(0)
    return int(first.dictionary_page_offset or first.data_page_offset)


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
