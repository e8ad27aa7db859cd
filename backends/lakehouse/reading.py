"""Pinned reads: a plan lists the files of one snapshot; a reader streams their rows, in this process or another.

A file is read in pieces of some row groups, so that a table of one large file keeps all cores busy too. pyiceberg reads
what has deleted rows or a filter; anything else is streamed here, a few batches ahead of nobody: its scanner would hold
two million rows of each file in memory.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.conversions import from_bytes
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, EqualTo, GreaterThanOrEqual, In, LessThan
from pyiceberg.io.pyarrow import (
    ArrowScan,
    _get_column_projection_values,
    _read_all_delete_files,
    _to_requested_schema,
    pyarrow_to_schema,
)
from pyiceberg.manifest import DataFile, FileFormat
from pyiceberg.schema import Schema, prune_columns
from pyiceberg.table import FileScanTask
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot
from pyiceberg.types import PrimitiveType

from models.errors import LakehouseError

BATCH_ROWS = 65_536  # smaller ones wait for Python's lock more often, larger ones need more memory
END = 2**63 - 1
PROPERTIES = "tandem."  # prefix of ours among a snapshot's properties
logging.getLogger("pyiceberg.io.pyarrow").addFilter(lambda record: "dictionary type" not in record.getMessage())

Key = int | str
Filter = BooleanExpression


@dataclass(frozen=True)
class Snapshot:
    """One state of a table. `properties` are those that Tandem wrote, without their prefix."""

    table: str
    id: int
    rows: int
    committed_at: datetime
    properties: dict[str, str] = field(default_factory=dict)
    bytes_added: int = 0  # size of the files that it added


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
class Layout:
    """What files with the same columns have of those that are read."""

    physical: Schema  # all columns of the files
    present: Schema
    dictionaries: list[str]  # texts to read dictionary-encoded
    as_wanted: bool  # the very columns that are read, in their order


@dataclass(frozen=True)
class Reader:
    """How to read the files of one snapshot; can be sent to other processes."""

    table: str
    schema: pa.Schema
    scan: ArrowScan
    _layouts: dict[bytes, Layout] = field(default_factory=dict, repr=False, compare=False)

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
        with self.scan._io.new_input(file.address).open() as stream:
            footer = pq.read_metadata(stream)
            layout = self._layout(footer.schema.to_arrow_schema())
            parquet = pq.ParquetFile(stream, metadata=footer, read_dictionary=layout.dictionaries, pre_buffer=True)
            for batch in _batches(parquet, file, layout.present):
                plain = layout.as_wanted and _reads_as(batch.schema, self.schema)
                yield batch if plain else self._as_requested(file, layout, batch)

    def _layout(self, found: pa.Schema) -> Layout:
        """Match a file's columns with those of the table; once for all files that have the same."""
        columns = found.serialize().to_pybytes()  # two schemas are equal whatever their field ids are
        if (known := self._layouts.get(columns)) is not None:
            return known
        wanted, table = self.scan._projected_schema, self.scan._table_metadata
        version = table.format_version
        physical = pyarrow_to_schema(found, table.name_mapping(), version <= 2, version)
        present = prune_columns(physical, self.scan._projected_field_ids, select_full_types=False)
        texts = {table.schema().find_field(name).field_id for name in self.scan._dictionary_columns}
        self._layouts[columns] = layout = Layout(
            physical,
            present,
            dictionaries=[f.name for f in present.fields if f.field_id in texts],
            as_wanted=[(f.field_id, f.name) for f in present.fields] == [(f.field_id, f.name) for f in wanted.fields],
        )
        return layout

    def _as_requested(self, file: FileTask, layout: Layout, batch: pa.RecordBatch) -> pa.RecordBatch:
        wanted, table = self.scan._projected_schema, self.scan._table_metadata
        spec, ids = table.specs().get(file.task.file.spec_id), layout.physical.field_ids
        return _to_requested_schema(
            wanted,
            layout.present,
            batch,
            table.format_version <= 2,
            projected_missing_fields=_get_column_projection_values(file.task.file, wanted, table.schema(), spec, ids),
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
    bytes: int = 0  # of the columns that are read, as they lie in the files

    @property
    def schema(self) -> pa.Schema:
        """The columns that are read."""
        return self.reader.schema

    def batches(self, file: FileTask) -> Iterator[pa.RecordBatch]:
        """Stream one file's rows: see `Reader.batches`."""
        return self.reader.batches(file)

    def stream(self) -> Iterator[pa.RecordBatch]:
        """Stream the rows of all files, one after the other."""
        return chain.from_iterable(map(self.batches, self.files))

    def shares(self, count: int) -> list[Share]:
        """Deal the files out, in their order, into at most `count` shares of about as many rows each."""
        total, dealt, seen = sum(file.rows for file in self.files), dict[int, list[FileTask]](), 0
        for file in self.files:
            dealt.setdefault(min(count - 1, count * seen // max(1, total)), []).append(file)
            seen += file.rows
        return [Share(position, joined(files)) for position, files in enumerate(dealt.values())]


def joined(files: Sequence[FileTask]) -> tuple[FileTask, ...]:
    """Make one piece of those that follow each other in a file, so that its footer is read once."""
    whole: list[FileTask] = []
    for file in files:
        if whole and whole[-1].task is file.task and whole[-1].end == file.start:
            whole[-1] = replace(whole[-1], rows=whole[-1].rows + file.rows, end=file.end)
        else:
            whole.append(file)
    return tuple(whole)


def is_plain(task: FileScanTask) -> bool:
    """Tell whether every row of a Parquet file is in the plan: none is deleted, and none filtered out."""
    return task.file.file_format == FileFormat.PARQUET and not task.delete_files and task.residual == AlwaysTrue()


def bytes_of(file: DataFile, fields: Collection[int]) -> int:
    """Return how large some columns of a file are, as its manifest has it; the whole file where it does not say."""
    sizes = file.column_sizes or {}
    return sum(sizes.get(field, 0) for field in fields) if sizes else int(file.file_size_in_bytes)


def lightened(task: FileScanTask, ranges_of: Collection[int]) -> FileScanTask:
    """Leave away what a manifest says of each column, apart from some columns' ranges: nine tenths of a plan."""
    file = task.file
    lower, upper = (
        {field: bound for field, bound in (bounds or {}).items() if field in ranges_of}
        for bounds in (file.lower_bounds, file.upper_bounds)
    )
    light = DataFile.from_args(
        content=file.content,
        file_path=file.file_path,
        file_format=file.file_format,
        partition=file.partition,
        record_count=file.record_count,
        file_size_in_bytes=file.file_size_in_bytes,
        lower_bounds=lower,
        upper_bounds=upper,
    )
    light.spec_id = file.spec_id
    return FileScanTask(light, task.delete_files, task.residual)


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
    for group in groups:  # one by one: all that are asked for at once are fetched at once
        yield from parquet.iter_batches(BATCH_ROWS, [group], names, use_threads=False)


def _reads_as(found: pa.Schema, wanted: pa.Schema) -> bool:
    """Tell whether columns need no conversion: texts are texts, however they are laid out."""
    return all(a == b or (_is_text(a) and _is_text(b)) for a, b in zip(found.types, wanted.types, strict=True))


def _is_text(dtype: pa.DataType) -> bool:
    plain = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain))


def _begin_of(group: pq.RowGroupMetaData) -> int:
    first = group.column(0)
    return int(first.dictionary_page_offset or first.data_page_offset)


def prefixed(properties: dict[str, str]) -> dict[str, str]:
    """Return properties as they stand in a snapshot: those of Tandem begin with its name."""
    return {PROPERTIES + key: value for key, value in properties.items()}


def partition_is(column: str, value: date) -> BooleanExpression:
    """Filter for one daily partition."""
    return EqualTo(column, value)


def is_within(column: str, first: date | datetime, end: date | datetime) -> BooleanExpression:
    """Filter for a span of time, without its end. Dates are for a column of dates, datetimes for one of timestamps."""
    return And(GreaterThanOrEqual(column, first.isoformat()), LessThan(column, end.isoformat()))


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
    return Snapshot(table, found.snapshot_id, rows, committed_at, ours, int(entries.get("added-files-size", 0)))
