"""Lateness: a night that is not there when readers count on it. The open-source Dagster shows it and tells nobody."""

from datetime import UTC, datetime

import dagster as dg

from assets.readiness import evaluation, readiness
from models.declaration import Declaration

SECONDS = 60


def readiness_observer(declaration: Declaration) -> dg.SensorDefinition:
    """Make the sensor that judges the Gold table at its deadline, and when late predictions arrive."""

    @dg.sensor(
        name=f"{declaration.name}_readiness_observer",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Looks whether {declaration.predictions_table} has the day's predictions by "
            f"{declaration.predictions.ready_by} {declaration.predictions.timezone}."
        ),
    )
    def _observer(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        now = datetime.now(UTC)
        found = readiness(declaration, context.instance, now)
        if found is None:
            return dg.SkipReason("Nothing is due yet: a day counts when there was a champion at its hour of scoring.")
        if found.state == context.cursor:
            return dg.SkipReason(f"unchanged: {found.state}")
        return dg.SensorResult(cursor=found.state, asset_events=[evaluation(declaration, found, now)])

    return _observer
