"""`<model>/quantized_model`: the int8 file, or the float one where int8 is not close enough or not faster."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from assets.manifests import Candidate, TrainedModel
from assets.metadata import common, comparison, pictures
from assets.resources import Backends
from models.declaration import Declaration, Int8Limits

if TYPE_CHECKING:
    from models.errors import Problem

ARTIFACT = "model_int8"
CHECKS = {
    "int8_keeps_the_ranking": ({"auc_drop"}, "ROC-AUC drops no more than declared."),
    "int8_keeps_the_probabilities": (
        {"log_loss_rise", "mean_change", "p99_change", "calibration_error_rise"},
        "Log-loss, calibration and the scores themselves change no more than declared.",
    ),
    "int8_keeps_the_decisions": ({"decision_flips"}, "No more decisions flip at the threshold than declared."),
    "int8_is_real": ({"quantized_nodes"}, "After its optimization, onnxruntime runs fused int8 products."),
    "int8_is_smaller": ({"size_ratio"}, "The int8 file has fewer bytes than the float one."),
    "int8_is_faster": ({"speedup"}, "On this CPU, in one run, int8 scores at least as many rows per second as float."),
}


def quantized_model(declaration: Declaration) -> dg.AssetsDefinition:
    """Make the asset that quantizes the network. Its checks warn: when one fails, the float file goes on instead."""
    key = dg.AssetKey([declaration.name, "quantized_model"])
    specs = [dg.AssetCheckSpec(check, asset=key, description=text) for check, (_, text) in CHECKS.items()]

    @dg.asset(
        key=key,
        ins={"trained_model": dg.AssetIn([declaration.name, "trained_model"], input_manager_key="manifests")},
        check_specs=specs,
        description="The file that asks to be champion: int8 when it keeps what the float network knows, else float.",
        io_manager_key="manifests",
        **common(declaration, "onnx", "onnxruntime"),
    )
    def _quantized_model(
        context: dg.AssetExecutionContext, backends: dg.ResourceParam[Backends], trained_model: TrainedModel
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[Candidate]]:
        from assets.examples import read_examples
        from assets.quantizing import log_quantization, quantize_and_compare

        registry = backends.registry()
        with backends.lakehouse() as lake:
            table = read_examples(lake, declaration, trained_model.training_set.snapshot_id)
        floating = registry.read_onnx(trained_model.mlflow_run_id, trained_model.artifact, trained_model.sha256)
        outcome = quantize_and_compare(declaration, table, floating)
        log_quantization(registry, trained_model.mlflow_run_id, outcome, ARTIFACT)
        chosen = outcome.chosen
        candidate = Candidate(
            training_set=trained_model.training_set,
            mlflow_run_id=trained_model.mlflow_run_id,
            artifact=ARTIFACT if outcome.accepted else trained_model.artifact,
            sha256=chosen.sha256,
            precision=chosen.contract.precision,
            dagster_run_id=context.op_execution_context.run_id,
        )
        yield from _check_results(outcome.problems, outcome.changes, declaration.gates.int8)
        yield dg.MaterializeResult(
            value=candidate,
            data_version=dg.DataVersion(candidate.sha256),
            metadata={
                "precision": candidate.precision,
                "reason": "; ".join(map(str, outcome.problems)) or "int8 keeps what the float network knows",
                "test_metrics": comparison(outcome.metrics),
                **pictures(outcome.pictures),
                "speedup": outcome.changes["speedup"],
                **outcome.rows_per_second,
                "kilobytes_float32": round(len(floating) / 1000, 1),
                "kilobytes_int8": round(len(outcome.int8) / 1000, 1),
                "changes": dg.MetadataValue.json(outcome.changes),
                "mlflow_run": dg.MetadataValue.url(registry.url(candidate.mlflow_run_id)),
                "sha256": candidate.sha256,
            },
        )

    return _quantized_model


def _check_results(
    problems: "list[Problem]", changes: dict[str, float], limits: Int8Limits
) -> Iterator[dg.AssetCheckResult]:
    allowed = {name.removeprefix("max_"): limit for name, limit in limits.model_dump().items()}
    for check, (fields, _) in CHECKS.items():
        found = [str(problem) for problem in problems if problem.field in fields]
        figures = {name: changes[name] for name in sorted(fields)}
        bounds = {f"limit_{name}": allowed[name] for name in sorted(fields) if name in allowed}
        yield dg.AssetCheckResult(
            check_name=check,
            passed=not found,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"reason": "; ".join(found) or "holds", **figures, **bounds},
        )
