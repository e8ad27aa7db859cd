"""Columns to rows: what comes out of a table column by column goes into the network row by row.

NumPy copies a transposed array value by value; onnxruntime's Transpose moves blocks of it with the CPU's vectors, in a
quarter of the time. Its graph, one node, is written here byte by byte: what the service imports does not know onnx.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnxruntime as ort

Value = TypeVar("Value", np.float32, np.int32)

BLOCK = 65_536  # rows; a session keeps the memory of its largest call
DTYPES = {"float32": 1, "int32": 6}  # TensorProto.DataType
COLUMNS, ROWS = b"columns", b"rows"


def rows_first(columns: npt.NDArray[Value]) -> npt.NDArray[Value]:
    """Turn float32 or int32 [columns, rows] into [rows, columns], contiguous."""
    if not columns.size:
        return np.ascontiguousarray(columns.T)
    if (count := columns.shape[1]) <= BLOCK:
        return _transposed(columns)
    rows = np.empty((count, len(columns)), columns.dtype)
    for start in range(0, count, BLOCK):
        rows[start : start + BLOCK] = _transposed(columns[:, start : start + BLOCK])
    return rows


def _transposed(columns: npt.NDArray[Value]) -> npt.NDArray[Value]:
    session = _session(columns.dtype.name)
    (rows,) = session.run(None, {COLUMNS.decode(): np.ascontiguousarray(columns)})
    return rows  # type: ignore[no-any-return]  # onnxruntime's `run` is typed as a list of anything


@lru_cache(maxsize=len(DTYPES))
def _session(dtype: str) -> "ort.InferenceSession":
    import onnxruntime as ort

    from models.scoring import session_options

    return ort.InferenceSession(_graph(DTYPES[dtype]), session_options(), providers=["CPUExecutionProvider"])


def _graph(dtype: int) -> bytes:
    """Return a ModelProto (onnx.proto3): IR version 8, opset 13, `rows = Transpose(columns)`."""
    node = _text(1, COLUMNS) + _text(2, ROWS) + _text(4, b"Transpose")
    columns, rows = (_text(1, name) + _text(2, _text(1, _whole(1, dtype))) for name in (COLUMNS, ROWS))
    graph = _text(1, node) + _text(2, b"transpose") + _text(11, columns) + _text(12, rows)
    return _whole(1, 8) + _text(7, graph) + _text(8, _whole(2, 13))


def _text(field: int, value: bytes) -> bytes:
    """Return a protobuf field of bytes, or of another message; of fewer than 128."""
    return bytes([field << 3 | 2, len(value)]) + value


def _whole(field: int, value: int) -> bytes:
    return bytes([field << 3, value])
