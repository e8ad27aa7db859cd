"""The BentoML service of any model, made from the contract inside its ONNX file: transport only, no scoring."""

import gc
from pathlib import Path
from typing import Any

import bentoml
from pydantic_core import from_json, to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.online_store import open_store
from backends.settings import Settings, quiet
from bento.failures import body_of, status_of
from bento.image import service_image
from bento.lineage import MODEL_FILE, Lineage
from bento.predictor import Predictor
from bento.schema import answer_model, request_model
from models.contract import Contract
from models.errors import OnlineStoreError, Problem, TandemError, ValueRejectedError
from models.scoring import Scorer

# Seconds. BentoML's own start at 5 ms, too coarse for a budget of 15.
BUCKETS = [0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.5, 1.0]

CONFIG: dict[str, Any] = {
    "workers": 1,
    "logging": {"access": {"enabled": False}},  # costs about 15 % of the throughput (BentoML#2267)
    "metrics": {"duration": {"buckets": BUCKETS}},
    "tracing": {"excluded_urls": ".*"},  # the OpenTelemetry middleware is the largest part of a request
    "envs": [{"name": "BENTOML_DO_NOT_TRACK", "value": "True"}],
}


def make_service(folder: Path) -> bentoml.Service[Any]:
    """Return the service of the model in `folder` (`model.onnx`, `lineage.json`).

    `ModelFileError` when the ONNX file is not the one that the lineage names: such a service does not start.
    """
    quiet()
    lineage = Lineage.read(folder)
    scorer = Scorer.from_file(folder / MODEL_FILE, lineage.sha256)
    contract = scorer.contract
    predictor = Predictor(scorer, open_store(Settings().online, contract.model), lineage)
    decorate = bentoml.service(
        name=contract.model, description=_description(contract, lineage), image=service_image(), **CONFIG
    )
    return decorate(bentoml.asgi_app(_pages(predictor), path="/")(_service_class(predictor)))


def _service_class(predictor: Predictor) -> type:
    """Return the class that BentoML instantiates once per worker; the worker is ready when it has scored a row."""
    request, answer = _input_spec(predictor.contract), _output_spec(predictor.contract)

    class ModelService:
        def __init__(self) -> None:
            self._ready = False
            predictor.warm_up()
            gc.collect()
            gc.freeze()  # a full collection over the imports' objects stops a worker for 60 to 120 ms
            self._ready = True

        @bentoml.api(route="/predict", input_spec=request, output_spec=answer)  # type: ignore[untyped-decorator]
        async def predict(self, body: bytes) -> Response:
            """Score one entity, by its key, by its features, or by both. Errors name the field and the remedy."""
            return _respond(predictor, body)

        async def __is_ready__(self) -> bool:
            return self._ready

    return ModelService


def _pages(predictor: Predictor) -> Starlette:
    """Return what is read with GET, which BentoML's own APIs cannot be."""

    async def lineage(_: Request) -> Response:
        return _json({**predictor.lineage.model_dump(), "online_features": _online_features(predictor)})

    return Starlette(routes=[Route("/lineage", lineage)])


def _input_spec(contract: Contract) -> type[bentoml.IODescriptor]:
    """Return the request's type, which documents and hands the body over as it is: the one encoder checks it."""

    class PredictRequest(bentoml.IODescriptor, request_model(contract)):  # type: ignore[misc]
        __root_input__ = True

        @classmethod
        async def from_http_request(cls, request: Request, serde: Any) -> bytes:  # noqa: ARG003
            return await request.body()

    return PredictRequest


def _output_spec(contract: Contract) -> type[bentoml.IODescriptor]:
    class Prediction(bentoml.IODescriptor, answer_model(contract)):  # type: ignore[misc]
        pass

    return Prediction


def _respond(predictor: Predictor, body: bytes) -> Response:
    try:
        return _json(predictor.predict(_parse(body)))
    except TandemError as error:
        return _json(body_of(error), status_of(error))


def _parse(body: bytes) -> Any:
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        problem = Problem("request", None, f"is not JSON: {error}", "Send a JSON object in UTF-8.")
        raise ValueRejectedError([problem]) from error


def _json(content: Any, status: int = 200) -> Response:
    return Response(to_json(content, inf_nan_mode="null"), status, media_type="application/json")


def _online_features(predictor: Predictor) -> dict[str, str] | None:
    """Return where the online features come from; None when there are none."""
    try:
        return predictor.store.describe()
    except OnlineStoreError:
        return None


def _description(contract: Contract, lineage: Lineage) -> str:
    return (
        f"# {contract.model} {lineage.version}\n\n"
        f"`POST /predict` scores one {contract.entity_key}, `GET /lineage` says where the model comes from.\n\n"
        f"ONNX sha256 `{lineage.sha256}`, trained on snapshot {contract.training_snapshot} of "
        f"{contract.examples_table}.\n"
    )
