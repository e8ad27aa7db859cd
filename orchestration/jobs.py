"""Jobs that a person starts, or a schedule: put a Gold table back to an earlier state, and the upkeep of all tables."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from assets.metadata import table_key
from assets.resources import Backends
from models.declaration import Declaration
from models.errors import LakehouseError, TableNotFoundError

if TYPE_CHECKING:
    from backends.lakehouse.maintenance import Upkeep
    from backends.rollbacks import Rollback

UPKEEP = "lake_maintenance"
LOGGERS: dict[str, Any] = {"loggers": {"console": {}}}  # whichever the definitions have: the command line's is silent
LISTED = 1000  # things that are shown by name


class RollbackConfig(dg.Config):
    """Where to go back to, why, and who says so."""

    to: str = Field(description="A snapshot's id, a published day (2026-11-20), or a tag (rolled_back_...).")
    reason: str = Field(description="Why; kept in the table's properties.")
    by: str = Field(description="Who; kept in the table's properties.")


class UpkeepConfig(dg.Config):
    """What to remove; by default nothing is, and the run tells what would be."""

    apply: bool = Field(default=False, description="Remove it. Otherwise this is a dry run.")
    history_days: float = Field(default=90, description="How long what `main` showed can be read again.")
    leftover_hours: float = Field(default=72, description="Age at which what `main` never showed goes. At least 1.")


def jobs(declarations: Sequence[Declaration]) -> dg.Definitions:
    """Return the rollback of every model, and the upkeep of all tables with its schedule."""
    if not declarations:
        return dg.Definitions()
    upkeep = upkeep_job(declarations)
    return dg.Definitions(jobs=[*map(rollback_job, declarations), upkeep], schedules=[_weekly(upkeep)])


def rollback_name(model: str) -> str:
    """Return the name of a model's rollback job."""
    return f"rollback_{model}_predictions"


def rollback_config(model: str, to: str, reason: str, by: str) -> dict[str, Any]:
    """Return the run config of a model's rollback job."""
    return {"ops": {_rollback_step(model): {"config": {"to": to, "reason": reason, "by": by}}}, **LOGGERS}


def rollback_job(declaration: Declaration) -> dg.JobDefinition:
    """Make the job that puts the Gold table back to an earlier state, or forward again."""
    table = declaration.predictions_table

    @dg.op(name=_rollback_step(declaration.name), pool=_pool(declaration))
    def _rollback(context: dg.OpExecutionContext, config: RollbackConfig, backends: dg.ResourceParam[Backends]) -> None:
        from backends.rollbacks import roll_back

        with backends.lakehouse() as lake:
            done = roll_back(lake, table, config.to, config.reason, config.by)
        context.log_event(dg.AssetObservation(table_key(table), metadata=_rollback_facts(done, config)))

    @dg.job(
        name=rollback_name(declaration.name),
        description=f"Puts {table} back to an earlier state, with the reason. Nothing is deleted; it can be undone.",
    )
    def _job() -> None:
        _rollback()

    return _job


def upkeep_job(declarations: Sequence[Declaration]) -> dg.JobDefinition:
    """Make the job that removes what no reader of any model's tables can need; a dry run unless told otherwise."""
    steps = [_upkeep(declaration) for declaration in declarations]

    @dg.config_mapping
    def _same_for_all(config: UpkeepConfig) -> dict[str, Any]:
        return {"ops": {step.name: {"config": config.model_dump()} for step in steps}, **LOGGERS}

    @dg.job(
        name=UPKEEP,
        config=_same_for_all,
        description="Removes what no reader can need: old snapshots, stale branches, orphan files. Dry run by default.",
    )
    def _job() -> None:
        for step in steps:
            step()

    return _job


# --- the steps ------------------------------------------------------------------------------------------------------


def _rollback_step(model: str) -> str:
    return f"put_{model}_predictions_back"


def _pool(declaration: Declaration) -> str:
    return declaration.predictions_table.replace(".", "_")  # that of the asset: one writer per table


def _upkeep(declaration: Declaration) -> dg.OpDefinition:
    """Make the step of one model: the tables that it writes, and no others."""
    tables = (declaration.predictions_table, declaration.rejects_table, declaration.requests_table)
    tables += (declaration.features_table,) if declaration.events else ()

    @dg.op(name=f"tidy_{declaration.name}_tables", pool=_pool(declaration))
    def _tidy(context: dg.OpExecutionContext, config: UpkeepConfig, backends: dg.ResourceParam[Backends]) -> None:
        from backends.lakehouse.maintenance import Ages, maintain

        ages = Ages(timedelta(days=config.history_days), timedelta(hours=config.leftover_hours))
        done, problems = [], []
        with backends.lakehouse() as lake:
            for table in tables:
                try:
                    done.append(maintain(lake, table, ages, config.apply))
                except TableNotFoundError:
                    context.log.info(f"{table} is not made yet.")
                except LakehouseError as error:
                    problems.append(str(error))
        for upkeep in done:
            context.log_event(dg.AssetObservation(table_key(tables[0]), metadata=_upkeep_facts(upkeep)))
            problems.extend(f"{address} cannot be deleted: {why}" for address, why in upkeep.failed.items())
        if problems:
            raise dg.Failure("\n".join(problems[:LISTED]), allow_retries=False)

    return _tidy


def _weekly(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=f"{UPKEEP}_schedule",
        job=job,
        cron_schedule="0 4 * * 0",
        run_config={"apply": True},
        description="Tidies every Sunday at 04:00 UTC, for good. Off until it is turned on.",
    )


def _rollback_facts(rollback: "Rollback", config: RollbackConfig) -> dict[str, Any]:
    done = rollback.moved
    return {
        "rolled_back_from": str(done.before.id),
        "rolled_back_to": str(done.now.id),
        "by": config.by,
        "reason": config.reason,
        "kept_as": done.tag,
        "withdrawn_days": ", ".join(rollback.withdrawn) or "none",
        "restored_days": ", ".join(rollback.restored) or "none",
        "dagster/row_count": done.now.rows,
    }


def _upkeep_facts(upkeep: "Upkeep") -> dict[str, Any]:
    counts = upkeep.counts().items()
    records = [dg.TableRecord({"kind": kind, "number": number, "bytes": size}) for kind, (number, size) in counts]
    names = list(upkeep.lines())
    return {
        "table": upkeep.table,
        "dry_run": not upkeep.applied,
        "bytes_freed" if upkeep.applied else "bytes_to_free": upkeep.bytes,
        "removed" if upkeep.applied else "would_be_removed": dg.MetadataValue.table(records),
        "names": "\n".join(names[:LISTED] + ([f"and {len(names) - LISTED} more"] if len(names) > LISTED else [])),
        "not_deleted": len(upkeep.failed),
    }
