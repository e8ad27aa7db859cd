"""The catalog: which tables there are, their snapshots and schemas, and plans to read them."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Self

import pyarrow as pa
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import Table
from pyiceberg.table.snapshots import ancestors_of
from pyiceberg.transforms import IdentityTransform
from sqlalchemy.exc import IntegrityError

from backends.lakehouse.commits import commit_once
from backends.lakehouse.connection import Connection, storage_named
from backends.lakehouse.parts import Parts, new_parts, with_field_ids
from backends.lakehouse.reading import FileTask, Plan, Reader, Snapshot, bytes_of, lightened, pieces_of, snapshot_of
from backends.settings import Settings
from models.errors import LakehouseError, SnapshotNotFoundError, TableNotFoundError

TARGET_FILE_SIZE = 512 * 1024 * 1024  # Iceberg's default
BYTES_PER_ROW = 8.0  # before there are any
ATTEMPTS = 8  # to make a table that others make too


class Lakehouse:
    """A catalog of Iceberg tables. Use as a context manager, or call `close`."""

    def __init__(self, catalog: Connection) -> None:
        self.catalog = catalog

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Connect to the catalog that the settings name; `LakehouseError` when it cannot be reached."""
        return cls(Connection.open(settings))

    def close(self) -> None:
        """Release the catalog's connections."""
        self.catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- reading ------------------------------------------------------------------------------------------------

    def snapshot(self, table: str, snapshot_id: int | None = None) -> Snapshot:
        """Return the named snapshot, or the current one of `main`.

        Raises `TableNotFoundError`, and `SnapshotNotFoundError` where there is no such snapshot or none at all.
        """
        return _snapshot_in(self.load(table), table, snapshot_id)

    def history(self, table: str) -> list[Snapshot]:
        """Return the snapshots that `main` was moved through, newest first."""
        metadata = self.load(table).metadata
        return [snapshot_of(table, ancestor) for ancestor in ancestors_of(metadata.current_snapshot(), metadata)]

    def snapshot_at(self, table: str, moment: datetime) -> Snapshot | None:
        """Return the snapshot that was the current one at a moment; None where there was none, or it is expired."""
        loaded, at = self.load(table), moment.timestamp() * 1000
        before = [entry.snapshot_id for entry in loaded.metadata.snapshot_log if entry.timestamp_ms < at]
        found = loaded.snapshot_by_id(before[-1]) if before else None
        return snapshot_of(table, found) if found else None

    def schema(self, table: str) -> pa.Schema:
        """Return the table's current schema as Arrow."""
        return self.load(table).schema().as_arrow()

    def location(self, table: str) -> str:
        """Return where the table's files are."""
        return str(self.load(table).location())

    def bytes_per_row(self, table: str) -> float:
        """Return the mean size of a row in the current snapshot's files; a guess for a table without rows."""
        return _bytes_per_row(self.load(table))

    def files_for(self, table: str, rows: int) -> float:
        """Return how many data files so many rows are, of the size that the table's should have."""
        loaded = self.load(table)
        size = int(loaded.properties.get("write.target-file-size-bytes", TARGET_FILE_SIZE))
        return rows * _bytes_per_row(loaded) / size

    def plan(
        self,
        table: str,
        columns: Sequence[str] = ("*",),
        snapshot_id: int | None = None,
        dictionary_columns: Sequence[str] = (),
        where: BooleanExpression | None = None,
        ranges_of: Sequence[str] = (),
    ) -> Plan:
        """Pin a snapshot and list its files; nothing is read yet. Columns that are not there raise `LakehouseError`.

        The columns are those of `schema`, whatever the snapshot: one that was added later reads as null. The plan keeps
        the files' ranges of the columns in `ranges_of` alone.
        """
        loaded, where = self.load(table), where or AlwaysTrue()
        snapshot = _snapshot_in(loaded, table, snapshot_id)
        try:
            projection = loaded.schema() if "*" in columns else loaded.schema().select(*columns)
        except ValueError as error:
            names = ", ".join(loaded.schema().column_names)
            raise LakehouseError(f"Table {table!r} cannot be read as asked: {error}. Its columns: {names}.") from error
        scan = loaded.scan(snapshot_id=snapshot.id, row_filter=where)
        rows = ArrowScan(loaded.metadata, loaded.io, projection, where, dictionary_columns=tuple(dictionary_columns))
        with storage_named(loaded.io, loaded.location()):
            ids = {loaded.schema().find_field(name).field_id for name in ranges_of}
            read = projection.field_ids
            tasks = [
                (lightened(task, ids), list(pieces_of(task)), bytes_of(task.file, read)) for task in scan.plan_files()
            ]
        pieces = [(task, *piece) for task, found, _ in tasks for piece in found]
        files = [FileTask(i, rows, task, start, end) for i, (task, start, end, rows) in enumerate(pieces)]
        size = sum(size for *_, size in tasks)
        return Plan(snapshot, files, Reader(table, projection.as_arrow(), rows), size)

    def read(
        self,
        table: str,
        columns: Sequence[str] = ("*",),
        snapshot_id: int | None = None,
        where: BooleanExpression | None = None,
    ) -> pa.Table:
        """Read a pinned snapshot into memory: for tables of examples and samples, not for populations."""
        plan = self.plan(table, columns, snapshot_id, where=where)
        batches = (batch.cast(plan.schema) for batch in plan.stream())
        return pa.Table.from_batches(batches, plan.schema)

    def load(self, table: str) -> Table:
        """Return pyiceberg's own table, for the modules of this package; `TableNotFoundError` where there is none."""
        try:
            return self.catalog.load_table(table)
        except NoSuchTableError as error:
            raise TableNotFoundError(
                f"The catalog has no table {table!r}. Create it, or name another one in the declaration."
            ) from error

    # --- writing ------------------------------------------------------------------------------------------------

    def ensure_table(self, table: str, schema: pa.Schema, partition_by: str | None = None) -> pa.Schema:
        """Create the table, with an empty first snapshot, unless it is there; finish one that was left half made.

        Returns its schema, another one where the table was there. Safe to call from several processes at once.
        `LakehouseError` when others keep coming before.
        """
        for _ in range(ATTEMPTS):
            with suppress(CommitFailedException, IntegrityError, TableAlreadyExistsError):
                made = self._make(table, schema, partition_by)
                if made.current_snapshot():
                    return made.schema().as_arrow()
        raise LakehouseError(f"Table {table!r} cannot be made: others change it without pause. Run again.")

    def parts(self, table: str, folder: str, schema: pa.Schema, distinct: Sequence[str] = ()) -> Parts:
        """Begin a set of Parquet parts below `folder` of the table's data (it ends in a slash): see `new_parts`."""
        loaded = self.load(table)
        identified = with_field_ids(schema, loaded.schema())
        return new_parts(loaded.io, f"{loaded.location()}/data/{folder}", identified, distinct)

    def _make(self, table: str, schema: pa.Schema, partition_by: str | None) -> Table:
        """Take the next step in making a table, if any is left."""
        try:
            made = self.load(table)
        except TableNotFoundError:
            made = self._create(table, schema)
        if made.current_snapshot():
            return made
        if partition_by and made.spec().is_unpartitioned():
            with commit_once(made).update_spec() as update:
                update.add_field(partition_by, IdentityTransform(), partition_by)
        with storage_named(made.io, made.location()):
            commit_once(made).append(schema.empty_table())
        return made

    def _create(self, table: str, schema: pa.Schema) -> Table:
        with suppress(NamespaceAlreadyExistsError):
            self.catalog.create_namespace(table.rsplit(".", 1)[0])
        return self.catalog.create_table_if_not_exists(table, schema)


def _snapshot_in(loaded: Table, table: str, snapshot_id: int | None) -> Snapshot:
    """Return the named snapshot, or the current one; `SnapshotNotFoundError`."""
    found = loaded.current_snapshot() if snapshot_id is None else loaded.snapshot_by_id(snapshot_id)
    if found is None:
        wanted = "no snapshot yet" if snapshot_id is None else f"no snapshot {snapshot_id} (any more)"
        remedy = "Write rows to it first." if snapshot_id is None else "Materialize again what recorded it."
        raise SnapshotNotFoundError(f"Table {table!r} has {wanted}. {remedy}")
    return snapshot_of(table, found)


def _bytes_per_row(loaded: Table) -> float:
    current = loaded.current_snapshot()
    summary = current.summary.additional_properties if current and current.summary else {}
    rows, size = (int(summary.get(name, 0)) for name in ("total-records", "total-files-size"))
    return size / rows if rows and size else BYTES_PER_ROW
