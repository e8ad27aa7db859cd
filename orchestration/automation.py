"""What runs by itself, and when: the sensor of the automation conditions, the schedules, and the jobs behind them."""

import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import dagster as dg
from dagster import DagsterRunStatus as Status

from assets.metadata import table_key
from assets.resources import Backends
from models.declaration import Declaration
from models.request_record import FINISHED, OPEN
from orchestration.conditions import PARITY

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

SECONDS = 30  # between two looks at the conditions
TRAINING = "tandem/training"  # a run's model; dagster.yaml lets one of each go at a time: they share manifests
REST = timedelta(days=1)  # a training that was started so recently stands for the weekly one
UNDER_WAY = (Status.QUEUED, Status.NOT_STARTED, Status.STARTING, Status.STARTED)


def automation(declarations: Sequence[Declaration]) -> dg.Definitions:
    """Return the sensor, the jobs and the schedules of every model."""
    jobs = [job(model) for model in declarations for job in (training_job, nightly_job, watch_job)]
    regular = [model for model in declarations if model.retraining.day != "never"]
    return dg.Definitions(
        jobs=[*jobs, *(features_job(model) for model in declarations if model.events)],
        schedules=[*map(requests_schedule, declarations), *map(training_schedule, regular)],
        sensors=[automation_sensor()],
    )


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Make the sensor that requests whatever is due (`conditions.py`)."""
    return dg.AutomationConditionSensorDefinition(
        name="automation",
        target=dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=SECONDS,
        description="Requests the nights at their hour, and what follows them; each asset's page says when it is due.",
    )


# --- jobs -----------------------------------------------------------------------------------------------------------


def training_job(declaration: Declaration) -> "UnresolvedAssetJobDefinition":
    """From the examples to a new champion and its Bento; a failed gate stops before the champion."""
    name = declaration.name
    selection = dg.AssetSelection.assets(*_training_stages(name))
    tags = {TRAINING: name}
    return dg.define_asset_job(training_name(name), selection, description=training_job.__doc__, tags=tags)


def training_name(model: str) -> str:
    """Return the name of a model's training job."""
    return f"{model}_training"


def training_request(declaration: Declaration, run_key: str, tags: Mapping[str, str] | None = None) -> dg.RunRequest:
    """Ask for a training; it says which assets it makes, so that the conditions do not ask for its Bento again."""
    name, stages = declaration.name, _training_stages(declaration.name)
    return dg.RunRequest(run_key=run_key, job_name=training_name(name), asset_selection=stages, tags=tags)


def nightly_job(declaration: Declaration) -> "UnresolvedAssetJobDefinition":
    """Score a day, publish it, refresh the online features, and replay a sample through the running API: by hand."""
    gold, name = table_key(declaration.predictions_table), declaration.name
    parity = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey([name, "api"]), PARITY))
    selection = dg.AssetSelection.assets(gold, [name, "online_features"]) | parity
    if declaration.events:
        selection |= dg.AssetSelection.assets(table_key(declaration.features_table))
        # Features are made for many days in one run, nights one by one; so is this job, and Dagster need not say so.
        warnings.filterwarnings("ignore", f"Asset job {name}_nightly materializes assets with varying Backfill")
    return dg.define_asset_job(f"{name}_nightly", selection, description=nightly_job.__doc__)


def features_job(declaration: Declaration) -> "UnresolvedAssetJobDefinition":
    """Count the histories of the events of a day, or of many days at once."""
    selection = dg.AssetSelection.assets(table_key(declaration.features_table))
    return dg.define_asset_job(f"{declaration.name}_features", selection, description=features_job.__doc__)


def watch_job(declaration: Declaration) -> "UnresolvedAssetJobDefinition":
    """Look at a day again: its drift and costs, and what is known by now of outcomes and requests."""
    stages = ("drift", "outcomes", "request_drift", "costs")
    selection = dg.AssetSelection.from_string(" or ".join(f'key:"{declaration.name}/{stage}"' for stage in stages))
    return dg.define_asset_job(f"{declaration.name}_watch", selection, description=watch_job.__doc__)


def requests_job(declaration: Declaration) -> "UnresolvedAssetJobDefinition":
    """Carry what the service has logged of its requests into Iceberg."""
    selection = dg.AssetSelection.assets(table_key(declaration.requests_table))
    return dg.define_asset_job(f"{declaration.name}_requests", selection, description=requests_job.__doc__)


# --- schedules ------------------------------------------------------------------------------------------------------


def training_schedule(declaration: Declaration) -> dg.ScheduleDefinition:
    """Once a week at the declared hour, unless a training runs already or was just started, by drift or by hand."""
    name, when, zone = declaration.name, declaration.retraining, declaration.predictions.timezone
    hour, minute = map(int, when.at.split(":"))

    @dg.schedule(
        job_name=training_name(name),
        cron_schedule=f"{minute} {hour} * * {when.day[:3].upper()}",
        execution_timezone=zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        name=f"{name}_training_schedule",
        description=f"Trains {name} on {when.day.capitalize()}s at {when.at} {zone}; its gates decide about the rest.",
    )
    def _schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        at = context.scheduled_execution_time.astimezone(ZoneInfo(zone))
        if reason := _trained_already(context, training_name(name)):
            return dg.SkipReason(reason)
        return training_request(declaration, run_key=f"{at:%G-W%V}")

    return _schedule


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


def _training_stages(model: str) -> list[dg.AssetKey]:
    stages = ("training_set", "trained_model", "quantized_model", "champion", "bento")
    return [dg.AssetKey([model, stage]) for stage in stages]


def _trained_already(context: dg.ScheduleEvaluationContext, job: str) -> str:
    """Say which run makes another training needless; nothing when there is none."""
    running = context.instance.get_runs(dg.RunsFilter(job_name=job, statuses=list(UNDER_WAY)), limit=1)
    if running:
        return f"Run {running[0].run_id} of {job} is under way."
    since = context.scheduled_execution_time.astimezone(UTC) - REST  # Dagster drops the zone and takes it for UTC
    recent = context.instance.get_runs(dg.RunsFilter(job_name=job, created_after=since), limit=1)
    return f"Run {recent[0].run_id} of {job} was started within the last day." if recent else ""
