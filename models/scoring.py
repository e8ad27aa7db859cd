"""From ONNX bytes to probabilities. The only scorer: batch, the API, evaluation and calibration all use it.

One session setting for every lane keeps their scores bit-identical: one thread, sequential, all graph optimizations.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from models.contract import CATEGORIES, NUMBERS, Contract
from models.encoding import Encoded
from models.errors import ModelFileError

ROWS_PER_CALL = 2048  # as many as stay in the cache are fastest; scores do not depend on it

Scores = npt.NDArray[np.float32]


def sha256_of(onnx: bytes) -> str:
    """Return the model's identity: the sha256 of its bytes, 64 hexadecimal digits."""
    return hashlib.sha256(onnx).hexdigest()


def session_options() -> ort.SessionOptions:
    """Return the one session setting. One thread: small models gain nothing from more, and lose under concurrency."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return options


class Scorer:
    """A verified ONNX file, its contract and its session. Safe to share between threads, and can be sent to processes.

    `sha256`, where given, must be the digest of `onnx`; otherwise, and for bytes that are no model of ours,
    `ModelFileError`.
    """

    def __init__(self, onnx: bytes, sha256: str | None = None) -> None:
        self._onnx, self.sha256 = onnx, sha256_of(onnx)
        if sha256 is not None and sha256 != self.sha256:
            raise ModelFileError(
                f"The ONNX file has sha256 {self.sha256}, but {sha256} was asked for ({len(onnx)} bytes). "
                "It was changed or cut short: fetch it again from the registry; it will not be used as it is."
            )
        try:
            self._session = ort.InferenceSession(onnx, session_options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own without a common base
            raise ModelFileError(f"The ONNX file ({len(onnx)} bytes) cannot be loaded: {error}") from error
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.contract = Contract.from_metadata(self.metadata)
        self._outputs: Sequence[str] = [self.contract.output]
        inputs = {NUMBERS: len(self.contract.numbers), CATEGORIES: len(self.contract.categories)}
        self._inputs = [name for name, width in inputs.items() if width]

    @classmethod
    def from_file(cls, path: Path, sha256: str | None = None) -> "Scorer":
        """Load and verify a file; `ModelFileError` when it is missing, corrupt or another one."""
        try:
            return cls(path.read_bytes(), sha256)
        except OSError as error:
            raise ModelFileError(f"The ONNX file {path} cannot be read: {error}") from error

    def __reduce__(self) -> tuple[Callable[[bytes], "Scorer"], tuple[bytes]]:
        """Travel as the file's bytes; a process that receives them several times makes one session."""
        return _received, (self._onnx,)

    def score(self, rows: Encoded) -> Scores:
        """Return float32 [rows] in [0, 1]."""
        if len(rows) <= ROWS_PER_CALL:
            return self._score_chunk(rows)
        out = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), ROWS_PER_CALL):
            chunk = slice(start, start + ROWS_PER_CALL)
            out[chunk] = self._score_chunk(rows[chunk])
        return out

    def decide(self, scores: Scores) -> npt.NDArray[np.bool_]:
        """Return bool [rows]: whether the score reaches the decision threshold (as float32, as scores are)."""
        return scores >= np.float32(self.contract.decision_threshold)

    def _score_chunk(self, rows: Encoded) -> Scores:
        arrays = {NUMBERS: rows.numbers, CATEGORIES: rows.categories}
        (scores,) = self._session.run(self._outputs, {name: arrays[name] for name in self._inputs})
        return scores  # type: ignore[no-any-return]  # onnxruntime's `run` is typed as a list of anything


@lru_cache(maxsize=8)
def _received(onnx: bytes) -> Scorer:
    return Scorer(onnx)
