"""Tables that come in from outside: several at once, each in one commit, and none of them half.

All files are written first, which is what can fail for long; only then do the commits follow each other. A new table is
made by the commit that fills it: of several who make it at once the first does, and the others have nothing to undo.
When a commit fails, or what the caller does once all are loaded, those before it are put back.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    TableAlreadyExistsError,
)
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.table import Table, TableProperties, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import SetCurrentSchemaUpdate, SetPropertiesUpdate
from pyiceberg.table.update.snapshot import ManageSnapshots
from sqlalchemy.exc import IntegrityError

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.commits import Change, commit_once, failures_named
from backends.lakehouse.connection import CommitUnknownError
from backends.lakehouse.parts import Parts, new_parts, with_field_ids
from backends.lakehouse.reading import Snapshot, snapshot_of
from models.errors import LakehouseError, PublishConflictError

MADE_BY_OTHERS = (CommitFailedException, TableAlreadyExistsError, IntegrityError)


@dataclass(frozen=True)
class Incoming:
    """A table's name, its columns, and where its rows come from."""

    table: str
    schema: pa.Schema
    batches: Callable[[], Iterable[pa.RecordBatch]]
    distinct: tuple[str, ...] = ()  # columns whose values hardly repeat


@contextmanager
def loading(lake: Lakehouse, incoming: Sequence[Incoming], replace: bool) -> Iterator[list[Snapshot]]:
    """Write each table's rows in one commit; when one fails, or the body, put all of them back.

    With `replace`, of tables that are there too, columns and all: what stood in them stays readable by its snapshot.
    `LakehouseError` for tables that are there otherwise; nothing is written then. `PublishConflictError` when somebody
    else makes or changes one of them meanwhile. What cannot be put back is named by the error, with the remedy.
    """
    there = [table.table for table in incoming if has_rows(lake, table.table)]
    if there and not replace:
        raise LakehouseError(
            f"The catalog has {' and '.join(there)} already. --replace puts the new rows in their place, in one commit "
            "each; the old ones stay readable by their snapshots. Or take another name."
        )
    begun: list[_Load] = []
    try:
        for table in incoming:
            begun.append(_begin(lake, table))
            begun[-1].write()
        yield [load.commit() for load in begun]
    except CommitStateUnknownException as error:
        names = " and ".join(load.incoming.table for load in begun)
        raise CommitUnknownError(
            f"{error} Which of {names} have their new rows is not known: run again with --replace."
        ) from error
    except BaseException as error:
        if left := " ".join(filter(None, [load.put_back(lake) for load in reversed(begun)])):
            raise LakehouseError(f"{error} {left}") from error
        raise


def load(lake: Lakehouse, incoming: Sequence[Incoming], replace: bool) -> list[Snapshot]:
    """Write each table's rows in one commit, or nothing: see `loading`."""
    with loading(lake, incoming, replace) as snapshots:
        return snapshots


def has_rows(lake: Lakehouse, table: str) -> bool:
    """Whether the catalog has a table with rows."""
    if not lake.catalog.table_exists(table):
        return False
    current = lake.load(table).current_snapshot()
    return current is not None and snapshot_of(table, current).rows > 0


# --- one table ------------------------------------------------------------------------------------------------------


@dataclass
class _Load:
    """One table on its way: a change of it that waits for its commit, and the files that the change names."""

    incoming: Incoming
    change: Transaction
    before: TableMetadata | None  # None where the commit makes the table
    parts: Parts
    snapshot: Snapshot | None = None  # as it is going to be
    begun: bool = False  # its commit, which may have taken place since

    def write(self) -> None:
        """Write the files, and name them in the change."""
        addresses = self.parts.write(0, self.incoming.batches())
        with failures_named(self.incoming.table):
            current = self.before.current_snapshot() if self.before else None
            if current and snapshot_of(self.incoming.table, current).rows:
                self.change.delete(AlwaysTrue())
            self.change.add_files(addresses, check_duplicate_files=False)
        self.snapshot = snapshot_of(self.incoming.table, self.change.table_metadata.current_snapshot())

    def commit(self) -> Snapshot:
        """Commit the change, once; `PublishConflictError` when somebody else was faster."""
        assert self.snapshot is not None  # written first
        self.begun = True
        with failures_named(self.incoming.table):
            if self.before is not None:
                self.change.commit_transaction()
                return self.snapshot
            try:
                self.change.commit_transaction()
            except MADE_BY_OTHERS as error:
                raise PublishConflictError(
                    f"Table {self.incoming.table!r} was made by somebody else in the same moment, and stays theirs. "
                    "Take another name, or --replace it."
                ) from error
        return self.snapshot

    def put_back(self, lake: Lakehouse) -> str:
        """Undo what was done; return what is to be said of a table that is not as it was."""
        if not self.begun:
            self._remove_files()
            return ""
        has = "may have"  # until the catalog has been asked
        try:
            with failures_named(self.incoming.table):
                there = self._committed(lake)
                has = "has"
                return self._undo(lake, there) if there else ""
        except Exception as error:  # noqa: BLE001  # whatever it is: what went wrong first is to be said too
            old = self.before.current_snapshot() if self.before else None
            old_rows = f" (the old ones are snapshot {old.snapshot_id})" if old else ""
            return (
                f"And {self.incoming.table} could not be put back: it {has} its new rows{old_rows}. Run again with "
                f"--replace. ({error})"
            )

    def _committed(self, lake: Lakehouse) -> Table | None:
        """Return the table if it has the new rows; else the files are removed."""
        assert self.snapshot is not None  # a commit has begun
        there = lake.load(self.incoming.table) if lake.catalog.table_exists(self.incoming.table) else None
        if there is None or there.snapshot_by_id(self.snapshot.id) is None:
            self._remove_files()
            return None
        return there

    def _undo(self, lake: Lakehouse, there: Table) -> str:
        assert self.snapshot is not None
        if there.current_snapshot().snapshot_id != self.snapshot.id:
            return f"{self.incoming.table} was changed by somebody else since, and stays as they left it."
        if self.before is None:
            lake.catalog.drop_table(self.incoming.table)
            self._remove_files()
        else:
            _go_back(Change(commit_once(there)), self.before)
        return ""

    def _remove_files(self) -> None:
        with suppress(LakehouseError):  # of a storage that is gone: what went wrong first is to be said
            self.parts.remove_all_but(())


def _begin(lake: Lakehouse, incoming: Incoming) -> _Load:
    """Plan a table's columns; its files are going to have their field ids."""
    before = None
    if lake.catalog.table_exists(incoming.table):
        lake.ensure_table(incoming.table, incoming.schema)  # one without a snapshot gets one to go back to
        change: Transaction = Change(commit_once(lake.load(incoming.table)))
        before = change.table_metadata
        _with_columns(change, incoming.schema)
    else:
        with suppress(NamespaceAlreadyExistsError):
            lake.catalog.create_namespace(incoming.table.rsplit(".", 1)[0])
        change = lake.catalog.create_table_transaction(incoming.table, incoming.schema)
        change._table.catalog = lake.catalog  # so that what it cannot reach is said
    planned = change.table_metadata
    folder = f"{planned.location}/data/"
    schema = with_field_ids(incoming.schema, planned.schema())
    return _Load(incoming, change, before, new_parts(change._table.io, folder, schema, incoming.distinct))


def _go_back(change: Change, before: TableMetadata) -> None:
    """Give a table the rows and columns that it had, in one commit; what was loaded stays readable by its snapshot."""
    ManageSnapshots(change).set_current_snapshot(before.current_snapshot_id).commit()
    change._stage((SetCurrentSchemaUpdate(schema_id=before.current_schema_id),))
    if mapping := before.properties.get(TableProperties.DEFAULT_NAME_MAPPING):
        change._stage((SetPropertiesUpdate(updates={TableProperties.DEFAULT_NAME_MAPPING: mapping}),))
    change.commit_transaction()


def _with_columns(change: Transaction, wanted: pa.Schema) -> None:
    """Give the table the columns of `wanted` and no others."""
    there = {field.name: field.type for field in change.table_metadata.schema().as_arrow()}
    gone = [name for name, dtype in there.items() if name not in wanted.names or not _holds(dtype, wanted.field(name))]
    if gone:
        with change.update_schema(allow_incompatible_changes=True) as update:
            for name in gone:
                update.delete_column((name,))
    new = pa.schema([field for field in wanted if field.name not in there or field.name in gone])
    if len(new):
        with change.update_schema() as update:
            update.union_by_name(new)


def _holds(dtype: pa.DataType, field: pa.Field) -> bool:
    plain = pa.string() if pa.types.is_large_string(dtype) else dtype
    return bool(plain == field.type)
