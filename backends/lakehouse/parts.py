"""Parquet files on their way into a table: no part of it until a commit names them."""

import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.exceptions import CommitStateUnknownException
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import PYARROW_PARQUET_FIELD_ID_KEY
from pyiceberg.schema import Schema
from pyiceberg.types import ListType, NestedField, StructType

from backends.lakehouse.files import files_below
from models.errors import LakehouseError

ROW_GROUP_ROWS = 256 * 1024  # 8 MB of scores until they are written, and enough to read fast
PAGE_ROWS = 64 * 1024  # each page costs whoever reads it a decompressor; a reader holds one of each column


class Part:
    """One Parquet file in the making. It is created with its first rows: one without rows never exists."""

    def __init__(self, parts: "Parts", address: str) -> None:
        self._parts = parts
        self._files = ExitStack()
        self._out: pq.ParquetWriter | None = None
        self._held: list[pa.RecordBatch] = []
        self._held_rows = 0
        self.address = address
        self.rows = 0

    @property
    def addresses(self) -> list[str]:
        """Its address, if it exists."""
        return [self.address] if self._out else []

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows. `LakehouseError` when the disk is full, or refuses for another reason."""
        if len(batch):
            with self._refusals_named():
                self._out = self._out or self._parts.writer(self.address, self._files)
                self._held.append(batch)
                self._held_rows += len(batch)
                self.rows += len(batch)
                if self._held_rows >= ROW_GROUP_ROWS:
                    self._write_held()

    def close(self) -> None:
        """Finish the file."""
        with self._refusals_named(), self._files:
            self._write_held()

    def _write_held(self) -> None:
        """Write a row group: every write to a `ParquetWriter` makes one, and many small ones make a slow file."""
        if self._out and self._held:
            self._out.write_table(pa.Table.from_batches(self._held), ROW_GROUP_ROWS)
            self._held, self._held_rows = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            self._held = []
        self.close()

    @contextmanager
    def _refusals_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LakehouseError(
                f"Part {self.address} cannot be written: {error}. Nothing was published: make room for it, and run "
                "again."
            ) from error


@dataclass(frozen=True)
class Parts:
    """Where the parts of one run go; can be sent to other processes.

    Each attempt to write a part has an address of its own, so that an attempt that was given up, or that runs twice,
    never touches what another one wrote. Use as a context manager: when its body fails, on a full disk for one, what
    the run wrote is removed again. After a commit whose outcome the catalog does not know, it stays: the table may
    need it.
    """

    io: FileIO
    folder: str
    run: str
    schema: pa.Schema
    distinct: tuple[str, ...] = ()

    def begin(self, position: int) -> Part:
        """Begin one part; a context manager. Safe to call from several threads and processes."""
        return Part(self, f"{self.folder}{self.run}-{position:05d}-{uuid.uuid4().hex[:8]}.parquet")

    def write(self, position: int, batches: Iterable[pa.RecordBatch]) -> list[str]:
        """Write one part; return its address, or nothing when there are no rows."""
        with self.begin(position) as part:
            for batch in batches:
                part.write(batch)
        return part.addresses

    def writer(self, address: str, files: ExitStack) -> pq.ParquetWriter:
        """Open a file. Values that hardly repeat are not looked up in a dictionary first: twice as fast, half the size.

        Nor are scores compressed, which takes longer than writing them and saves a twelfth of the file.
        No Arrow schema is stored: dictionary-encoded columns are plain text to every reader.
        """
        stream = files.enter_context(closing(self.io.new_output(address).create(overwrite=True)))
        integers = [name for name in self.distinct if pa.types.is_integer(self.schema.field(name).type)]
        paths = [path for field in self.schema for path in paths_of(field)]
        scores = {name for name in self.distinct if pa.types.is_floating(self.schema.field(name).type)}
        writer = pq.ParquetWriter(
            stream,
            self.schema,
            compression={path: "none" if path in scores else "zstd" for path in paths},
            max_rows_per_page=PAGE_ROWS,
            store_schema=False,
            use_dictionary=[path for path in paths if path not in self.distinct],
            column_encoding=dict.fromkeys(integers, "DELTA_BINARY_PACKED") or None,
        )
        return files.enter_context(writer)

    def remove_all_but(self, kept: Collection[str]) -> int:
        """Remove what the run wrote apart from `kept`, which attempts that were given up have left; return how many."""
        names, removed = {address.rpartition("/")[2] for address in kept}, 0
        for file in files_below(self.io, self.folder):
            name = file.address.rpartition("/")[2]
            if name.startswith(self.run) and name not in names:
                with suppress(OSError):
                    self.io.delete(file.address)
                    removed += 1
        return removed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None and not issubclass(error, CommitStateUnknownException):
            with suppress(LakehouseError):  # of a storage that is gone: what went wrong first is to be said
                self.remove_all_but(())


def new_parts(io: FileIO, folder: str, schema: pa.Schema, distinct: Sequence[str] = ()) -> Parts:
    """Begin a set of parts below `folder` (which ends in a slash).

    `schema` is that of the batches, `distinct` names the columns whose values hardly repeat.
    """
    return Parts(io, folder, uuid.uuid4().hex, schema, tuple(distinct))


def with_field_ids(schema: pa.Schema, table: Schema) -> pa.Schema:
    """Give each column the table's field id: readers find it by that, without the table's name mapping too.

    Columns that the table has not stay without: the commit refuses them by name.
    """
    there = {field.name: field for field in table.fields}
    return pa.schema([_identified(f, there[f.name]) if f.name in there else f for f in schema])


def _identified(field: pa.Field, there: NestedField) -> pa.Field:
    """Give a field, and what is nested in it, the ids that they have in the table."""
    kind = field.type
    if isinstance(there.field_type, ListType):
        kind = pa.list_(_identified(kind.value_field, there.field_type.element_field))
    elif isinstance(there.field_type, StructType):
        inner = {one.name: one for one in there.field_type.fields}
        kind = pa.struct([_identified(one, inner[one.name]) for one in kind])
    return field.with_type(kind).with_metadata({PYARROW_PARQUET_FIELD_ID_KEY: str(there.field_id)})


def paths_of(field: pa.Field, below: str = "") -> list[str]:
    """Return the names of a field's Parquet columns: its own, or those of what is nested in it."""
    path = below + field.name
    if pa.types.is_list(field.type):
        return paths_of(field.type.value_field, f"{path}.list.")
    if pa.types.is_struct(field.type):
        return [found for one in field.type for found in paths_of(one, f"{path}.")]
    return [path]
