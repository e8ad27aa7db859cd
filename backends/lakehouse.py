"""Iceberg through pyiceberg: pinned reads, and tables that change only by an audited publish.

The one file that knows pyiceberg. Rows leave and enter as Arrow. A publish has three steps, each one commit: `stage`
writes a branch, the caller audits what stands there, `publish` moves `main` to it. Until then readers see the old rows;
a crash at any point leaves at most a branch, which the next `stage` of the same partition removes.
"""

import logging
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Self
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NoSuchTableError,
)
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, EqualTo, In
from pyiceberg.io.pyarrow import ArrowScan, _read_all_delete_files
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot
from pyiceberg.table.snapshots import ancestors_of
from pyiceberg.transforms import IdentityTransform

from backends.settings import Settings
from models.errors import LakehouseError, PublishConflictError, SnapshotNotFoundError, TableNotFoundError

MAIN = "main"
logging.getLogger("pyiceberg.io.pyarrow").addFilter(lambda record: "dictionary type" not in record.getMessage())
PROPERTIES = "tandem."  # prefix of ours among a snapshot's properties


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
    """One data file of a plan: what an engine maps a function over."""

    position: int
    rows: int
    task: FileScanTask


@dataclass(frozen=True)
class Plan:
    """The files of one pinned snapshot and how to read them."""

    snapshot: Snapshot
    schema: pa.Schema
    files: list[FileTask]
    scan: ArrowScan

    def batches(self, file: FileTask) -> Iterator[pa.RecordBatch]:
        """Stream one file's rows; the columns of `dictionary_columns` arrive dictionary-encoded.

        `LakehouseError`, with its address, for a file that is gone or damaged.
        """
        try:
            deletes = _deletes_of(self.scan, file.task)
            # The public `to_record_batches` holds a whole file in memory; this generator under it streams.
            yield from self.scan._record_batches_from_scan_tasks_and_deletes([file.task], deletes)
        except (OSError, pa.ArrowException) as error:
            raise LakehouseError(
                f"Data file {file.task.file.file_path} of table {self.snapshot.table!r} cannot be read: {error}. "
                "Restore it, or write the table again."
            ) from error


@dataclass(frozen=True)
class Staged:
    """Rows on a branch, not published yet."""

    table: str
    branch: str
    base: int
    snapshot: Snapshot


class Parts:
    """Parquet files on their way into a table: no part of it until `stage` or `replace` names them.

    Use as a context manager: when its body fails, on a full disk for one, what was written is removed again. After a
    commit whose outcome the catalog does not know, it stays: the table may need it.
    """

    def __init__(self, table: Table, prefix: str, schema: pa.Schema) -> None:
        self._io = table.io
        self._prefix = prefix
        self._schema = schema
        self.addresses: list[str] = []

    def write(self, position: int, batches: Iterable[pa.RecordBatch]) -> str:
        """Write one part and return its address. Safe to call from several threads, each with its own position.

        `LakehouseError` when the disk is full, or refuses for another reason.
        """
        address = f"{self._prefix}-{position:05d}.parquet"
        self.addresses.append(address)
        try:
            # No stored Arrow schema: dictionary-encoded columns are plain text to every reader.
            with (
                closing(self._io.new_output(address).create(overwrite=True)) as stream,
                pq.ParquetWriter(stream, self._schema, compression="zstd", store_schema=False) as out,
            ):
                for batch in batches:
                    out.write_batch(batch)
        except OSError as error:
            raise LakehouseError(
                f"Part {address} cannot be written: {error}. Nothing was published: make room for it, and run again."
            ) from error
        return address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None or issubclass(error, CommitStateUnknownException):
            return
        for address in self.addresses:
            with suppress(OSError):
                self._io.delete(address)


class Lakehouse:
    """A catalog of Iceberg tables. Use as a context manager, or call `close`."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Connect to the catalog that the settings name: REST for http(s), otherwise SQL."""
        kind = "rest" if urlparse(settings.catalog).scheme in {"http", "https"} else "sql"
        if settings.catalog.startswith("sqlite:///"):
            Path(settings.catalog.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        options = {"type": kind, "uri": settings.catalog, "warehouse": settings.lake}
        return cls(load_catalog("tandem", **options))

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
        loaded = self._load(table)
        found = loaded.current_snapshot() if snapshot_id is None else loaded.snapshot_by_id(snapshot_id)
        if found is None:
            wanted = "no snapshot yet" if snapshot_id is None else f"no snapshot {snapshot_id} (any more)"
            remedy = "Write rows to it first." if snapshot_id is None else "Materialize again what recorded it."
            raise SnapshotNotFoundError(f"Table {table!r} has {wanted}. {remedy}")
        return _snapshot(table, found)

    def history(self, table: str) -> list[Snapshot]:
        """Return the snapshots that `main` was moved through, newest first."""
        metadata = self._load(table).metadata
        return [_snapshot(table, ancestor) for ancestor in ancestors_of(metadata.current_snapshot(), metadata)]

    def schema(self, table: str) -> pa.Schema:
        """Return the table's current schema as Arrow."""
        return self._load(table).schema().as_arrow()

    def location(self, table: str) -> str:
        """Return where the table's files are."""
        return str(self._load(table).location())

    def plan(
        self,
        table: str,
        columns: Sequence[str] = ("*",),
        snapshot_id: int | None = None,
        dictionary_columns: Sequence[str] = (),
        where: BooleanExpression | None = None,
    ) -> Plan:
        """Pin a snapshot and list its files; nothing is read yet. Columns that are not there raise `LakehouseError`.

        The columns are those of `schema`, whatever the snapshot: one that was added later reads as null.
        """
        snapshot = self.snapshot(table, snapshot_id)
        loaded = self._load(table)
        where = where or AlwaysTrue()
        try:
            projection = loaded.schema() if "*" in columns else loaded.schema().select(*columns)
        except ValueError as error:
            names = ", ".join(loaded.schema().column_names)
            raise LakehouseError(f"Table {table!r} cannot be read as asked: {error}. Its columns: {names}.") from error
        scan = loaded.scan(snapshot_id=snapshot.id, row_filter=where)
        reader = ArrowScan(loaded.metadata, loaded.io, projection, where, dictionary_columns=tuple(dictionary_columns))
        files = [FileTask(i, task.file.record_count, task) for i, task in enumerate(scan.plan_files())]
        return Plan(snapshot, projection.as_arrow(), files, reader)

    def read(
        self,
        table: str,
        columns: Sequence[str] = ("*",),
        snapshot_id: int | None = None,
        where: BooleanExpression | None = None,
    ) -> pa.Table:
        """Read a pinned snapshot into memory: for tables of examples and samples, not for populations."""
        plan = self.plan(table, columns, snapshot_id, where=where)
        batches = (batch.cast(plan.schema) for file in plan.files for batch in plan.batches(file))
        return pa.Table.from_batches(batches, plan.schema)

    # --- writing ------------------------------------------------------------------------------------------------

    def ensure_table(self, table: str, schema: pa.Schema, partition_by: str | None = None) -> None:
        """Create the table, with an empty first snapshot, unless it is there; finish one that was left half made."""
        made = self._load(table) if self.catalog.table_exists(table) else self._create(table, schema)
        if made.current_snapshot():
            return
        if partition_by and made.spec().is_unpartitioned():
            with made.update_spec() as update:
                update.add_field(partition_by, IdentityTransform(), partition_by)
        made.append(schema.empty_table())

    def parts(self, table: str, folder: str, schema: pa.Schema) -> "Parts":
        """Begin a set of Parquet parts, written below `folder` of the table's data; `schema` is that of the batches."""
        loaded = self._load(table)
        return Parts(loaded, f"{loaded.location()}/data/{folder}{uuid.uuid4().hex}", schema)

    def replace(self, table: str, parts: Sequence[str], properties: dict[str, str]) -> Snapshot:
        """Make the parts the table's only content, in one commit on `main`; for tables that need no audit."""
        loaded = self._load(table)
        before = loaded.current_snapshot()
        with _conflicts_named(table), loaded.transaction() as change:
            if before and _snapshot(table, before).rows:
                change.delete(AlwaysTrue())
            change.add_files(list(parts), _prefixed(properties), check_duplicate_files=False)
        # Not read anew: an error after the commit would remove parts that the table now needs.
        return _snapshot(table, loaded.current_snapshot())

    # --- the audited publish ------------------------------------------------------------------------------------

    def stage(self, table: str, column: str, value: date, parts: Sequence[str], properties: dict[str, str]) -> Staged:
        """Replace one partition by the parts, on a branch of its own. Stale branches of that partition are removed.

        `PublishConflictError` when somebody else commits in the same moment.
        """
        loaded = self._load(table)
        base, prefix = self.snapshot(table).id, f"audit_{value:%Y%m%d}_"
        branch, partition = prefix + uuid.uuid4().hex[:8], EqualTo(column, value)
        with _conflicts_named(table):
            for stale in [name for name in loaded.refs() if name.startswith(prefix)]:
                loaded.manage_snapshots().remove_branch(stale).commit()
            loaded.manage_snapshots().create_branch(base, branch).commit()
            with loaded.transaction() as change:
                if any(True for _ in loaded.scan(row_filter=partition).use_ref(branch).plan_files()):
                    change.delete(partition, _prefixed(properties), branch=branch)
                change.add_files(list(parts), _prefixed(properties), check_duplicate_files=False, branch=branch)
        return Staged(table, branch, base, _snapshot(table, loaded.snapshot_by_name(branch)))

    def publish(self, staged: Staged) -> Snapshot:
        """Move `main` to the staged snapshot and drop the branch, in one commit.

        `PublishConflictError` when `main` is no longer where the branch began: its rows would be lost.
        """
        loaded = self._load(staged.table)
        current, head = self.snapshot(staged.table).id, loaded.snapshot_by_name(staged.branch)
        with _conflicts_named(staged.table):
            if current != staged.base:
                raise CommitFailedException(f"main is at {current}, branch {staged.branch} began at {staged.base}")
            if head is None or head.snapshot_id != staged.snapshot.id:
                raise CommitFailedException(f"branch {staged.branch} is not at {staged.snapshot.id} any more")
            change = loaded.manage_snapshots().set_current_snapshot(ref_name=staged.branch)
            change.remove_branch(staged.branch).commit()
        return self.snapshot(staged.table)

    def _create(self, table: str, schema: pa.Schema) -> Table:
        with suppress(NamespaceAlreadyExistsError):
            self.catalog.create_namespace(table.rsplit(".", 1)[0])
        return self.catalog.create_table_if_not_exists(table, schema)

    def _load(self, table: str) -> Table:
        try:
            return self.catalog.load_table(table)
        except NoSuchTableError as error:
            raise TableNotFoundError(
                f"The catalog has no table {table!r}. Create it, or name another one in the declaration."
            ) from error


def partition_is(column: str, value: date) -> BooleanExpression:
    """Filter for one daily partition."""
    return EqualTo(column, value)


def is_one_of(column: str, values: Sequence[int] | Sequence[str]) -> BooleanExpression:
    """Filter for a few keys."""
    return In(column, values)


@contextmanager
def _conflicts_named(table: str) -> Iterator[None]:
    """Turn the commit that came second into `PublishConflictError`."""
    try:
        yield
    except (CommitFailedException, ValueError) as error:
        # pyiceberg's SQL catalog reports one of the races as a ValueError about sequence numbers.
        if isinstance(error, ValueError) and "sequence number" not in str(error):
            raise
        raise PublishConflictError(
            f"Table {table!r} was changed by somebody else while its new rows were written or audited ({error}). "
            "Nothing was published: run again, on top of that change."
        ) from error


def _snapshot(table: str, found: IcebergSnapshot | None) -> Snapshot:
    assert found is not None  # every caller has looked, or has just committed it
    summary = found.summary
    entries = summary.additional_properties if summary else {}
    ours = {key.removeprefix(PROPERTIES): value for key, value in entries.items() if key.startswith(PROPERTIES)}
    committed_at = datetime.fromtimestamp(found.timestamp_ms / 1000, UTC)
    rows = int(entries.get("total-records", 0)) - int(entries.get("total-position-deletes", 0))
    return Snapshot(table, found.snapshot_id, rows, committed_at, ours)


def _prefixed(properties: dict[str, str]) -> dict[str, str]:
    return {PROPERTIES + key: value for key, value in properties.items()}


def _deletes_of(scan: ArrowScan, task: FileScanTask) -> dict[str, list[pa.ChunkedArray]]:
    return _read_all_delete_files(scan._io, [task])  # type: ignore[no-any-return]
