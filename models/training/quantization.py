"""From the float graph to the int8 one, by hand: QDQ that onnxruntime fuses into int8 products (QGemm).

    numbers as read ──┐
                      Concat ─ MatMul ─ Quantize ── layer1 ── Quantize ── layer2 ── Quantize ── layer3 ── Sigmoid
    category codes ───┘  float           uint8       int8       uint8      int8       uint8     float

Columns are within [0, 1] (255 is 1), and what follows a ReLU is not negative. Quantized with zero as 0, both are
clipped by the quantization itself: the graph needs no Clip and no ReLU there. What the columns are is in
`rising_columns`, whether int8 is good enough is decided in `evaluation`.
"""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from models.contract import CATEGORIES, NUMBERS, Contract
from models.encoding import Encoded
from models.scoring import ROWS_PER_CALL, session_options
from models.training.graph import with_metadata
from models.training.graph_parts import GraphParts
from models.training.rising_columns import Constants, Matrix, RisingColumns, rising_columns, rounded

CALIBRATION_ROWS = 8192  # the range of a hidden layer is taken from so many rows at most
MOST_INPUT = 255
MOST_WEIGHT = 64  # 7 bits: CPUs without VNNI add two products in 16 bits, which 2 * 255 * 64 fits
UNROUNDED = MOST_WEIGHT - 1  # what the largest weight is before rounding, which moves it by 1 at most
LEAST_RANGE = 1e-6  # of a hidden layer: one that is always 0 has a scale too

Array = npt.NDArray[np.generic]


def quantize(file: bytes, calibration: Encoded) -> bytes:
    """Return the int8 ONNX file: the hidden layers in int8 (activations uint8, weights int8), all else in float32.

    The encoder stays float up to its columns, or a number would be read in 256 steps; so do the last layer and the
    sigmoid, or there would be 256 scores. Weights have a scale for each output channel, a hidden layer the range up to
    its maximum over `calibration` rows. The contract says int8. The same arguments give the same bytes.
    """
    model = onnx.load_from_string(file)
    contract = Contract.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    hidden = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    scales = {"dense": 1 / MOST_INPUT, **_scales(model, contract, calibration, hidden)}
    quantized = _rewritten(model.graph, scales).model(contract.model, contract.output, ["rows"])
    contract = contract.model_copy(update={"precision": "int8"})
    return with_metadata(quantized.SerializeToString(), contract.to_metadata())


def quantized_nodes(file: bytes) -> int:
    """Count the int8 matrix products (QGemm) that really exist once onnxruntime has optimized the graph."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options = session_options()
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return sum(node.op_type == "QGemm" for node in onnx.load(path).graph.node)


# --- the graph ------------------------------------------------------------------------------------------------------


def _rewritten(graph: onnx.GraphProto, scales: dict[str, float]) -> GraphParts:
    """Return the graph with the tensors in `scales` as uint8, and the layers that read them as int8."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    columns = rising_columns(constants)
    parts = GraphParts()
    parts.inputs = list(graph.input)
    parts.constant("zero_byte", 0, np.uint8)
    for name, scale in scales.items():
        parts.constant(f"{name}_scale", scale)
    reading = takewhile(lambda node: node.name != "unclipped", graph.node) if "slopes" in constants else ()
    parts.nodes += reading
    _add_columns(parts, columns)
    layers = [(columns.weights, columns.bias), *_further_layers(constants, len(scales))]
    for i, (source, (weights, bias)) in enumerate(zip(scales, layers, strict=True), 1):
        if i < len(layers):
            runs = columns.runs if i == 1 else []
            _add_layer(parts, f"layer{i}", source, weights, bias, scales[source], runs)
            parts.node("QuantizeLinear", [f"layer{i}", f"hidden{i}_scale", "zero_byte"], f"hidden{i}")
        else:
            parts.node("Gemm", [_as_float(parts, source), f"weights{i}", f"bias{i}"], f"layer{i}")
    parts.nodes += list(graph.node)[-2:]  # Squeeze, Sigmoid
    used = {name for node in parts.nodes for name in node.input} - {tensor.name for tensor in parts.constants}
    parts.constants += [tensor for tensor in graph.initializer if tensor.name in used]
    return parts


def _add_columns(parts: GraphParts, columns: RisingColumns) -> None:
    """Add `dense`, uint8 [rows, columns]: 255 is 1, and what is beyond is clipped.

    The starts are one more row of the slopes, for a feature that is always 1: a Gemm would first write its bias into
    all of its output, and then read that again.
    """
    values = [name for name in ("filled",) if any(node.name == name for node in parts.nodes)]
    if any(value.name == CATEGORIES for value in parts.inputs):
        values.append(_codes(parts, columns))
    features = parts.node("Concat", [*values, _always_one(parts, values[-1])], "features", axis=1)
    slopes = parts.constant("slopes", np.vstack([columns.slopes, columns.starts]))
    parts.node("MatMul", [features, slopes], "unclipped")
    parts.node("QuantizeLinear", ["unclipped", "dense_scale", "zero_byte"], "dense")


def _always_one(parts: GraphParts, like: str) -> str:
    """Add a column of ones, float32 [rows, 1], with as many rows as `like` has."""
    rows = parts.node("Shape", [like], "row_count", start=0, end=1)
    shape = parts.node("Concat", [rows, parts.constant("one_column", [1], np.int64)], "one_shape", axis=0)
    return parts.node(
        "ConstantOfShape", [shape], "always_one", value=helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    )


def _codes(parts: GraphParts, columns: RisingColumns) -> str:
    """Add the codes as float32 [rows, categories], or their places where those are read."""
    if columns.places is None:
        return parts.node("Cast", [CATEGORIES], "codes", to=int(TensorProto.FLOAT))
    positions = parts.node("Add", [CATEGORIES, "code_offsets"], "code_positions")
    return parts.node("Gather", [parts.constant("code_places", columns.places), positions], "codes")


def _further_layers(constants: Constants, layers: int) -> list[tuple[Matrix, Matrix]]:
    """Return weights and bias of the layers after the first."""
    numbers = range(2, layers + 1)
    return [(constants[f"weights{i}"].astype(np.float64), constants[f"bias{i}"].astype(np.float64)) for i in numbers]


def _add_layer(
    parts: GraphParts, name: str, source: str, weights: Matrix, bias: Matrix, scale: float, runs: list[slice]
) -> None:
    """Add `name = source @ weights + bias` in int8: weights int8 [inputs, outputs], bias int32."""
    steps = np.maximum(np.abs(weights).max(0), np.finfo(np.float32).tiny / scale) / UNROUNDED
    bias_steps = (steps * np.float32(scale)).astype(np.float32)
    limits = np.iinfo(np.int32)
    whole = np.clip(np.rint(bias / bias_steps), limits.min, limits.max)
    operands = [
        _as_float(parts, source),
        _dequantized(parts, f"{name}_weights", rounded(weights / steps, runs).astype(np.int8), steps, axis=1),
        _dequantized(parts, f"{name}_bias", whole.astype(np.int32), bias_steps, axis=0),
    ]
    parts.node("Gemm", operands, name)


def _as_float(parts: GraphParts, source: str) -> str:
    return parts.node("DequantizeLinear", [source, f"{source}_scale", "zero_byte"], f"{source}_as_float")


def _dequantized(parts: GraphParts, name: str, values: Array, steps: Array, axis: int) -> str:
    """Add a constant in steps of its own for each output channel."""
    operands = [
        parts.constant(f"{name}_quantized", values, values.dtype),
        parts.constant(f"{name}_steps", steps),
        parts.constant(f"{name}_zero", np.zeros(len(steps)), values.dtype),
    ]
    return parts.node("DequantizeLinear", operands, name, axis=axis)


# --- calibration ----------------------------------------------------------------------------------------------------


def _scales(model: onnx.ModelProto, contract: Contract, rows: Encoded, tensors: Sequence[str]) -> dict[str, float]:
    """Return the scale of each tensor: 255 is its maximum over the rows."""
    seen = onnx.ModelProto.FromString(model.SerializeToString())
    seen.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    session = ort.InferenceSession(seen.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])
    most = np.full(len(tensors), LEAST_RANGE)
    for feed in _feeds(contract, rows):
        most = np.maximum(most, [values.max() for values in session.run(tensors, feed)])
    return {name: float(value) / MOST_INPUT for name, value in zip(tensors, most, strict=True)}


def _feeds(contract: Contract, rows: Encoded) -> Iterator[dict[str, Array]]:
    """Yield evenly spaced rows, in batches."""
    picked = rows[np.unique(np.linspace(0, len(rows) - 1, CALIBRATION_ROWS).round().astype(np.int64))]
    for start in range(0, len(picked), ROWS_PER_CALL):
        batch = picked[start : start + ROWS_PER_CALL]
        arrays = {NUMBERS: (batch.numbers, contract.numbers), CATEGORIES: (batch.categories, contract.categories)}
        yield {name: values for name, (values, used) in arrays.items() if used}
