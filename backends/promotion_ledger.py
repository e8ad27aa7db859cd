"""The ledger of a model's champion: one row for each move of the alias, in an Iceberg table that anybody can read.

How moves are made, and what a row is worth before the alias has followed it, is in `promotions`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.ledgers import Ledger, append_row, raise_mark, read_ledger
from backends.lakehouse.reading import Snapshot
from backends.registry import Version
from models.errors import TableNotFoundError

Kind = Literal["promotion", "manual", "rollback", "by_hand"]
FIGURES = tuple(f"{metric}_gain{end}" for metric in ("auc", "log_loss") for end in ("", "_lower", "_upper"))
MOMENT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("move", pa.int64()),  # 1, 2, 3, ...
        ("moved_at", MOMENT),
        ("kind", pa.string()),
        ("from_version", pa.int32()),
        ("to_version", pa.int32()),
        ("to_sha256", pa.string()),
        ("by", pa.string()),
        ("reason", pa.string()),
        ("dagster_run_id", pa.string()),
        ("mlflow_run_id", pa.string()),
        ("training_snapshot", pa.string()),
        *((figure, pa.float64()) for figure in FIGURES),
    ]
)
SETTLED = "settled_move"  # the mark: up to here, the alias has followed


@dataclass(frozen=True)
class Why:
    """Who moves the champion, and why; `figures` are the gains that were measured, by the names in `FIGURES`."""

    kind: Kind
    by: str
    reason: str
    dagster_run_id: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Move:
    """One row. `to_version` is None, and `to_sha256` empty, where somebody took the alias away."""

    move: int
    moved_at: datetime
    kind: Kind
    from_version: int | None
    to_version: int | None
    to_sha256: str
    by: str
    reason: str
    dagster_run_id: str
    mlflow_run_id: str
    training_snapshot: str
    settled: bool  # whether the alias has followed
    figures: Mapping[str, float]

    def __str__(self) -> str:
        """One line for a person."""
        ends = " -> ".join("none" if v is None else str(v) for v in (self.from_version, self.to_version))
        return f"{self.moved_at:%Y-%m-%d %H:%M:%S} UTC  {self.kind:<9}  {ends}  by {self.by}: {self.reason}"

    def leads_to(self, version: Version | None) -> bool:
        """Whether it made this version the champion; None is for no champion at all."""
        there = (version.version, version.sha256) if version else (None, "")
        return (self.to_version, self.to_sha256) == there


@dataclass(frozen=True)
class Moves:
    """All moves as they stood in one snapshot of the ledger, oldest first."""

    snapshot: Snapshot
    all: tuple[Move, ...]

    @property
    def last(self) -> Move | None:
        """The newest move; None before the first."""
        return self.all[-1] if self.all else None


def moves_of(lake: Lakehouse, table: str) -> tuple[Move, ...]:
    """Return all moves, oldest first; none where there is no ledger yet."""
    try:
        return read_moves(lake, table).all
    except TableNotFoundError:
        return ()


def begin(lake: Lakehouse, table: str) -> None:
    """Make the ledger, unless it is there."""
    lake.ensure_table(table, SCHEMA)


def read_moves(lake: Lakehouse, table: str) -> Moves:
    """Read the ledger; `TableNotFoundError` where it was not begun."""
    ledger = read_ledger(lake, table, SETTLED)
    rows = sorted(ledger.rows.to_pylist(), key=lambda row: int(row["move"]))
    return Moves(ledger.snapshot, tuple(_move(row, ledger) for row in rows))


def write_move(lake: Lakehouse, table: str, on: Moves, origin: int | None, to: Version | None, why: Why) -> int:
    """Add a move from version `origin` to another on top of `on`; return its number.

    `PublishConflictError` when another move came before.
    """
    facts = asdict(why)
    number, figures, tags = on.last.move + 1 if on.last else 1, facts.pop("figures"), to.tags if to else {}
    row = {
        "move": number,
        "moved_at": datetime.now(UTC),
        "from_version": origin,
        "to_version": to.version if to else None,
        "to_sha256": to.sha256 if to else "",
        "mlflow_run_id": to.mlflow_run_id if to else "",
        "training_snapshot": tags.get("training_snapshot", ""),
        **facts,
        **figures,
    }
    append_row(lake, table, row, on.snapshot)
    return number


def mark_settled(lake: Lakehouse, table: str, move: int) -> None:
    """Note that the alias has followed this move, and with it all before."""
    raise_mark(lake, table, SETTLED, move)


def _move(row: dict[str, Any], ledger: Ledger) -> Move:
    plain = {each.name: row[each.name] for each in fields(Move) if each.name in row}
    figures = {name: row[name] for name in FIGURES if row[name] is not None}
    return Move(**plain, settled=row["kind"] == "by_hand" or row["move"] <= ledger.mark, figures=figures)
