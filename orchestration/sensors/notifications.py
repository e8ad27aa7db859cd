"""Who is told: failed runs and checks, lateness, new champions go to the addresses in TANDEM_NOTIFY."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import ValidationError

from assets.resources import Backends
from backends.notifications import Recipients
from models.declaration import Declaration
from orchestration.sensors.news import begin, news
from orchestration.sensors.outbox import Posted, enqueued, post
from orchestration.sensors.told import Source, Told
from orchestration.sensors.wording import Words

SECONDS = 30
SETTLE = timedelta(seconds=5)
OFF = "off"  # the cursor while nobody is to be told: what happens then is not told later


def notifications(declarations: Sequence[Declaration], settle: timedelta = SETTLE) -> dg.SensorDefinition:
    """Make the sensor that tells people. A run is told `settle` after its end."""

    @dg.sensor(
        name="notifications",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells the addresses in TANDEM_NOTIFY of failed runs and checks, lateness and new champions.",
    )
    def _sensor(context: dg.SensorEvaluationContext, backends: dg.ResourceParam[Backends]) -> dg.SensorResult:
        recipients = Recipients.of(backends.settings.notify)
        if not len(recipients):
            return dg.SensorResult(cursor=OFF, skip_reason="TANDEM_NOTIFY is not set: nobody is told.")
        source = Source(context.instance, Words(declarations, backends.settings.dagster_ui), _ours(context))
        told, now = _read(context.cursor), datetime.now(UTC).timestamp()
        if told is None:
            reason = "From now on, the addresses in TANDEM_NOTIFY are told what goes wrong."
            return dg.SensorResult(cursor=begin(source, now).model_dump_json(), skip_reason=reason)
        found = news(source, told, now, now - settle.total_seconds())
        posted = post([*told.waiting, *enqueued(found, recipients.places, now)], recipients, now)
        told.waiting = posted.waiting
        for place, why in posted.failed.items():
            context.log.warning(f"Address {place} in TANDEM_NOTIFY did not take a message: {why}. It is tried again.")
        if posted.lost:
            context.log.error(f"{posted.lost} messages were given up; who should have had them is told how many.")
        return dg.SensorResult(cursor=told.model_dump_json(), skip_reason=_summary(posted))

    return _sensor


def _read(cursor: str | None) -> Told | None:
    """Return how far the telling came; None at the first tick, and for a cursor of another kind."""
    try:
        return Told.model_validate_json(cursor) if cursor and cursor != OFF else None
    except ValidationError:
        return None


def _ours(context: dg.SensorEvaluationContext) -> Callable[[dg.DagsterRun], bool]:
    """Return what tells a run of this code location; one that no code server launched is taken for ours."""
    here = context.code_location_origin.location_name if context.code_location_origin else None

    def is_ours(run: dg.DagsterRun) -> bool:
        origin = run.remote_job_origin
        there = origin.repository_origin.code_location_origin.location_name if origin else None
        return here is None or there is None or here == there

    return is_ours


def _summary(posted: Posted) -> str:
    if not (posted.told or posted.waiting or posted.lost):
        return "Nothing to tell."
    why = "; ".join(f"{place}: {reason}" for place, reason in posted.failed.items())
    waits = f" {len(posted.waiting)} wait." if posted.waiting else ""
    return f"Told {posted.told}.{waits}{f' Not reached: {why}.' if why else ''}"
