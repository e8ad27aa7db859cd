"""Training on demand: when drift or realised quality crosses its declared limit, and not again before the cool-down."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status

from assets.recorded import recorded_champion, text_of
from models.declaration import Declaration
from orchestration.automation import UNDER_WAY, training_name, training_request

SECONDS = 60
DRIFT = ("features_resemble_the_training_set", "scores_resemble_the_training_set")
OUTCOMES = ("realised_ranking_is_reached", "realised_probabilities_are_calibrated")
ASKED_BY, REASON = "tandem/asked_by", "tandem/reason"
LONGEST_REASON = 200
DECIDED = {Status.SUCCEEDED, Status.FAILED}


@dataclass(frozen=True)
class Failed:
    """The newest result of a check, where it failed."""

    check: str
    run_id: str
    at: datetime
    reason: str

    def __str__(self) -> str:
        return f"{self.check} failed at {_shown(self.at)}: {self.reason}"


def retraining(declaration: Declaration) -> dg.SensorDefinition:
    """Make the sensor that asks for a training. What it knows is in Dagster's runs and checks: it has no cursor."""
    name, wanted = declaration.name, declaration.retraining

    @dg.sensor(
        name=f"{name}_retraining",
        job_name=training_name(name),
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Trains {name} when drift or realised quality asks for it, {wanted.cooldown_days:g} days apart.",
    )
    def _sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if not watched(declaration):
            return dg.SkipReason("retraining.on_drift and retraining.on_outcomes are both false.")
        failed = list(failed_checks(declaration, context.instance))
        if not failed:
            names = ", ".join(key.name for key in watched(declaration))
            return dg.SkipReason(f"No limit is crossed; waiting for one of these to fail: {names}.")
        if reason := reason_to_wait(declaration, context.instance, failed, datetime.now(UTC)):
            return dg.SkipReason(reason)
        first = max(failed, key=lambda one: one.at)
        tags = {ASKED_BY: f"{name}_retraining", REASON: str(first)[:LONGEST_REASON]}
        return training_request(declaration, f"{first.check} {first.run_id or first.at.isoformat()}", tags)

    return _sensor


def watched(declaration: Declaration) -> list[dg.AssetCheckKey]:
    """Return the checks that may ask for a training."""
    name, wanted = declaration.name, declaration.retraining
    drift = [dg.AssetCheckKey(dg.AssetKey([name, "drift"]), check) for check in DRIFT if wanted.on_drift]
    outcomes = [dg.AssetCheckKey(dg.AssetKey([name, "outcomes"]), check) for check in OUTCOMES if wanted.on_outcomes]
    return drift + outcomes


def failed_checks(declaration: Declaration, instance: dg.DagsterInstance) -> Iterator[Failed]:
    """Yield each watched check whose newest result is a failure; one that is running now counts with its last.

    A failure is no reason when it is about a version that is the champion no more, or about a day before the newest.
    """
    champion = recorded_champion(instance, declaration.name)
    for key in watched(declaration):
        for record in instance.event_log_storage.get_asset_check_execution_history(key, limit=1, status=DECIDED):
            found = record.event.asset_check_evaluation if record.event else None
            if record.event and found and not found.passed:
                about = text_of(found.metadata, "model_version")
                if (champion and about and about != champion.version) or _is_of_old(instance, key, record.run_id):
                    continue
                at = datetime.fromtimestamp(record.event.timestamp, UTC)
                yield Failed(key.name, record.run_id, at, text_of(found.metadata, "reason") or "see its metadata")


def reason_to_wait(
    declaration: Declaration, instance: dg.DagsterInstance, failed: list[Failed], now: datetime
) -> str | None:
    """Return what has to come first; None when a training may begin."""
    for run in instance.get_runs(dg.RunsFilter(statuses=list(UNDER_WAY))):
        if trains(declaration.name, run):
            return f"{failed[0]} Waiting for the training that is under way, run {run.run_id}."
    if (asked := last_asked(declaration.name, instance)) is not None:
        until = asked + timedelta(days=declaration.retraining.cooldown_days)
        if now < until:
            return f"{failed[0]} Cooling down until {_shown(until)}: a training was asked for at {_shown(asked)}."
    began = last_begun(declaration.name, instance)
    if began is not None and all(one.at < began for one in failed):
        return f"{failed[0]} Waiting for a newer result: a training began since, at {_shown(began)}."
    return None


def _is_of_old(instance: dg.DagsterInstance, key: dg.AssetCheckKey, run_id: str) -> bool:
    """Tell whether a run looked at an earlier day than others have since: somebody filled a gap."""
    run = instance.get_run_by_id(run_id) if run_id else None
    day = run.tags.get("dagster/partition") if run else None
    return day is not None and day < max(instance.get_materialized_partitions(key.asset_key), default="")


def trains(model: str, run: dg.DagsterRun) -> bool:
    """Tell whether a run trains a model: by its job, or by what somebody chose in the UI."""
    chosen = run.asset_selection or set()
    return run.job_name == training_name(model) or dg.AssetKey([model, "trained_model"]) in chosen


def last_asked(model: str, instance: dg.DagsterInstance) -> datetime | None:
    """Return when a training was last asked for by this sensor, whatever became of it."""
    return _newest(instance, dg.RunsFilter(tags={ASKED_BY: f"{model}_retraining"}))


def last_begun(model: str, instance: dg.DagsterInstance) -> datetime | None:
    """Return when the training job was last started, by whomever."""
    return _newest(instance, dg.RunsFilter(job_name=training_name(model)))


def _newest(instance: dg.DagsterInstance, which: dg.RunsFilter) -> datetime | None:
    records = instance.get_run_records(which, limit=1)
    return records[0].create_timestamp.replace(tzinfo=UTC) if records else None


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
