"""Sensors: what is seen of the world outside Dagster, without launching a run."""

import time
from collections.abc import Sequence

import dagster as dg

from assets.resources import Backends
from models.declaration import Declaration
from models.errors import TandemError


def sensors(declarations: Sequence[Declaration]) -> dg.Definitions:
    """Return the sensors of every model."""
    return dg.Definitions(sensors=[api_observer(declaration) for declaration in declarations])


def api_observer(declaration: Declaration) -> dg.SensorDefinition:
    """Make the sensor that reports which version the running service answers with, whenever that changes."""
    key = dg.AssetKey([declaration.name, "api"])

    @dg.sensor(
        name=f"{declaration.name}_api_observer",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Observes the running service of {declaration.name}: its version, or that it is down.",
    )
    def _observer(
        context: dg.SensorEvaluationContext, backends: dg.ResourceParam[Backends]
    ) -> dg.SensorResult | dg.SkipReason:
        from bento.client import ApiClient

        url = backends.settings.url_of_api(declaration.name, declaration.api.port)
        begun = time.perf_counter()
        try:
            with ApiClient(url) as client:
                lineage = client.lineage()
            state, facts = str(lineage["sha256"]), {"model_version": str(lineage["version"])}
        except TandemError as error:
            state, facts = "down", {"reason": str(error)}
        if state == context.cursor:
            return dg.SkipReason(f"unchanged: {state}")
        metadata = {"url": dg.MetadataValue.url(url), "latency_ms": 1000 * (time.perf_counter() - begun), **facts}
        event = dg.AssetObservation(key, metadata=metadata, tags={"dagster/data_version": state})
        return dg.SensorResult(cursor=state, asset_events=[event])

    return _observer
