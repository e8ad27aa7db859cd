"""`<model>/champion`: the version that both lanes serve. A candidate gets here through its gates, or not at all."""

from collections.abc import Iterator

import dagster as dg

from assets.manifests import Candidate
from assets.metadata import common, comparison
from assets.resources import Backends
from models.declaration import Declaration
from models.errors import Problem

GATES = {
    "min_auc": "reaches_the_least_auc",
    "max_auc_behind_champion": "keeps_up_with_the_champion",
    "max_calibration_error": "is_calibrated",
}


def champion(declaration: Declaration) -> dg.AssetsDefinition:
    """Make the asset that promotes a candidate, with a blocking check for each gate."""
    key = dg.AssetKey([declaration.name, "champion"])
    gates = declaration.gates
    texts = {
        "min_auc": f"ROC-AUC on the test set is at least {gates.min_auc:g}.",
        "max_auc_behind_champion": (
            f"On the same fresh rows, ROC-AUC is at most {gates.max_auc_behind_champion:g} behind the champion's."
        ),
        "max_calibration_error": f"Expected calibration error is at most {gates.max_calibration_error:g}.",
    }
    specs = [dg.AssetCheckSpec(GATES[gate], asset=key, blocking=True, description=text) for gate, text in texts.items()]

    @dg.asset(
        key=key,
        ins={"candidate": dg.AssetIn([declaration.name, "quantized_model"], input_manager_key="manifests")},
        check_specs=specs,
        description="The registered version with the alias `champion`: the only one that batch and the API can reach.",
        **common(declaration, "mlflow", "onnx"),
    )
    def _champion(
        context: dg.AssetExecutionContext, backends: dg.ResourceParam[Backends], candidate: Candidate
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
        from assets.promotion import judge

        registry = backends.registry()
        with backends.lakehouse() as lake:
            verdict = judge(lake, registry, declaration, candidate)
        for gate, check in GATES.items():
            found = [problem for problem in verdict.problems if problem.field == gate]
            yield dg.AssetCheckResult(check_name=check, passed=not found, metadata=_facts(found, verdict.metrics))
        if verdict.problems:
            raise dg.Failure(
                f"The candidate {candidate.sha256[:12]} is not promoted; the champion stays. "
                + "; ".join(map(str, verdict.problems)),
                allow_retries=False,
            )
        tags = {
            "precision": candidate.precision,
            "training_snapshot": str(candidate.training_set.snapshot_id),
            "population_snapshot": candidate.training_set.population_snapshot,
            "dagster_run_id": candidate.dagster_run_id,
            "promoted_by_dagster_run_id": context.op_execution_context.run_id,
            **{f"metric.{name}": f"{value:.6f}" for name, value in verdict.metrics["candidate"].items()},
        }
        version = registry.promote(
            declaration.name, candidate.mlflow_run_id, candidate.artifact, candidate.sha256, tags
        )
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(version.sha256),
            metadata={
                "model_version": version.version,
                "sha256": version.sha256,
                "precision": candidate.precision,
                "mlflow_run": dg.MetadataValue.url(registry.url(version.mlflow_run_id)),
                "test_metrics": comparison(verdict.metrics),
                "training_snapshot": str(candidate.training_set.snapshot_id),
            },
        )

    return _champion


def _facts(problems: list[Problem], metrics: dict[str, dict[str, float]]) -> dict[str, dg.MetadataValue | str]:
    facts: dict[str, dg.MetadataValue | str] = {"metrics_on_the_same_rows": comparison(metrics)}
    return facts | ({"reason": str(problems[0])} if problems else {})
