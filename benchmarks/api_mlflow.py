"""The rival of `make bench-api`: the same ONNX file as two MLflow models, for `mlflow models serve`.

One takes features by name, as applications have them and as MLflow's documentation shows: a pyfunc that encodes and
scores as the service does. The other is MLflow's own ONNX flavour with the graph's tensors as inputs, which leaves the
encoding to the caller: the fastest that its server can be with this file. Neither looks features up.
"""

from pathlib import Path
from typing import Any

import mlflow.onnx
import mlflow.pyfunc
import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

from models.contract import CATEGORIES, NUMBERS, Contract
from models.encoding import encode_rows
from models.scoring import Scorer

ONNX = "onnx"
ONE_THREAD = {"intra_op_num_threads": 1, "execution_mode": "sequential"}


class NamedFeatures(mlflow.pyfunc.PythonModel):
    """Scores a DataFrame with a column for each feature."""

    def load_context(self, context: Any) -> None:
        """Load the network."""
        self._scorer = Scorer.from_file(Path(context.artifacts[ONNX]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> npt.NDArray[np.float32]:  # noqa: ARG002
        """Return a score for each row. pandas writes missing texts as NaN."""
        rows = [
            {name: None if value != value else value for name, value in row.items()}
            for row in model_input.to_dict("records")
        ]
        return self._scorer.score(encode_rows(self._scorer.contract, rows))


def save_by_name(network: Path, folder: Path) -> None:
    """Save the model that takes features by name."""
    contract = Scorer.from_file(network).contract
    kinds = {"number": "double", "category": "string", "history": "double"}
    columns = [ColSpec(kinds[f.kind], name, required=not f.missing) for name, f in contract.features.items()]
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=NamedFeatures(),
        artifacts={ONNX: str(network)},
        signature=ModelSignature(Schema(columns), Schema([TensorSpec(np.dtype(np.float32), (-1,))])),
        pip_requirements=["onnxruntime"],
    )


def save_tensors(network: Path, folder: Path) -> None:
    """Save the model that takes the graph's inputs, on one thread as ours."""
    contract = Scorer.from_file(network).contract
    mlflow.onnx.save_model(
        onnx.load_model(network),
        str(folder),
        signature=_signature_of_tensors(contract),
        pip_requirements=["onnxruntime"],
        onnx_session_options=ONE_THREAD,
    )
    (folder / "model.onnx").write_bytes(network.read_bytes())


def _signature_of_tensors(contract: Contract) -> ModelSignature:
    inputs = [
        TensorSpec(np.dtype(np.float32), (-1, len(contract.numbers)), NUMBERS),
        TensorSpec(np.dtype(np.int32), (-1, len(contract.categories)), CATEGORIES),
    ]
    return ModelSignature(Schema(inputs), Schema([TensorSpec(np.dtype(np.float32), (-1,), contract.output)]))
