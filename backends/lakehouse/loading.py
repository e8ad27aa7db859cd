"""Tables that come in from outside: several at once, each in one commit, and none of them half.

All files are written first, which is what can fail for long; only then do the commits follow each other. A table that
was made for rows which did not come is dropped again.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.exceptions import CommitStateUnknownException
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.schema import Schema
from pyiceberg.table import Table

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.commits import Change, commit_once, failures_named
from backends.lakehouse.parts import new_parts, with_field_ids
from backends.lakehouse.reading import Snapshot, prefixed, snapshot_of
from models.errors import LakehouseError


@dataclass(frozen=True)
class Incoming:
    """A table's name, its columns, and where its rows come from."""

    table: str
    schema: pa.Schema
    batches: Callable[[], Iterable[pa.RecordBatch]]
    distinct: tuple[str, ...] = ()  # columns whose values hardly repeat
    properties: tuple[tuple[str, str], ...] = ()  # of the snapshot


def load(lake: Lakehouse, incoming: Sequence[Incoming], replace: bool) -> list[Snapshot]:
    """Write each table's rows in one commit. With `replace`, of tables that are there too, columns and all.

    What stood in them stays readable by its snapshot. `LakehouseError` for tables that are there otherwise; nothing is
    written then.
    """
    there = [table.table for table in incoming if has_rows(lake, table.table)]
    if there and not replace:
        raise LakehouseError(
            f"The catalog has {' and '.join(there)} already. --replace puts the new rows in their place, in one commit "
            "each; the old ones stay readable by their snapshots. Or take another name."
        )
    made = [table.table for table in incoming if not lake.catalog.table_exists(table.table)]
    try:
        return _load(lake, incoming)
    except CommitStateUnknownException:
        raise
    except BaseException:
        for table in made:
            with suppress(Exception):  # what went wrong first is to be said
                lake.catalog.drop_table(table)
        raise


def has_rows(lake: Lakehouse, table: str) -> bool:
    """Whether the catalog has a table with rows; one without is what a killed run may leave."""
    if not lake.catalog.table_exists(table):
        return False
    current = lake.load(table).current_snapshot()
    return current is not None and snapshot_of(table, current).rows > 0


def _load(lake: Lakehouse, incoming: Sequence[Incoming]) -> list[Snapshot]:
    with ExitStack() as stack:
        ready = [_written(lake, table, stack) for table in incoming]
        return [_committed(table, loaded, addresses) for table, loaded, addresses in ready]


def _written(lake: Lakehouse, incoming: Incoming, stack: ExitStack) -> tuple[Incoming, Table, list[str]]:
    """Write a table's files, with the field ids that its columns are going to have."""
    lake.ensure_table(incoming.table, incoming.schema)
    loaded = commit_once(lake.load(incoming.table))
    planned = _with_columns(Change(loaded), incoming.schema)
    schema = with_field_ids(incoming.schema, planned)
    folder = f"{loaded.location()}/data/"
    parts = stack.enter_context(new_parts(loaded.io, folder, schema, incoming.distinct))
    return incoming, loaded, parts.write(0, incoming.batches())


def _committed(incoming: Incoming, loaded: Table, addresses: Sequence[str]) -> Snapshot:
    before = loaded.current_snapshot()
    with failures_named(incoming.table), Change(loaded) as change:
        _with_columns(change, incoming.schema)
        if before and snapshot_of(incoming.table, before).rows:
            change.delete(AlwaysTrue())
        change.add_files(list(addresses), prefixed(dict(incoming.properties)), check_duplicate_files=False)
    # Not read anew: an error after the commit would remove parts that the table now needs.
    return snapshot_of(incoming.table, loaded.current_snapshot())


def _with_columns(change: Change, wanted: pa.Schema) -> Schema:
    """Give the table the columns of `wanted` and no others, and return its schema as it will be."""
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
    return change.table_metadata.schema()


def _holds(dtype: pa.DataType, field: pa.Field) -> bool:
    plain = pa.string() if pa.types.is_large_string(dtype) else dtype
    return bool(plain == field.type)
