"""What came of what was predicted: matured labels, and beside each the score that readers had on that day.

A label of day D is held against the row of D as it was published then, by Iceberg time travel: `main` as it stood when
readers count on it (`ready_by`), or else what it showed first after that. What a rerun made of the day since, or a
rollback took away later, does not matter.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backends.engines import Engine
from backends.gold_tables import PARTITION
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.past_nights import Publication, publications_shown
from backends.lakehouse.reading import Plan, partition_is
from backends.matured_labels import LabelsOfDay, Matured, local_days, matured_labels
from backends.nights import published_nights
from models.declaration import Declaration
from models.errors import LakehouseError
from models.scoring import Scores
from models.training.split import Labels

ROWS_AT_ONCE = 256 * 1024  # of the Gold table, looked up together; more where a table of the wanted keys takes longer


@dataclass(frozen=True)
class JoinedDay:
    """The matured predictions of one day, all of one version. `unscored` labels found no row.

    `original` is false where what readers had is expired, and the rows are those of a rerun.
    """

    day: date
    version: int
    outcomes: Labels
    scores: Scores
    unscored: int
    original: bool


@dataclass(frozen=True)
class Outcomes:
    """Matured predictions of a span of days, and the days with labels for which there are none."""

    first: date
    last: date
    matured: Matured
    days: list[JoinedDay] = field(default_factory=list)
    unpublished: list[date] = field(default_factory=list)  # or withdrawn, or expired without a trace
    afterwards: list[date] = field(default_factory=list)  # scored when the outcomes could be known already

    @property
    def rows(self) -> int:
        """How many predictions have matured."""
        return sum(len(day.outcomes) for day in self.days)

    @property
    def unscored(self) -> int:
        """How many labels are of entities that were not scored on their day."""
        return sum(day.unscored for day in self.days)

    @property
    def versions(self) -> list[int]:
        """Which versions have matured predictions, oldest first."""
        return sorted({day.version for day in self.days if len(day.outcomes)})

    def pooled(self, version: int | None = None) -> tuple[Labels, Scores]:
        """Return outcomes and scores of one version, or of all: float32 [rows] each."""
        days = [day for day in self.days if version in (None, day.version)]
        empty = np.empty(0, np.float32)
        return np.concatenate([empty, *(d.outcomes for d in days)]), np.concatenate([empty, *(d.scores for d in days)])


def window(declaration: Declaration, today: date) -> tuple[date, date]:
    """Return the first and the last day whose outcomes are judged on a day."""
    last = today - timedelta(days=declaration.outcomes.after_days)
    return last - timedelta(days=declaration.outcomes.window_days - 1), last


def realised_outcomes(lake: Lakehouse, engine: Engine, declaration: Declaration, today: date) -> Outcomes:
    """Join the labels that have matured by `today` with the scores that readers had then.

    Errors are those of `matured_labels`, and `TableNotFoundError` without a Gold table.
    """
    first, last = window(declaration, today)
    table, key = declaration.predictions_table, declaration.row_key
    gold = lake.schema(table)
    if key not in gold.names:
        raise LakehouseError(f"Table {table!r} has no column {key!r}: it was made for another key.")
    matured = matured_labels(lake, declaration, first, last, gold.field(key).type)
    shown = publications_shown(lake, table, {day: ready_at(declaration, day) for day in matured.days})
    afterwards = _afterwards(lake, declaration, shown)
    honest = sorted(shown.keys() - afterwards)
    wanted = [_wanted(lake, declaration, day, matured.days[day], shown[day]) for day in honest]
    score = f"{declaration.name}_probability"
    return Outcomes(
        first,
        last,
        matured,
        days=engine.map(partial(join_day, key, score), wanted),
        unpublished=sorted(matured.days.keys() - shown.keys()),
        afterwards=sorted(afterwards),
    )


def version_in_service(lake: Lakehouse, declaration: Declaration, today: date) -> int | None:
    """Return the version that scored the newest night up to a day; None where there is none."""
    nights = published_nights(lake, declaration.predictions_table)
    newest = max((day for day in nights if day <= today.isoformat()), default=None)
    return int(nights[newest].properties["model_version"]) if newest else None


def ready_at(declaration: Declaration, day: date) -> datetime:
    """Return the moment at which readers count on a day's predictions."""
    hour, minute = map(int, declaration.predictions.ready_by.split(":"))
    on = day + declaration.scored_after
    return datetime.combine(on, time(hour, minute), ZoneInfo(declaration.predictions.timezone))


# --- what may be judged ---------------------------------------------------------------------------------------------


def _afterwards(lake: Lakehouse, declaration: Declaration, shown: Mapping[date, Publication]) -> set[date]:
    """Return the days made up for so late that their models may have learned from their outcomes."""
    zone = ZoneInfo(declaration.predictions.timezone)
    in_time = max(timedelta(days=declaration.outcomes.after_days), declaration.scored_after)
    late = {
        day: night.snapshot.properties.get("training_snapshot", "")
        for day, night in shown.items()
        if night.snapshot.committed_at.astimezone(zone).date() > day + in_time
    }
    learned = {examples: _newest_example(lake, declaration, examples) for examples in set(late.values())}
    return {day for day, examples in late.items() if (newest := learned[examples]) is None or newest >= day}


def _newest_example(lake: Lakehouse, declaration: Declaration, snapshot: str) -> date | None:
    """Return the day of the newest example that a model may have learned from; None where that cannot be said."""
    column, label = declaration.examples.time or "", declaration.examples.label
    try:
        plan = lake.plan(declaration.examples.table, [column, label], int(snapshot))
    except (LakehouseError, ValueError):  # expired meanwhile, or not known
        return None
    zone = declaration.predictions.timezone
    known = (batch.filter(batch.column(label).is_valid()) for batch in plan.stream())
    newest = (pc.max(local_days(batch.column(column), zone)).as_py() for batch in known)
    return max((day for day in newest if day is not None), default=None)


# --- the join -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WantedDay:
    """What to look up, and where: can be sent to other processes."""

    day: date
    version: int
    labels: LabelsOfDay
    plan: Plan
    original: bool


def _wanted(lake: Lakehouse, declaration: Declaration, day: date, labels: LabelsOfDay, night: Publication) -> WantedDay:
    columns = [declaration.row_key, f"{declaration.name}_probability"]
    plan = lake.plan(declaration.predictions_table, columns, night.snapshot.id, where=partition_is(PARTITION, day))
    return WantedDay(day, int(night.snapshot.properties["model_version"]), labels, plan, night.original)


def join_day(key: str, score: str, wanted: WantedDay) -> JoinedDay:
    """Look the keys up in one day's rows, some at a time: a function that an engine maps."""
    keys, outcomes = wanted.labels.keys, wanted.labels.outcomes
    found = np.full(len(keys), np.nan, np.float32)
    for rows in _chunks(wanted.plan, max(ROWS_AT_ONCE, 2 * len(keys))):
        at = pc.index_in(rows[key].cast(keys.type), value_set=keys)
        found[at.drop_null().to_numpy()] = rows[score].filter(at.is_valid()).to_numpy()
        if not np.isnan(found).any():
            break
    scored = ~np.isnan(found)
    return JoinedDay(wanted.day, wanted.version, outcomes[scored], found[scored], int((~scored).sum()), wanted.original)


def _chunks(plan: Plan, size: int) -> Iterator[pa.Table]:
    """Stream a plan's rows, about `size` at a time."""
    gathered: list[pa.RecordBatch] = []
    for batch in plan.stream():
        gathered.append(batch)
        if sum(map(len, gathered)) >= size:
            yield pa.Table.from_batches(gathered)
            gathered = []
    if gathered:
        yield pa.Table.from_batches(gathered)
