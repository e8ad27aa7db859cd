"""Runs of Dagster's jobs in the demo's own process."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from models.errors import TandemError


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
        failed = [event for event in done.all_events if event.is_failure]
        reasons = "; ".join(str(getattr(e.event_specific_data, "error", "") or e.message) for e in failed[:1])
        raise TandemError(f"Job {done.job_def.name} failed: {reasons}")
    return done
