"""A daemon's part, by hand: each tick gets the cursor of the one before, and what it reports is recorded."""

from collections.abc import Callable

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from assets.resources import Backends
from backends.settings import Settings

Tick = Callable[..., SensorExecutionData]


@pytest.fixture
def tick(home: Settings, instance: dg.DagsterInstance) -> Tick:
    """Evaluate a sensor once; several sensors may take turns, and a restart of the daemon changes nothing."""
    cursors: dict[str, str | None] = {}

    def evaluate(sensor: dg.SensorDefinition, settings: Settings = home) -> SensorExecutionData:
        resources = {"backends": Backends(settings)}
        cursor = cursors.get(sensor.name)
        with dg.build_sensor_context(
            instance=instance, cursor=cursor, sensor_name=sensor.name, resources=resources
        ) as context:
            data = sensor.evaluate_tick(context)
        for event in data.asset_events:
            instance.report_runless_asset_event(event)
        cursors[sensor.name] = data.cursor
        return data

    return evaluate
