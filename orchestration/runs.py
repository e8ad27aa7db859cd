"""Runs of Dagster's jobs in this process, for the command line; Dagster's UI shows them beside all others."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from backends.settings import Settings
from models.errors import TandemError
from orchestration.definitions import assemble
from orchestration.home import prepare


@dg.logger(description="Says nothing: the command line has its own words.")
def silent_logger(_: dg.InitLoggerContext) -> logging.Logger:
    """Make a logger that drops everything; Dagster's event log still gets it."""
    logger = logging.Logger("silent")
    logger.addHandler(logging.NullHandler())
    return logger


def run_here(settings: Settings, job: str, config: Mapping[str, Any]) -> dg.ExecuteInProcessResult:
    """Run a job and let Dagster record it; `TandemError` with the reason when it fails."""
    prepare(settings)
    definition = assemble(settings, loggers={"console": silent_logger}).resolve_job_def(job)
    with dg.DagsterInstance.get() as instance:
        return succeeded(definition.execute_in_process(run_config=config, instance=instance, raise_on_error=False))


def run_job(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    job: str,
    partition: str | None = None,
    stages: Sequence[dg.AssetKey] = (),
    ops: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run a job, or some of its assets; a failure is in the result. `ops` is the config of its steps."""
    return definitions.resolve_job_def(job).execute_in_process(
        instance=instance,
        partition_key=partition,
        asset_selection=list(stages) or None,
        run_config={"loggers": {"console": {}}, "ops": dict(ops or {})},
        tags=dict(tags or {}),
        raise_on_error=False,
    )


def succeeded(done: dg.ExecuteInProcessResult) -> dg.ExecuteInProcessResult:
    """Return the run; `TandemError` with the reason if it failed."""
    if not done.success:
        raise TandemError(f"Job {done.job_def.name} failed. {_reason(done)}")
    return done


def observed(done: dg.ExecuteInProcessResult) -> list[dict[str, Any]]:
    """Return the metadata of each observation that a run made, in their order."""
    events = [event.event_specific_data.asset_observation for event in done.get_asset_observation_events()]
    return [{name: value.value for name, value in event.metadata.items()} for event in events]


def _reason(done: dg.ExecuteInProcessResult) -> str:
    """Return the innermost message of the first step that failed."""
    failed = next((event for event in done.all_events if event.is_step_failure), None)
    if failed is None:  # a check that blocks
        return next((str(event.message) for event in done.all_events if event.is_failure), "")
    error = failed.event_specific_data.error
    while error.cause:
        error = error.cause
    return str(error.message).strip()
