"""Ledgers: tables that only grow, row by row, in an order that everybody agrees on.

A row is put on top of the state that its writer has seen, or not at all: the catalog compares and swaps, which makes a
ledger a lock as well. A mark is a number among the table's properties that only rises: how far the rows are dealt with.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from backends.lakehouse.appending import append
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.commits import ATTEMPTS, Change, commit_once, failures_named, give_way, retried
from backends.lakehouse.reading import PROPERTIES, Snapshot, snapshot_of
from models.errors import PublishConflictError


@dataclass(frozen=True)
class Ledger:
    """One state of a ledger: its rows, in no order, and how far they are marked."""

    snapshot: Snapshot
    rows: pa.Table
    mark: int


def read_ledger(lake: Lakehouse, table: str, mark: str) -> Ledger:
    """Read rows and mark (0 before there is one) of the same state. `TableNotFoundError` where there is no ledger."""
    loaded = lake.load(table)
    snapshot = snapshot_of(table, loaded.current_snapshot())
    return Ledger(snapshot, lake.read(table, snapshot_id=snapshot.id), _mark_of(loaded.properties, mark))


def append_row(lake: Lakehouse, table: str, row: dict[str, Any], on: Snapshot) -> Snapshot:
    """Add one row to what stood in `on`; `PublishConflictError` when another row has come before."""
    schema = lake.schema(table)
    with lake.parts(table, "", schema) as parts:
        written = parts.write(0, pa.Table.from_pylist([row], schema).to_batches())
        for attempt in range(ATTEMPTS - 1):
            try:
                return append(lake, table, written, {}, on)
            except PublishConflictError:
                if lake.snapshot(table).id != on.id:
                    raise
            give_way(attempt)  # no row came before, but a mark
        return append(lake, table, written, {}, on)


def raise_mark(lake: Lakehouse, table: str, mark: str, to: int) -> None:
    """Let the mark be at least `to`."""
    with failures_named(table):
        retried(lambda: _raise_mark(lake, table, mark, to))


def _raise_mark(lake: Lakehouse, table: str, mark: str, to: int) -> None:
    loaded = commit_once(lake.load(table))
    if _mark_of(loaded.properties, mark) < to:
        with Change(loaded) as change:
            change.set_properties({PROPERTIES + mark: str(to)})


def _mark_of(properties: dict[str, str], mark: str) -> int:
    return int(properties.get(PROPERTIES + mark, 0))
