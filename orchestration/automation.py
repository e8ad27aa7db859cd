"""Jobs and schedules: the training of a model, and its nights."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import dagster as dg

from assets.metadata import table_key
from assets.predictions import newest_day
from assets.resources import Backends
from models.declaration import Declaration
from models.request_record import FINISHED, OPEN

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition


def automation(declarations: Sequence[Declaration]) -> dg.Definitions:
    """Return the jobs and schedules of every model."""
    return dg.Definitions(
        jobs=[*map(training_job, declarations), *(features_job(model) for model in declarations if model.events)],
        schedules=[schedule(model) for model in declarations for schedule in (nightly_schedule, requests_schedule)],
    )


def training_job(declaration: Declaration) -> "UnresolvedAssetJobDefinition":
    """From the examples to a new champion and its Bento; a failed gate stops before the champion."""
    name = declaration.name
    stages = ("training_set", "trained_model", "quantized_model", "champion", "bento")
    selection = dg.AssetSelection.assets(*([name, stage] for stage in stages))
    return dg.define_asset_job(f"{name}_training", selection, description=training_job.__doc__)


def nightly_job(declaration: Declaration) -> "UnresolvedAssetJobDefinition":
    """Score the day, publish it, refresh the online features, and replay a sample through the running API."""
    gold, name = table_key(declaration.predictions_table), declaration.name
    parity = dg.AssetSelection.checks_for_assets(dg.AssetKey([name, "api"]))
    selection = dg.AssetSelection.assets(gold, [name, "online_features"]) | parity
    if declaration.events:
        selection |= dg.AssetSelection.assets(table_key(declaration.features_table))
        # Features are made for many days in one run, nights one by one; so is this job, and Dagster need not say so.
        warnings.filterwarnings("ignore", f"Asset job {name}_nightly materializes assets with varying Backfill")
    return dg.define_asset_job(f"{declaration.name}_nightly", selection, description=nightly_job.__doc__)


def features_job(declaration: Declaration) -> "UnresolvedAssetJobDefinition":
    """Count the histories of the events of a day, or of many days at once."""
    selection = dg.AssetSelection.assets(table_key(declaration.features_table))
    return dg.define_asset_job(f"{declaration.name}_features", selection, description=features_job.__doc__)


def nightly_schedule(declaration: Declaration) -> dg.ScheduleDefinition:
    """Request the day's partition at the declared hour; the run key makes a day run once."""
    schedule = declaration.predictions
    hour, minute = map(int, schedule.score_at.split(":"))

    @dg.schedule(
        job=nightly_job(declaration),
        cron_schedule=f"{minute} {hour} * * *",
        execution_timezone=schedule.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        name=f"{declaration.name}_nightly_schedule",
        description=f"Scores {declaration.source_table} at {schedule.score_at} {schedule.timezone}.",
    )
    def _schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        now = context.scheduled_execution_time.astimezone(ZoneInfo(schedule.timezone))
        day = newest_day(declaration, now.date()).isoformat()
        return dg.RunRequest(run_key=day, partition_key=day)

    return _schedule


def requests_job(declaration: Declaration) -> "UnresolvedAssetJobDefinition":
    """Carry what the service has logged of its requests into Iceberg."""
    selection = dg.AssetSelection.assets(table_key(declaration.requests_table))
    return dg.define_asset_job(f"{declaration.name}_requests", selection, description=requests_job.__doc__)


def requests_schedule(declaration: Declaration) -> dg.ScheduleDefinition:
    """Every hour, when there are files of the request log; those of a killed worker too."""

    @dg.schedule(
        job=requests_job(declaration),
        cron_schedule="15 * * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        name=f"{declaration.name}_requests_schedule",
        description=f"Carries the logged requests of {declaration.name} into {declaration.requests_table}.",
    )
    def _schedule(backends: dg.ResourceParam[Backends]) -> dg.RunRequest | dg.SkipReason:
        folder = backends.settings.request_log_of(declaration.name)
        if not any(path.suffix in (FINISHED, OPEN) for path in folder.glob("*")):
            return dg.SkipReason("No request was logged since the last run.")
        return dg.RunRequest()

    return _schedule
