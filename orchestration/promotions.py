"""Jobs with which a person moves a model's champion: promote a version that tied, or go back to an earlier champion."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from assets.champion import champion_pool
from assets.recorded import DATA_VERSION
from assets.resources import Backends
from models.declaration import Declaration
from orchestration.jobs import LOGGERS

if TYPE_CHECKING:
    from backends.promotion_ledger import Kind, Move
    from backends.registry import Registry, Version

VERDICTS = {
    "promotion": "promoted",
    "manual": "promoted by hand",
    "rollback": "rolled back",
    "by_hand": "changed by hand in MLflow",
}


class PromotionConfig(dg.Config):
    """Which version to promote, why, and who says so."""

    to: int | None = Field(default=None, description="A version. Default: the newest that tied with a champion.")
    reason: str = Field(description="Why; kept in the ledger.")
    by: str = Field(description="Who; kept in the ledger.")


class ModelRollbackConfig(dg.Config):
    """Which champion to go back to, why, and who says so."""

    to: int | None = Field(default=None, description="An earlier champion. Default: the one before the present one.")
    reason: str = Field(description="Why; kept in the ledger.")
    by: str = Field(description="Who; kept in the ledger.")


def promotions(declarations: Sequence[Declaration]) -> dg.Definitions:
    """Return the two jobs of every model."""
    return dg.Definitions(jobs=[make(model) for model in declarations for make in (promote_job, rollback_model_job)])


def promotion_name(model: str) -> str:
    """Return the name of a model's job of promotion."""
    return f"promote_{model}"


def model_rollback_name(model: str) -> str:
    """Return the name of the job that goes back to an earlier champion."""
    return f"rollback_{model}_model"


def move_config(job: str, to: int | None, reason: str, by: str) -> dict[str, Any]:
    """Return the run config of either job."""
    config = {"reason": reason, "by": by, **({} if to is None else {"to": to})}
    return {"ops": {_step(job): {"config": config}}, **LOGGERS}


def promote_job(declaration: Declaration) -> dg.JobDefinition:
    """Make the job that promotes a version of which a person knows better than the gate."""
    job = promotion_name(declaration.name)

    @dg.op(name=_step(job), pool=champion_pool(declaration.name))
    def _promote(context: dg.OpExecutionContext, config: PromotionConfig, backends: dg.ResourceParam[Backends]) -> None:
        _move(context, declaration, backends, "manual", config)

    @dg.job(
        name=job,
        description=f"Makes a version of {declaration.name} the champion that passed its gates, with the reason.",
    )
    def _job() -> None:
        _promote()

    return _job


def rollback_model_job(declaration: Declaration) -> dg.JobDefinition:
    """Make the job that makes an earlier champion the champion again."""
    job = model_rollback_name(declaration.name)

    @dg.op(name=_step(job), pool=champion_pool(declaration.name))
    def _roll_back(
        context: dg.OpExecutionContext, config: ModelRollbackConfig, backends: dg.ResourceParam[Backends]
    ) -> None:
        _move(context, declaration, backends, "rollback", config)

    @dg.job(
        name=job,
        description=f"Goes back to an earlier champion of {declaration.name}, with the reason. It can be undone.",
    )
    def _job() -> None:
        _roll_back()

    return _job


# --- the steps ------------------------------------------------------------------------------------------------------


def _step(job: str) -> str:
    return f"{job}_now"


def _move(
    context: dg.OpExecutionContext,
    declaration: Declaration,
    backends: Backends,
    kind: "Kind",
    config: PromotionConfig | ModelRollbackConfig,
) -> None:
    """Move the champion, and report it as materialized: what reads the champion follows by its conditions."""
    from backends.manual_moves import ManualMoves
    from backends.promotion_ledger import Why

    registry, name = backends.registry(), declaration.name
    why = Why(kind, config.by.strip(), config.reason.strip(), context.run_id)
    with backends.lakehouse() as lake:
        moves = ManualMoves(lake, registry, name, declaration.promotions_table, declaration.scored_table)
        version, move = (moves.promote if kind == "manual" else moves.roll_back)(config.to, why)
    tags = {DATA_VERSION: version.sha256}
    context.log_event(
        dg.AssetMaterialization(dg.AssetKey([name, "champion"]), metadata=_facts(registry, version, move), tags=tags)
    )


def _facts(registry: "Registry", version: "Version", move: "Move") -> dict[str, Any]:
    return {
        "verdict": VERDICTS[move.kind],
        "model_version": version.version,
        "previous_version": "none" if move.from_version is None else move.from_version,
        "by": move.by,
        "reason": move.reason,
        "sha256": version.sha256,
        "precision": version.tags.get("precision", "unknown"),
        "mlflow_run": dg.MetadataValue.url(registry.url(version.mlflow_run_id)),
        "training_snapshot": version.tags.get("training_snapshot", "unknown"),
    }
