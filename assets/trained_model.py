"""`<model>/trained_model`: the float network, taught by a blend of learners, with its yardsticks beside it."""

import dagster as dg

from assets.manifests import TrainedModel, TrainingSet
from assets.metadata import common, comparison, pictures
from assets.resources import Backends
from models.declaration import Declaration

ARTIFACT = "model_float32"


def trained_model(declaration: Declaration) -> dg.AssetsDefinition:
    """Make the asset that trains the network."""
    name = declaration.name

    @dg.asset(
        key=[name, "trained_model"],
        ins={"training_set": dg.AssetIn([name, "training_set"], input_manager_key="manifests")},
        description="A calibrated network with its encoder inside one ONNX graph, equal to the trainer's forward pass.",
        io_manager_key="manifests",
        **common(declaration, "onnx", "scikitlearn", "mlflow"),
    )
    def _trained_model(
        context: dg.AssetExecutionContext, backends: dg.ResourceParam[Backends], training_set: TrainingSet
    ) -> dg.MaterializeResult[TrainedModel]:
        from assets.examples import read_examples
        from assets.reports import in_words, log_training, training_pictures
        from models.scoring import sha256_of
        from models.training.fit import train

        with backends.lakehouse() as lake:
            examples = read_examples(lake, declaration, training_set.snapshot_id)
        trained = train(
            declaration,
            examples,
            entity_key_type=training_set.entity_key_type,
            event_key_type=training_set.event_key_type or None,
            training_snapshot=str(training_set.snapshot_id),
            dagster_run_id=context.op_execution_context.run_id,
            progress=context.log.info,
        )
        shown, words, registry = training_pictures(trained), in_words(declaration, trained), backends.registry()
        run_id = log_training(
            registry, declaration, training_set, trained, words, shown, context.op_execution_context.run_id, ARTIFACT
        )
        sha256 = sha256_of(trained.onnx)
        return dg.MaterializeResult(
            value=TrainedModel(training_set=training_set, mlflow_run_id=run_id, artifact=ARTIFACT, sha256=sha256),
            data_version=dg.DataVersion(sha256),
            metadata={
                "in_words": dg.MetadataValue.md("\n\n".join(words)),
                "auc": trained.metrics["network"]["auc"],
                "test_metrics": comparison(trained.metrics),
                **pictures(shown),
                "mlflow_run": dg.MetadataValue.url(registry.url(run_id)),
                "seconds": round(sum(trained.seconds.values()), 1),
                "seconds_by_phase": dg.MetadataValue.json({k: round(v, 2) for k, v in trained.seconds.items()}),
                "kilobytes": round(len(trained.onnx) / 1000, 1),
                "graph_difference": trained.graph_difference,
                "sha256": sha256,
            },
        )

    return _trained_model
