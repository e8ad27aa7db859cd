"""What a training run leaves in MLflow, and its pictures."""

from assets.manifests import TrainingSet
from backends.registry import Dataset, Registry
from models.declaration import Declaration
from models.scoring import Scorer
from models.training.fit import Trained
from models.training.plots import roc_and_calibration, training_curve
from models.training.report_in_words import importance_of, report_in_words

NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as a run's description


def in_words(declaration: Declaration, trained: Trained) -> list[str]:
    """Say what the float network is worth, in sentences."""
    importance = importance_of(Scorer(trained.onnx), trained.test_rows, trained.y_test)
    return report_in_words(
        declaration, trained.contract, trained.y_test, trained.scores_test, trained.metrics, importance
    )


def training_pictures(trained: Trained) -> dict[str, bytes]:
    """Draw what one would rather look at: file name -> PNG."""
    scores = {"network": trained.scores_test, "boosted trees": trained.scores_boosted_trees}
    return {
        "roc_and_calibration.png": roc_and_calibration(trained.y_test, scores),
        "training_curve.png": training_curve(trained.curve),
    }


def log_training(
    registry: Registry,
    declaration: Declaration,
    training_set: TrainingSet,
    trained: Trained,
    words: list[str],
    pictures: dict[str, bytes],
    dagster_run_id: str,
    artifact: str,
) -> str:
    """Write the run: its words, parameters, metrics, curve, pictures, dataset and the ONNX file. Return its id."""
    tags = {"dagster_run_id": dagster_run_id, "training_snapshot": str(training_set.snapshot_id)}
    tags |= {NOTE: "\n\n".join(words)}
    params = {
        **{f"network.{key}": value for key, value in declaration.network.model_dump().items()},
        **{f"training.{key}": value for key, value in declaration.training.model_dump().items()},
        **{f"split.{key}": value for key, value in trained.split.description.items()},
    }
    metrics = {f"{name}.{key}": value for name, values in trained.metrics.items() for key, value in values.items()}
    metrics |= {f"seconds.{phase}": seconds for phase, seconds in trained.seconds.items()}
    with registry.run(declaration.name, f"{declaration.name} {dagster_run_id[:8]}", tags) as run_id:
        registry.log_facts(run_id, params, metrics)
        registry.log_curve(run_id, "training_loss", trained.curve)
        registry.log_dataset(run_id, Dataset(training_set.table, str(training_set.snapshot_id), training_set.rows))
        registry.log_pictures(run_id, pictures)
        registry.log_onnx(run_id, artifact, trained.onnx)
    return run_id
