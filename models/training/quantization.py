"""From the float graph to the int8 one: QDQ by onnxruntime's static quantizer, guarded against saturation.

Whether int8 is good enough is decided in `evaluation`.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from models.contract import CATEGORIES, NUMBERS, Contract
from models.encoding import Encoded
from models.scoring import ROWS_PER_CALL, session_options
from models.training.graph import with_contract

CALIBRATION_ROWS = 8192  # the range of each activation is taken from so many rows at most
_PREPROCESSED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # else the quantizer advises to optimize first


def quantize(file: bytes, calibration: Encoded) -> bytes:
    """Return the int8 ONNX file: the hidden layers in int8 (activations uint8, weights int8), all else in float32.

    The encoder stays float, or a number would be read in 256 steps; so do the last layer and the sigmoid, or there
    would be 256 scores. On CPUs without VNNI two products are added in 16 bits and saturate, so weights have 7 bits
    (`reduce_range`), with a scale for each output channel. Ranges are the extremes over `calibration` rows. The
    contract says int8. The same arguments give the same bytes.
    """
    model = onnx.load_from_string(file)
    contract = Contract.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    layers = [node.name for node in model.graph.node if node.op_type == "Gemm" and node.name.startswith("layer")]
    onnx.helper.set_model_props(model, _PREPROCESSED)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            _CalibrationRows(contract, calibration),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Gemm"],  # else ranges are sought of the raw numbers too, which may be NaN
            nodes_to_quantize=layers[:-1],
            per_channel=True,
            reduce_range=True,
        )
        quantized = path.read_bytes()
    return with_contract(quantized, contract.model_copy(update={"precision": "int8"}))


def quantized_nodes(file: bytes) -> int:
    """Count the int8 matrix products (QGemm) that really exist once onnxruntime has optimized the graph."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options = session_options()
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return sum(node.op_type == "QGemm" for node in onnx.load(path).graph.node)


class _CalibrationRows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
    """Feeds evenly spaced rows to the quantizer, in batches."""

    def __init__(self, contract: Contract, rows: Encoded) -> None:
        picked = np.unique(np.linspace(0, len(rows) - 1, CALIBRATION_ROWS).round().astype(np.int64))
        self._rows = rows[picked]
        self._inputs = {NUMBERS: bool(contract.numbers), CATEGORIES: bool(contract.categories)}
        self._batches = self._feeds()

    def get_next(self) -> dict[str, npt.NDArray[np.generic]] | None:
        return next(self._batches, None)

    def _feeds(self) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
        for start in range(0, len(self._rows), ROWS_PER_CALL):
            batch = self._rows[start : start + ROWS_PER_CALL]
            arrays = {NUMBERS: batch.numbers, CATEGORIES: batch.categories}
            yield {name: arrays[name] for name, used in self._inputs.items() if used}
