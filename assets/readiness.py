"""Whether the newest night that readers count on is there. A check, because lateness is no failure of any run."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from assets.metadata import table_key
from assets.recorded import first_recorded
from models.declaration import Declaration, Predictions

CHECK = "is_ready_in_time"
DAYS = 8  # the newest that is due, and the week before it


@dataclass(frozen=True)
class Readiness:
    """The newest day that readers count on by now: whether its predictions are there, and what else is missing."""

    day: date
    due: datetime
    ready: bool
    missed: tuple[date, ...]  # of the week before, newest first

    @property
    def state(self) -> str:
        """Tell two readinesses apart."""
        return " ".join([self.day.isoformat(), "ready" if self.ready else "late", *map(str, self.missed)])


def judge(
    schedule: Predictions, champion_since: datetime, days: set[str], now: datetime, lag: timedelta = timedelta()
) -> Readiness | None:
    """Return the readiness at a moment, `days` being those with predictions; None when nothing is due yet.

    A day counts when there was a champion at its hour of scoring. Every time of day is one of the declared time zone,
    `lag` later than the day itself.
    """
    today = now.astimezone(ZoneInfo(schedule.timezone)).date()
    owed = [
        day
        for day in (today - lag - timedelta(days=back) for back in range(DAYS))
        if day >= schedule.first_day
        and _moment(schedule, day + lag, schedule.score_at) >= champion_since
        and _moment(schedule, day + lag, schedule.ready_by) <= now
    ]
    if not owed:
        return None
    day, *earlier = owed
    ready = any(found >= day.isoformat() for found in days)  # today's may be there before it is due
    missed = tuple(one for one in (owed if ready else earlier) if one.isoformat() not in days)
    return Readiness(day, _moment(schedule, day + lag, schedule.ready_by), ready, missed)


def readiness(declaration: Declaration, instance: dg.DagsterInstance, now: datetime) -> Readiness | None:
    """Return the readiness of a model's Gold table; None for one that never had a champion, or that is new."""
    since = first_recorded(instance, dg.AssetKey([declaration.name, "champion"]))
    if since is None:
        return None
    days = instance.get_materialized_partitions(table_key(declaration.predictions_table))
    return judge(declaration.predictions, since, days, now, declaration.scored_after)


def evaluation(declaration: Declaration, found: Readiness, now: datetime) -> dg.AssetCheckEvaluation:
    """Return the check's result: it warns, and blocks nothing."""
    name = declaration.name
    arrived, late = f"{name}: predictions of {found.day} are there", f"{name} is late: no predictions of {found.day}"
    return dg.AssetCheckEvaluation(
        table_key(declaration.predictions_table),
        CHECK,
        passed=found.ready,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "headline": arrived if found.ready else late,
            "reason": _reason(declaration, found, now),
            "day": found.day.isoformat(),
            "due": dg.MetadataValue.timestamp(found.due),
            "missed_days": ", ".join(map(str, found.missed)) or "none",
            "occasion": found.day.isoformat(),
        },
    )


def is_ready_in_time(declaration: Declaration) -> dg.AssetChecksDefinition:
    """Make the check that the sensor evaluates, for a person to run by hand."""
    schedule = declaration.predictions

    @dg.asset_check(
        asset=table_key(declaration.predictions_table),
        name=CHECK,
        description=f"By {schedule.ready_by} {schedule.timezone} the day's predictions are there. A sensor looks.",
    )
    def _check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        now = datetime.now(UTC)
        found = readiness(declaration, context.instance, now)
        if found is None:
            return dg.AssetCheckResult(passed=True, metadata={"reason": "Nothing is due yet."})
        said = evaluation(declaration, found, now)
        return dg.AssetCheckResult(passed=said.passed, severity=said.severity, metadata=said.metadata)

    return _check


def _moment(schedule: Predictions, day: date, at: str) -> datetime:
    return datetime.combine(day, time.fromisoformat(at), ZoneInfo(schedule.timezone))


def _reason(declaration: Declaration, found: Readiness, now: datetime) -> str:
    schedule, address = declaration.predictions, declaration.predictions_table.replace(".", "/")
    by = f"{schedule.ready_by} {schedule.timezone}"
    missed = f" Also missing: {', '.join(map(str, found.missed))}." if found.missed else ""
    if found.ready:
        make_up = f" Make up with a backfill of {address}." if missed else ""
        return f"The predictions of {found.day} are there; readers count on them by {by}.{missed}{make_up}"
    hours, minutes = divmod(int((now - found.due).total_seconds()) // 60, 60)
    return (
        f"The predictions of {found.day} are not there, {hours} h {minutes} min after readers count on them ({by})."
        f"{missed} See whether {declaration.source_table} arrived, and what the runs say; then materialize "
        f"{address}."
    )
