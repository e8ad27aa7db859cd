"""From the float graph to the int8 one, by hand: QDQ that onnxruntime fuses into int8 products (QGemm).

    unclipped ── Quantize ── ScatterElements ── layer1 ── Quantize ── layer2 ── Quantize ── layer3 ── Sigmoid
       float          uint8, 255 is 1            int8       uint8      int8       uint8     float

Dense columns are within [0, 1], and what follows a ReLU is not negative. Quantized with zero as 0, both are clipped by
the quantization itself: the graph needs no Clip and no ReLU there, and one-hot columns are set among bytes.
Whether int8 is good enough is decided in `evaluation`.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from models.contract import CATEGORIES, NUMBERS, Contract
from models.encoding import Encoded
from models.scoring import ROWS_PER_CALL, session_options
from models.training.graph import with_contract
from models.training.graph_parts import GraphParts

CALIBRATION_ROWS = 8192  # the range of a hidden layer is taken from so many rows at most
MOST_INPUT = 255
MOST_WEIGHT = 64  # 7 bits: CPUs without VNNI add two products in 16 bits, which 2 * 255 * 64 fits
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
    (dense,) = [node.input[0] for node in model.graph.node if node.name == "layer1"]
    hidden = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    scales = {dense: 1 / MOST_INPUT, **_scales(model, contract, calibration, hidden)}
    quantized = _rewritten(model.graph, scales).model(contract.model, contract.output, ["rows"])
    return with_contract(
        quantized.SerializeToString(deterministic=True), contract.model_copy(update={"precision": "int8"})
    )


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
    constants = {tensor.name: tensor for tensor in graph.initializer}
    parts = GraphParts()
    parts.inputs = list(graph.input)
    for name, scale in scales.items():
        parts.constant(f"{name}_scale", scale)
    zero, last = parts.constant("zero_byte", 0, np.uint8), list(scales)[-1]
    for node in graph.node:
        output = node.output[0]
        if node.op_type == "Gemm" and node.input[0] == last:
            parts.node("Gemm", [_as_float(parts, last), *node.input[1:]], output)
        elif node.op_type == "Gemm" and node.input[0] in scales:
            weights, bias = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
            _add_layer(parts, output, node.input[0], weights, bias, scales[node.input[0]])
        elif output == "pieces":
            parts.node("QuantizeLinear", [node.input[0], _scale_of_columns(scales), zero], output)
        elif output in scales and node.op_type == "Relu":
            parts.node("QuantizeLinear", [node.input[0], f"{output}_scale", zero], output)
        elif output in {"ones", "zeros"}:
            filling = helper.make_tensor("filling", TensorProto.UINT8, [1], [MOST_INPUT if output == "ones" else 0])
            parts.node(node.op_type, node.input, output, value=filling)
        else:
            parts.nodes.append(node)
    used = {name for node in parts.nodes for name in node.input}
    parts.constants += [tensor for name, tensor in constants.items() if name in used]
    return parts


def _scale_of_columns(scales: dict[str, float]) -> str:
    return f"{next(iter(scales))}_scale"


def _add_layer(parts: GraphParts, name: str, source: str, weights: Array, bias: Array, scale: float) -> None:
    """Add `name = source @ weights + bias` in int8: weights int8 [inputs, outputs], bias int32."""
    steps = np.maximum(np.abs(weights).max(0), np.finfo(np.float32).tiny / scale) / np.float32(MOST_WEIGHT)
    bias_steps = (steps * np.float32(scale)).astype(np.float32)
    limits = np.iinfo(np.int32)
    whole = np.clip(np.rint(bias.astype(np.float64) / bias_steps), limits.min, limits.max)
    operands = [
        _as_float(parts, source),
        _dequantized(parts, f"{name}_weights", np.rint(weights / steps).astype(np.int8), steps, axis=1),
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
