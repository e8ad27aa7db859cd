"""The protocols of a service, each asked the same questions and heard the same way."""

import json
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import certifi
import numpy as np

from assets.parity.sample import Question
from backends.settings import Settings
from bento.client import ApiClient
from bento.open_inference.client import GrpcInferenceClient, Inferred, OpenInferenceClient, RestInferenceClient
from bento.schema import FEATURES
from models.declaration import Declaration
from models.errors import (
    ContractError,
    EntityNotFoundError,
    OnlineStoreError,
    ServiceUnreachableError,
    TandemError,
)
from models.request_record import REPLAY

ROWS_A_REQUEST = 100  # where a protocol takes many
PAUSES = 3  # for a service that has too much to do, in a whole replay
PAUSE_SECONDS = 1.0  # what the service's Retry-After says


@dataclass(frozen=True)
class Answer:
    """A score with all its bits, the decision, and which file they are from."""

    score: np.float32
    decision: bool
    sha256: str
    complete: bool = True  # of an event: whether all of the history that counts was still there


Outcome = Answer | TandemError


class Wire(ABC):
    """One protocol, to one service; `rows` go into a request."""

    def __init__(self, name: str, rows: int) -> None:
        self.name = name
        self.rows = rows

    @abstractmethod
    def ask(self, questions: Sequence[Question]) -> list[Outcome]:
        """Return an answer or a refusal for each question.

        `OnlineStoreError` when the service can answer none of them, `ServiceUnreachableError` and
        `ModelNotServedError` when nobody answers, or somebody else.
        """


class Predict(Wire):
    """`POST /predict`, one question a request."""

    def __init__(self, client: ApiClient) -> None:
        super().__init__("POST /predict", 1)
        self._client = client

    def ask(self, questions: Sequence[Question]) -> list[Outcome]:
        """See `Wire`."""
        return [_of_rest(self._client.predict(dict(question))) for question in questions]


class PredictMany(Wire):
    """`POST /predict_many`."""

    def __init__(self, client: ApiClient, rows: int) -> None:
        super().__init__("POST /predict_many", rows)
        self._client = client

    def ask(self, questions: Sequence[Question]) -> list[Outcome]:
        """See `Wire`."""
        return [_of_rest(one) for one in self._client.predict_many([dict(question) for question in questions])]


class OpenInference(Wire):
    """The Open Inference Protocol, over either transport. Texts go as BYTES, numbers as FP64."""

    def __init__(self, name: str, client: OpenInferenceClient, declaration: Declaration, rows: int) -> None:
        super().__init__(name, rows)
        self._client = client
        self._declaration = declaration

    def ask(self, questions: Sequence[Question]) -> list[Outcome]:
        """See `Wire`. All questions are of one kind."""
        return _of_tensors(self._client.infer(self._columns(questions)), self._declaration.name)

    def _columns(self, questions: Sequence[Question]) -> dict[str, list[Any]]:
        first, features = questions[0], self._declaration.features
        columns = {name: [question[name] for question in questions] for name in first if name != FEATURES}
        for name in first.get(FEATURES, ()):
            read = _as_text if features[name].kind == "category" else _as_it_is
            columns[name] = [read(question[FEATURES][name]) for question in questions]
        return columns


@contextmanager
def wires_to(
    url: str, served: Mapping[str, Any], declaration: Declaration, settings: Settings
) -> Iterator[tuple[Wire, ...]]:
    """Connect to a service over every protocol that it says it speaks; `served` is its lineage."""
    ours: dict[str, Any] = {"key": settings.api_key, "request_id": REPLAY}
    rows = min(ROWS_A_REQUEST, declaration.api.batch_limit)
    port = served.get("grpc_port", 0) if settings.grpc_port is None else settings.grpc_port
    with ExitStack() as open_clients:
        api = open_clients.enter_context(ApiClient(url, **ours))
        rest = open_clients.enter_context(RestInferenceClient(declaration.name, url, **ours))
        wires = [Predict(api), PredictMany(api, rows), OpenInference("OIP REST", rest, declaration, rows)]
        if port:
            grpc = open_clients.enter_context(_grpc_client(declaration.name, url, port, settings))
            wires.append(OpenInference("OIP gRPC", grpc, declaration, rows))
        yield tuple(wires)


def _grpc_client(model: str, url: str, port: int, settings: Settings) -> GrpcInferenceClient:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    trusted = None
    if parts.scheme == "https":  # whom the client of the REST lane trusts
        trusted = Path(ssl.get_default_verify_paths().cafile or certifi.where()).read_bytes()
    address = f"{host}:{port}"
    return GrpcInferenceClient(model, address, key=settings.api_key, root_certificates=trusted, request_id=REPLAY)


class Patience:
    """Asks a service that has too much to do once more, after a pause, but only `pauses` times in all."""

    def __init__(self, pauses: int = PAUSES) -> None:
        self._pauses = pauses

    def ask(self, wire: Wire, questions: Sequence[Question]) -> list[Outcome]:
        """Return what the wire does; what is refused as a whole is asked row by row, so each row has its reason."""
        try:
            return self._asked(lambda: wire.ask(questions))
        except (ContractError, OnlineStoreError) as error:
            if len(questions) == 1:
                return [error]
        return [outcome for question in questions for outcome in self.ask(wire, [question])]

    def _asked(self, ask: Callable[[], list[Outcome]]) -> list[Outcome]:
        while True:
            try:
                return ask()
            except EntityNotFoundError:
                raise
            except (OnlineStoreError, ServiceUnreachableError):
                if not self._pauses:
                    raise
            self._pauses -= 1
            time.sleep(PAUSE_SECONDS)


def _of_rest(answer: dict[str, Any] | TandemError) -> Outcome:
    if isinstance(answer, TandemError):
        return answer
    complete = answer.get("history_complete", True)
    return Answer(np.float32(answer["probability"]), answer["decision"], answer["model_sha256"], complete)


def _of_tensors(inferred: Inferred, model: str) -> list[Outcome]:
    scores, decisions = inferred.outputs[f"{model}_probability"], inferred.outputs["decision"]
    sha256 = inferred.parameters["model_sha256"]
    complete = inferred.outputs.get("history_complete", [True] * len(scores))
    return [
        Answer(np.float32(s), decision, sha256, c) for s, decision, c in zip(scores, decisions, complete, strict=True)
    ]


def _as_text(value: Any) -> str | None:
    """Write a category as the declaration does: numbers and booleans of the lake are texts there."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _as_it_is(value: Any) -> Any:
    return value
