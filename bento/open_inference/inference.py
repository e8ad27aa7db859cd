"""What both transports of the Open Inference Protocol do, once: names, metadata, and one call of the predictor.

The protocol has no place for an error in one row, so one bad row fails the whole request, and the error names each.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import to_json

from bento.observing.watch import Watch
from bento.observing.watcher import Watcher
from bento.open_inference.tensors import (
    Described,
    Tensor,
    answered,
    explained_outputs,
    inputs_of,
    outputs_of,
    requests_of,
    wanted,
)
from bento.predictor import Predictor
from bento.request_reader import reasons_of
from bento.schema import REASONS
from models.errors import ModelNotServedError, TandemError, ValueRejectedError

PLATFORM = "onnx_onnxv1"
INLINE_ROWS = 32  # up to here the event loop waits less than a thread would cost
SHOWN_PROBLEMS = 20  # of a request with many bad rows


class OpenInference:
    """One model as the protocol sees it."""

    def __init__(self, predictor: Predictor, watcher: Watcher | None = None) -> None:
        self.predictor = predictor
        self.watcher = watcher
        self.contract = predictor.contract
        self.version = predictor.lineage.version
        self._inputs, self._outputs = inputs_of(self.contract), outputs_of(self.contract)
        self._of_reasons = explained_outputs()
        self.facts: dict[str, str | float] = {
            "model_sha256": predictor.scorer.sha256,
            "decision_threshold": self.contract.decision_threshold,
        }

    def serves(self, model: str, version: str = "") -> bool:
        """Return whether a model, in this version if one is given, is the one that runs here."""
        return model == self.contract.model and version in ("", self.version)

    def check_served(self, model: str, version: str = "") -> None:
        """Raise `ModelNotServedError` unless this very model, in this version if one is given, runs here."""
        if not self.serves(model, version):
            asked = f"{model} in version {version}" if version else model
            raise ModelNotServedError(
                f"There is no model {asked} here, but {self.contract.model} in version {self.version}. "
                "Ask for that, or call the service of the other model."
            )

    async def ready(self) -> bool:
        """Return whether a request that names a key could be answered now."""
        try:
            await asyncio.to_thread(self.predictor.rehearse)
        except TandemError:
            return False
        return True

    def head(self) -> dict[str, Any]:
        """Return what every response says beside its outputs."""
        return {"model_name": self.contract.model, "model_version": self.version, "parameters": self.facts}

    def server_metadata(self) -> dict[str, Any]:
        """Return what the server says of itself: it is a Bento, and its version is the model's."""
        version = f"{self.version}-{self.predictor.scorer.sha256[:8]}"
        return {"name": "tandem", "version": version, "extensions": ["binary_tensor_data"]}

    def model_metadata(self) -> dict[str, Any]:
        """Return names, datatypes and shapes of the tensors; a dimension of -1 is the number of rows."""
        return {
            "name": self.contract.model,
            "versions": [self.version],
            "platform": PLATFORM,
            "inputs": _shown(self._inputs.values()),
            "outputs": _shown(self._outputs.values()),
            "properties": {name: str(value) for name, value in self.facts.items()},
        }

    async def infer(
        self, tensors: Sequence[Tensor], requested: Sequence[str], watch: Watch | None = None, reasons: Any = None
    ) -> list[Tensor]:
        """Return the requested output tensors for the rows of the input tensors; with `reasons` there are more of them.

        Raises what `reasons_of`, `wanted`, `requests_of` and `Predictor.predict_rows` raise, and the first of what that
        returns. Reasons are not looked for when outputs are requested and none of them has any.
        """
        count = 0 if reasons is None else reasons_of({REASONS: reasons})
        outputs = wanted(self._outputs | self._of_reasons if count else self._outputs, requested)
        requests = requests_of(self.contract, tensors)
        explained = bool(count) and any(output.name in self._of_reasons for output in outputs)
        if explained:
            requests = [{**request, REASONS: count} for request in requests]
        outcomes = await self.predictor.predict_rows_async(requests, watch, True, len(requests) > INLINE_ROWS)
        errors = {row: outcome for row, outcome in enumerate(outcomes) if isinstance(outcome, TandemError)}
        if errors:
            raise _one_of(errors, len(requests))
        answers = [outcome for outcome in outcomes if isinstance(outcome, dict)]
        if explained:
            answers = [{**answer, REASONS: to_json(answer[REASONS]).decode()} for answer in answers]
        return answered(outputs, answers)


def _shown(described: Iterable[Described]) -> list[dict[str, Any]]:
    return [{"name": one.name, "datatype": one.datatype, "shape": [-1]} for one in described]


def _one_of(errors: dict[int, TandemError], rows: int) -> TandemError:
    """Return one error for some bad rows: all problems of a refused request, else the first row's error."""
    first_row, first = next(iter(errors.items()))
    if rows == 1:
        return first
    refused = [
        problem for error in errors.values() if isinstance(error, ValueRejectedError) for problem in error.problems
    ]
    if isinstance(first, ValueRejectedError):
        return ValueRejectedError(refused[:SHOWN_PROBLEMS])
    others = f" ({len(errors)} of {rows} rows fail.)" if len(errors) > 1 else ""
    return type(first)(f"Row {first_row}: {first}{others}")
