"""What the batch lane is measured on: a home with a made population, a network that was really trained, and its rivals.

Everything is made once and found again by the next run; deleting the folder is a clean start.
"""

import pickle
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from assets.resources import Backends
from backends.engines import LocalEngine
from backends.lakehouse.catalog import Lakehouse
from backends.settings import ROOT, Settings
from demo.lake import CUSTOMERS, EXAMPLES, write_customers, write_examples
from models.declaration import Declaration, load_declaration
from models.errors import TandemError
from models.scoring import Scorer, sha256_of

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

SEED = 7
EXAMPLE_ROWS = 60_000  # how good the models are does not matter here, how large they are does
MODEL = "churn"
PRECISIONS = ("int8", "float32")
ABSENT = "absent"  # what the rivals write for a missing category
# The whole network of the declaration, learnt in a hurry; nothing may stop the night but a mistake.
QUICK = {"teacher_folds": 2, "teacher_iterations": 60, "synthetic_rows": 20_000, "row_presentations": 300_000}


@dataclass(frozen=True)
class BatchHome:
    """The folder, and where in it what is."""

    folder: Path

    def settings(self, precision: str) -> Settings:
        """Return a home in which that precision is the champion; both read the same population."""
        home = self.folder / precision
        lake = {"catalog_uri": f"sqlite:///{self.folder}/catalog.db", "warehouse": f"file://{self.folder}/lake"}
        return Settings(home=home, models=home / "models", threads=2, engine="local", **lake)

    def declaration(self, precision: str) -> Declaration:
        """Return churn with a Gold table of its own."""
        return load_declaration(self.settings(precision).models / f"{MODEL}.yaml")

    def scorer(self, precision: str) -> Scorer:
        """Load the network."""
        return Scorer.from_file(self.folder / f"{precision}.onnx")

    def lakehouse(self) -> Lakehouse:
        """Open the lake."""
        return Lakehouse.open(self.settings("int8"))

    @property
    def pipeline(self) -> Path:
        """The rivals' scikit-learn pipeline, a pickle of our own making."""
        return self.folder / "pipeline.pickle"

    @property
    def mlflow_model(self) -> Path:
        """The same pipeline as an MLflow model."""
        return self.folder / "pipeline.mlflow"

    @property
    def converted(self) -> Path:
        """The same pipeline as skl2onnx converts it."""
        return self.folder / "pipeline.onnx"


def prepare(home: BatchHome, rows: int) -> None:
    """Make what is missing."""
    home.folder.mkdir(parents=True, exist_ok=True)
    with home.lakehouse() as lake:
        _population(lake, rows)
        if not (home.folder / "int8.onnx").exists():
            _network(home, lake)
        if not home.pipeline.exists():
            _rivals(home, lake)
    for precision in PRECISIONS:
        _champion(home, precision)


def _population(lake: Lakehouse, rows: int) -> None:
    engine, today = LocalEngine(2), datetime.now(UTC).date()
    if not lake.catalog.table_exists(CUSTOMERS) or lake.snapshot(CUSTOMERS).rows != rows:
        write_customers(lake, engine, rows, SEED, today, lambda _: None)
    if not lake.catalog.table_exists(EXAMPLES):
        write_examples(lake, engine, EXAMPLE_ROWS, SEED, today, lambda _: None)


def _network(home: BatchHome, lake: Lakehouse) -> None:
    declared = load_declaration(ROOT / "models" / f"{MODEL}.yaml")
    for precision, onnx in network(declared, lake.read(EXAMPLES), str(lake.snapshot(EXAMPLES).id)).items():
        (home.folder / f"{precision}.onnx").write_bytes(onnx)


def network(declared: Declaration, examples: pa.Table, snapshot: str) -> dict[str, bytes]:
    """Train the declaration's whole network in a hurry; return its ONNX file in each precision."""
    from models.training.fit import train
    from models.training.quantization import quantize

    quick = declared.model_copy(update={"training": declared.training.model_copy(update=QUICK)})
    trained = train(quick, examples, entity_key_type="integer", training_snapshot=snapshot)
    return {"float32": trained.onnx, "int8": quantize(trained.onnx, trained.calibration_rows)}


def _champion(home: BatchHome, precision: str) -> None:
    """Declare churn in the precision's home, and make its file the champion there."""
    settings = home.settings(precision)
    settings.models.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = yaml.safe_load((ROOT / "models" / f"{MODEL}.yaml").read_text())
    fields["predictions"] |= {"table": f"gold.churn_{precision}", "rejects": f"gold.churn_{precision}_rejects"}
    (settings.models / f"{MODEL}.yaml").write_text(yaml.safe_dump(fields, sort_keys=False))
    registry, onnx = Backends(settings).registry(), (home.folder / f"{precision}.onnx").read_bytes()
    champion = registry.champion_or_none(MODEL)
    if champion is None or champion.sha256 != sha256_of(onnx):
        with registry.run(MODEL, "benchmark", {}) as run_id:
            registry.log_onnx(run_id, "model", onnx)
        registry.promote(MODEL, run_id, "model", sha256_of(onnx), {"precision": precision})


# --- the rivals -----------------------------------------------------------------------------------------------------


def _rivals(home: BatchHome, lake: Lakehouse) -> None:
    """Fit the pipeline that most teams would write for the same features, with a network as wide as ours."""
    import mlflow.sklearn

    declared = load_declaration(ROOT / "models" / f"{MODEL}.yaml")
    examples = lake.read(EXAMPLES).to_pandas()
    words = [name for name, feature in declared.features.items() if feature.kind == "category"]
    examples[words] = examples[words].fillna(ABSENT)
    pipeline = _pipeline(declared).fit(examples[list(declared.features)], examples[declared.examples.label])
    home.converted.write_bytes(_converted(pipeline, declared))
    mlflow.sklearn.save_model(
        pipeline, str(home.mlflow_model), pyfunc_predict_fn="predict_proba", serialization_format="cloudpickle"
    )
    home.pipeline.write_bytes(pickle.dumps(pipeline))


def _pipeline(declared: Declaration) -> "Pipeline":
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = [name for name, feature in declared.features.items() if feature.kind == "number"]
    words = [name for name, feature in declared.features.items() if feature.kind == "category"]
    encoder = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), numbers),
            ("words", OneHotEncoder(handle_unknown="ignore", sparse_output=False), words),
        ]
    )
    return make_pipeline(
        encoder, MLPClassifier(declared.network.hidden, max_iter=3, early_stopping=False, tol=0, random_state=SEED)
    )


def _converted(pipeline: "Pipeline", declared: Declaration) -> bytes:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    kinds = {"number": FloatTensorType, "category": StringTensorType}
    inputs = [(name, kinds[feature.kind]([None, 1])) for name, feature in declared.features.items()]
    model = convert_sklearn(pipeline, initial_types=inputs, options={"zipmap": False})
    if not model.graph.output:
        raise TandemError("skl2onnx made a graph without outputs")
    return bytes(model.SerializeToString())
