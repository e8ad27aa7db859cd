"""The BentoML service of any model, made from the contract inside its ONNX file: wiring, no transport, no scoring."""

import asyncio
import gc
import logging
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import bentoml
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from backends.settings import Settings, quiet
from bento import rest
from bento.building.image import service_image
from bento.event_predictor import predictor_of
from bento.failures import refusal
from bento.lineage import MODEL_FILE, Lineage
from bento.observing.watcher import Watcher
from bento.open_inference.inference import OpenInference
from bento.open_inference.lane import GrpcLane
from bento.open_inference.rest import OpenInferenceRest
from bento.openapi import Document, document_of
from bento.predictor import Predictor
from bento.schema import answer_model, request_model, requests_model, untyped_answers_model
from models.contract import Contract
from models.errors import Problem
from models.scoring import Scorer

CONFIG: dict[str, Any] = {
    "workers": 1,
    "logging": {"access": {"enabled": False}},  # costs about 15 % of the throughput (BentoML#2267)
    "metrics": {"enabled": False},  # `bento.observing.metrics` takes their place
    "tracing": {"excluded_urls": ".*"},  # BentoML's own routes are not worth a trace
    "envs": [{"name": "BENTOML_DO_NOT_TRACK", "value": "True"}],
}


class ModelService(bentoml.Service[Any]):  # type: ignore[misc]  # BentoML is untyped here
    """BentoML's service with the model's own API in front of it, which BentoML's middlewares would slow down."""

    predictor: Predictor
    inference: OpenInference
    lanes: list[GrpcLane]  # what a worker opens beside HTTP
    watcher: Watcher

    def to_asgi(self, is_main: bool = True) -> rest.App:
        """Return what a worker serves."""
        app: Starlette = super().to_asgi(is_main=is_main)
        app.add_exception_handler(HTTPException, _in_our_form)
        pages = OpenInferenceRest(self.inference, app)
        around = {"online_store": Settings().online_technology, "grpc_port": self.grpc_port}
        return rest.Rest(self.predictor, pages, str(self.bento.tag) if self.bento else None, self.watcher, around)

    @property
    def grpc_port(self) -> int:
        """Where it speaks gRPC; 0 is nowhere."""
        return max((lane.port for lane in self.lanes), default=0)

    @property
    def openapi_spec(self) -> Document:
        """The document behind BentoML's page; its own knows no type that may be null, and none of our errors."""
        return document_of(self.predictor, self.description or "", self.bento.tag.version if self.bento else "None")


def make_service(folder: Path) -> ModelService:
    """Return the service of the model in `folder` (`model.onnx`, `lineage.json`).

    `ModelFileError` when the ONNX file is not the one that the lineage names: such a service does not start.
    """
    quiet()
    lineage = Lineage.read(folder)
    scorer = Scorer.from_file(folder / MODEL_FILE, lineage.sha256)
    contract = scorer.contract
    predictor = predictor_of(scorer, Settings().online, lineage)
    watcher = Watcher(contract, lineage, Settings())
    lanes: list[GrpcLane] = []
    service: ModelService = bentoml.service(
        name=contract.model,
        description=_description(contract, lineage),
        image=service_image(),
        service_class=ModelService,
        **CONFIG,
    )(_service_class(predictor, lanes, watcher))
    service.predictor = predictor
    service.watcher = watcher
    service.inference = OpenInference(predictor, watcher)
    service.lanes = lanes
    return service


def _service_class(predictor: Predictor, lanes: Sequence[GrpcLane], watcher: Watcher) -> type:
    """Return the class that BentoML instantiates once per worker, and documents.

    Over HTTP its methods are answered by `Rest` before BentoML sees them; here they are for calls within a process.
    """
    contract = predictor.contract
    request, requests = _input_spec(request_model(contract)), _input_spec(requests_model(contract))
    answer, answers = _output_spec(answer_model(contract)), _output_spec(untyped_answers_model(contract))

    class Api:
        def __init__(self) -> None:
            logging.getLogger("uvicorn.access").propagate = False  # nobody listens, yet uvicorn would write each line
            predictor.warm_up()
            gc.collect()
            gc.freeze()  # a full collection over the imports' objects stops a worker for 60 to 120 ms

        @staticmethod
        @bentoml.on_deployment  # type: ignore[untyped-decorator]
        def check_lanes() -> None:
            for lane in lanes:
                lane.check()

        @bentoml.on_startup  # type: ignore[untyped-decorator]
        async def open_lanes(self) -> None:
            watcher.start()
            for lane in lanes:
                await lane.start()

        @bentoml.on_shutdown  # type: ignore[untyped-decorator]
        async def close_lanes(self) -> None:
            for lane in lanes:
                await lane.stop()
            await asyncio.to_thread(watcher.close)

        @bentoml.api(route="/predict", input_spec=request, output_spec=answer)  # type: ignore[untyped-decorator]
        async def predict(self, body: bytes) -> Response:
            """Score one entity, by its key, by its features, or by both. Errors name the field and the remedy."""
            return _response(*rest.answered(rest.predict, predictor, body))

        @bentoml.api(route="/predict_many", input_spec=requests, output_spec=answers)  # type: ignore[untyped-decorator]
        async def predict_many(self, body: bytes) -> Response:
            """Score many entities at once. What is wrong with one stands in its place; the others are scored."""
            return _response(*rest.answered(rest.predict_many, predictor, body))

    return Api


def _input_spec(model: type) -> type[bentoml.IODescriptor]:
    """Return a request's type, which documents and hands the body over as it is: the one encoder checks it."""

    class Body(bentoml.IODescriptor, model):  # type: ignore[misc]
        __root_input__ = True

        @classmethod
        async def from_http_request(cls, request: Request, serde: Any) -> bytes:  # noqa: ARG003
            return await request.body()

    Body.__name__ = model.__name__
    return Body


def _output_spec(model: type) -> type[bentoml.IODescriptor]:
    return type(model.__name__, (bentoml.IODescriptor, model), {})


def _response(status: int, content: dict[str, Any]) -> Response:
    return Response(rest.in_json(content), status, media_type="application/json")


async def _in_our_form(request: Request, error: Exception) -> Response:
    """Return BentoML's own 404 and 405 like every other error."""
    assert isinstance(error, HTTPException)  # what Starlette calls this for
    path, remedy = request.url.path, "GET /docs.json describes what there is."
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        problem = Problem("method", request.method, f"is not what {path} takes", remedy)
    else:
        problem = Problem("path", path, "is not known here", remedy)
    kind = HTTPStatus(error.status_code).phrase.title().replace(" ", "")
    response = _response(error.status_code, refusal(error.status_code, kind, problem))
    response.headers.update(error.headers or {})
    return response


def _description(contract: Contract, lineage: Lineage) -> str:
    return (
        f"# {contract.model} {lineage.version}\n\n"
        f"`POST /predict` scores one {contract.entity_key}, `POST /predict_many` up to {contract.api.batch_limit}, "
        "`GET /lineage` says where the model comes from. Below `/v2` it speaks the Open Inference Protocol.\n\n"
        f"ONNX sha256 `{lineage.sha256}`, trained on snapshot {contract.training_snapshot} of "
        f"{contract.examples_table}.\n"
    )
