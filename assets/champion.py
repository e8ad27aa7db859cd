"""`<model>/champion`: the version that both lanes serve. A candidate gets here by beating the one that is there."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.manifests import Candidate
from assets.metadata import common, comparison, pictures
from assets.resources import Backends
from models.declaration import Declaration, Gates

if TYPE_CHECKING:
    from assets.promotion import Verdict
    from backends.registry import Registry, Version

GATES = {
    "reaches_the_least_auc": {"min_auc"},
    "keeps_up_with_the_champion": {"max_auc_behind_champion", "max_log_loss_behind_champion"},
    "is_calibrated": {"max_calibration_error"},
}
BEATS = "beats_the_champion"


def champion_pool(model: str) -> str:
    """Return the pool of whatever moves a model's champion: one at a time."""
    return f"{model}_champion"


def champion(declaration: Declaration) -> dg.AssetsDefinition:
    """Make the asset that promotes a candidate, with a check for each gate; a tie keeps the champion."""
    key, name = dg.AssetKey([declaration.name, "champion"]), declaration.name
    specs = [
        dg.AssetCheckSpec(check, asset=key, blocking=check in GATES, description=text)
        for check, text in _texts(declaration.gates).items()
    ]

    @dg.asset(
        key=key,
        ins={"candidate": dg.AssetIn([name, "quantized_model"], input_manager_key="manifests")},
        check_specs=specs,
        pool=champion_pool(name),
        description="The registered version with the alias `champion`: the only one that batch and the API can reach.",
        **common(declaration, "mlflow", "onnx"),
    )
    def _champion(
        context: dg.AssetExecutionContext, backends: dg.ResourceParam[Backends], candidate: Candidate
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
        from assets.promoting import bar, carry_out
        from assets.promotion import judge
        from assets.promotion_report import log_verdict, verdict_pictures
        from backends.promotions import Promotions

        registry, run_id = backends.registry(), context.op_execution_context.run_id
        with backends.lakehouse() as lake:
            promotions = Promotions(lake, registry, name, declaration.promotions_table)
            standing = promotions.settle()
            verdict = judge(lake, registry, declaration, candidate, standing.champion)
            drawn = verdict_pictures(declaration, verdict)
            log_verdict(registry, candidate, verdict, drawn)
            yield from _check_results(declaration.gates, verdict, drawn)
            if verdict.problems:
                bar(registry, name, candidate, verdict)
                raise dg.Failure(
                    f"The candidate {candidate.sha256[:12]} is not promoted; the champion stays. {verdict.reason}",
                    allow_retries=False,
                )
            version = carry_out(registry, promotions, standing, name, candidate, verdict, run_id)
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(version.sha256),
            metadata=_facts(registry, version, candidate, verdict) | pictures(drawn),
        )

    return _champion


def _texts(gates: Gates) -> dict[str, str]:
    least, share = gates.comparison, f"{gates.comparison.confidence:.0%}"
    return {
        "reaches_the_least_auc": f"ROC-AUC on the test set is at least {gates.min_auc:g}.",
        "keeps_up_with_the_champion": (
            f"On the same fresh rows, ROC-AUC is at most {gates.max_auc_behind_champion:g} behind the champion's, "
            f"log-loss at most {gates.max_log_loss_behind_champion:g}."
        ),
        "is_calibrated": f"Expected calibration error is at most {gates.max_calibration_error:g}.",
        BEATS: (
            f"The {share} interval of the gain, from {least.resamples:,} paired resamples of these rows, is above "
            f"{least.min_auc_gain:g} for ROC-AUC or above {least.min_log_loss_gain:g} for log-loss, and neither "
            "reaches beyond those margins. Otherwise it is a tie, and the champion stays."
        ),
    }


def _check_results(gates: Gates, verdict: "Verdict", drawn: dict[str, bytes]) -> Iterator[dg.AssetCheckResult]:
    from assets.promotion_report import figures_of, gains_table, problems_of

    candidate, gains = verdict.metrics["candidate"], verdict.contest.gains.items()
    measured = {  # for Dagster to plot
        "reaches_the_least_auc": {"auc": candidate["auc"], "limit": gates.min_auc},
        "keeps_up_with_the_champion": {f"{metric}_gain": gain.value for metric, gain in gains},
        "is_calibrated": {"error": candidate["calibration_error"], "limit": gates.max_calibration_error},
    }
    compared = {"metrics_on_the_same_rows": comparison(verdict.metrics)}
    for check, fields in GATES.items():
        found = problems_of(verdict, fields)
        facts = {"reason": found or "holds", **measured[check], **compared}
        yield dg.AssetCheckResult(check_name=check, passed=not found, metadata=facts)
    facts = {"reason": verdict.reason, **gains_table(verdict), **figures_of(verdict), **pictures(drawn)}
    yield dg.AssetCheckResult(
        check_name=BEATS, passed=verdict.beats, severity=dg.AssetCheckSeverity.WARN, metadata=facts
    )


def _facts(registry: "Registry", version: "Version", candidate: Candidate, verdict: "Verdict") -> dict[str, Any]:
    from assets.promotion_report import gains_table

    kept = {"tie": "kept: a tie", "same": "kept: the same bytes"}
    facts = {
        "verdict": kept.get(verdict.ruling, f"promoted: {verdict.ruling}"),
        "model_version": version.version,
        "reason": verdict.reason,
        **gains_table(verdict),
        "test_metrics": comparison(verdict.metrics),
        "sha256": version.sha256,
        "precision": version.tags.get("precision", candidate.precision),
        "mlflow_run": dg.MetadataValue.url(registry.url(version.mlflow_run_id)),
        "training_snapshot": version.tags.get("training_snapshot", "unknown"),
    }
    if verdict.ruling == "tie":
        facts["candidates_mlflow_run"] = dg.MetadataValue.url(registry.url(candidate.mlflow_run_id))
    return facts
