"""Going back to an earlier state of a table, and forward again: what a person may name, and what is done."""

from collections.abc import Sequence
from dataclasses import dataclass

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.night_tags import DAY, NIGHT_TAG, settle_night_tags
from backends.lakehouse.publishing import ABANDONED_TAG, RolledBack, rollback
from backends.lakehouse.reading import Snapshot, snapshot_of
from models.errors import LakehouseError, SnapshotNotFoundError

NAMED_IN_ERRORS = 8


@dataclass(frozen=True)
class Target:
    """A state that `main` once had, and the names by which a person may ask for it."""

    snapshot: Snapshot
    days: tuple[str, ...]
    tags: tuple[str, ...]

    def __str__(self) -> str:
        """One line for a person."""
        facts, names = self.snapshot.properties, ", ".join((*self.days, *self.tags))
        night = f", night of {facts[DAY]} by version {facts.get('model_version', '?')}" if DAY in facts else ""
        committed = f"{self.snapshot.committed_at:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.snapshot.id}  {committed}, {self.snapshot.rows} rows{night}{f' [{names}]' if names else ''}"


@dataclass(frozen=True)
class Rollback:
    """What was done, and to which days: those that `main` shows no more, and those it shows as it once did."""

    moved: RolledBack
    withdrawn: list[str]
    restored: list[str]


def targets(lake: Lakehouse, table: str) -> list[Target]:
    """Return what `main` can be put to, newest first: what it once showed, is not expired, and does not show now."""
    loaded = lake.load(table)
    shown = {entry.snapshot_id for entry in loaded.metadata.snapshot_log} - {loaded.metadata.current_snapshot_id}
    names: dict[int, list[str]] = {}
    for name, reference in loaded.refs().items():
        names.setdefault(reference.snapshot_id, []).append(name)
    found = [s for s in reversed(loaded.snapshots()) if s.snapshot_id in shown]
    return [_target(snapshot_of(table, snapshot), names.get(snapshot.snapshot_id, [])) for snapshot in found]


def roll_back(lake: Lakehouse, table: str, to: str, reason: str, by: str) -> Rollback:
    """Put `main` to the state that `to` names: a snapshot's id, a published day, or a tag. Nothing is deleted.

    `LakehouseError` for a reason or a person left blank, `SnapshotNotFoundError` for a state that `main` never had.
    """
    for what, value in (("reason", reason), ("by", by)):
        if not value.strip():
            raise LakehouseError(f"Table {table!r} is not rolled back: {what} is {value!r}. Say it: it is kept.")
    settle_night_tags(lake, table)  # another tool may have moved `main`
    target, tags = _named(lake, table, to.strip()), _nights(lake, table)
    done = rollback(lake, table, target.snapshot.id, reason.strip(), by.strip())
    now = _nights(lake, table)
    changed = {day for day in tags.keys() & now.keys() if tags[day] != now[day]}
    return Rollback(done, sorted(tags.keys() - now.keys()), sorted(changed | now.keys() - tags.keys()))


def _target(snapshot: Snapshot, names: list[str]) -> Target:
    days = tuple(sorted(name.removeprefix(NIGHT_TAG) for name in names if name.startswith(NIGHT_TAG)))
    return Target(snapshot, days, tuple(sorted(name for name in names if name.startswith(ABANDONED_TAG))))


def _nights(lake: Lakehouse, table: str) -> dict[str, int]:
    refs = lake.load(table).refs().items()
    return {name.removeprefix(NIGHT_TAG): ref.snapshot_id for name, ref in refs if name.startswith(NIGHT_TAG)}


def _named(lake: Lakehouse, table: str, to: str) -> Target:
    there, day = targets(lake, table), to.removeprefix(NIGHT_TAG)
    for target in there:
        if to == str(target.snapshot.id) or to in target.tags or day in target.days:
            return target
    current = lake.snapshot(table)
    already = to == str(current.id) or day == current.properties.get(DAY)
    why = "it shows that already" if already else "it never showed that, or it is expired or withdrawn"
    raise SnapshotNotFoundError(f"Table {table!r} cannot go to {to!r}: {why}. {_choice(there)}")


def _choice(there: Sequence[Target]) -> str:
    if not there:
        return "There is no other state to go to."
    lines = [f"\n  {each}" for each in there[:NAMED_IN_ERRORS]]
    more = f"\n  and {len(there) - NAMED_IN_ERRORS} older ones" if len(there) > NAMED_IN_ERRORS else ""
    return f"Name the id, day or tag of one of these:{''.join(lines)}{more}"
