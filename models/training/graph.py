"""The ONNX file, written by hand: raw numbers and category codes in, probability out, the contract in its metadata.

The network learns from the output of the very encoder that is inside (`dense_encoder`), so training and scoring cannot
see different columns. How that encoder works is in `graph_encoder`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from models.contract import CATEGORIES, NUMBERS, Contract
from models.encoding import Encoded
from models.scoring import session_options
from models.training.graph_encoder import add_encoder
from models.training.graph_parts import GraphParts
from models.training.layout import Layout

Matrix = npt.NDArray[np.float32]
Layer = tuple[Matrix, Matrix]  # weights float32 [inputs, outputs], bias float32 [outputs]
Encode = Callable[[Encoded], Matrix]  # to dense float32 [rows, layout.width]


def build_graph(contract: Contract, layout: Layout, layers: Sequence[Layer]) -> bytes:
    """Return the ONNX file: the encoder, the layers with ReLU between them, a sigmoid; float32 [rows] out.

    The same arguments give the same bytes.
    """
    parts = GraphParts()
    hidden = add_encoder(parts, contract, layout)
    (first, first_bias), *others = layers
    spare = np.zeros((1, first.shape[1]), np.float32)
    for i, (weights, bias) in enumerate([(np.concatenate([first, spare]), first_bias), *others], 1):
        operands = [hidden, parts.constant(f"weights{i}", weights), parts.constant(f"bias{i}", bias)]
        hidden = parts.node("Gemm", operands, f"layer{i}")
        if i < len(layers):
            hidden = parts.node("Relu", [hidden], f"hidden{i}")
    logit = parts.node("Squeeze", [hidden, parts.constant("column_axis", [1], np.int64)], "logit")
    parts.node("Sigmoid", [logit], contract.output)
    model = parts.model(contract.model, contract.output, ["rows"])
    return with_metadata(model.SerializeToString(), contract.to_metadata())


def with_metadata(file: bytes, entries: Mapping[str, str]) -> bytes:
    """Return the ONNX file with entries of its metadata replaced, or added; the others stay."""
    model = onnx.load_from_string(file)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    helper.set_model_props(model, {**kept, **entries})
    return model.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


def dense_encoder(contract: Contract, layout: Layout) -> Encode:
    """Return the graph's encoder alone, as a function, without the spare column."""
    parts = GraphParts()
    dense = add_encoder(parts, contract, layout)
    file = parts.model(contract.model, dense, ["rows", layout.width + 1]).SerializeToString()
    session = ort.InferenceSession(file, session_options(), providers=["CPUExecutionProvider"])
    names = [value.name for value in parts.inputs]

    def encode(rows: Encoded) -> Matrix:
        arrays = {NUMBERS: rows.numbers, CATEGORIES: rows.categories}
        columns: Matrix = session.run([dense], {name: arrays[name] for name in names})[0]
        return columns[:, :-1]

    return encode
