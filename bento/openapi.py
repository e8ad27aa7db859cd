"""The OpenAPI document behind BentoML's page: what each route takes and every way in which it can answer."""

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from bento.predictor import Predictor
from bento.schema import FEATURES, answer_model, answers_model, failure_model, request_model, requests_model
from models.contract import Contract

REFERENCE = "#/components/schemas/{model}"

REFUSALS = {
    "400": "This is not HTTP/1.1.",
    "401": "The API key is missing or not known.",
    "403": "The service has no API keys, and the caller comes from beyond loopback.",
    "404": "There are no online features for this key.",
    "405": "The path takes another method.",
    "408": "The request did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "422": "The request does not fit the model's contract; each problem is named.",
    "431": "The headers are too large.",
    "500": "The service failed; its log says why.",
    "503": "Too many requests, or the online store cannot answer: try again after `Retry-After` seconds.",
}
FOR_ALL = ("400", "401", "403", "405", "408", "413", "431", "500", "503")  # whatever is asked for
HEADERS = {
    "X-Request-ID": "The request's id.",
    "X-Model": "Name of the model.",
    "X-Model-Version": "Its version in the registry.",
    "X-Model-Sha256": "Digest of its ONNX file.",
}
STRING = {"type": "string"}
TEXT = {"text/plain": {"schema": STRING}}


class Document:
    """An OpenAPI document where BentoML expects an object of its own."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content

    def asdict(self) -> dict[str, Any]:
        """Return the document."""
        return self._content


def _in_yaml(dumper: yaml.Dumper, document: Document) -> yaml.Node:
    return dumper.represent_dict(document.asdict())


yaml.add_representer(Document, _in_yaml)  # BentoML writes the document into each Bento


def document_of(predictor: Predictor, description: str, version: str) -> Document:
    """Return the document of one model's service; `version` is that of the Bento."""
    contract = predictor.contract
    bodies: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (request_model(contract), "validation"),
        (requests_model(contract), "validation"),
        (answer_model(contract), "serialization"),
        (answers_model(contract), "serialization"),
        (failure_model(), "serialization"),
    ]
    _, definitions = models_json_schema(bodies, ref_template=REFERENCE)
    schemas = definitions["$defs"]
    if not contract.events:  # else what is needed is needed in any case
        schemas["PredictRequest"]["anyOf"] = _enough(contract)
    return Document(
        {
            "openapi": "3.1.0",
            "info": {"title": contract.model, "version": version, "description": description},
            "servers": [{"url": "."}],
            "security": [{}, {"bearer": []}, {"api_key": []}],
            "paths": _paths(contract),
            "components": {
                "schemas": schemas,
                "headers": {
                    name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()
                },
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer", "description": "Where the service has keys."},
                    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                },
            },
        }
    )


def _enough(contract: Contract) -> list[dict[str, Any]]:
    """Return what a request must have at least: a key, or all features that may not be missing."""
    needed = [name for name, feature in contract.features.items() if not feature.missing]
    features = {"type": "object", "required": needed} if needed else {"type": "object"}
    return [
        {"required": [contract.entity_key], "properties": {contract.entity_key: {"type": contract.entity_key_type}}},
        {"required": [FEATURES], "properties": {FEATURES: features}},
    ]


def _paths(contract: Contract) -> dict[str, Any]:
    one = f"Score one {contract.entity_key}: by the key, by features, or by both. Errors name the field and the remedy."
    if contract.events:
        one = (
            f"Score one event with the history of its {contract.entity_key}, and record it, so that the next one sees "
            "it. What is refused leaves no trace. Errors name the field and the remedy."
        )
    many = (
        f"Score up to {contract.api.batch_limit} rows with one trip to the store and one call of the model. What is "
        "wrong with a row stands in that row's place; the others are scored."
    )
    lineage = "Where the model comes from: version, digest, snapshots, runs, Bento, metrics, and its online features."
    ready = "Whether keys can be answered now: the model is verified, the online store answers, a row was scored."
    request_id = {"name": "X-Request-ID", "in": "header", "required": False, "schema": STRING}
    posts = {
        "/predict": ("PredictRequest", "Prediction", one, ("404", "415", "422")),
        "/predict_many": ("PredictManyRequest", "Predictions", many, ("415", "422")),
    }
    paths: dict[str, Any] = {
        path: {
            "post": {
                "operationId": path.removeprefix("/"),
                "tags": ["Model"],
                "description": text,
                "parameters": [request_id],
                "requestBody": {"required": True, "content": _json({"$ref": REFERENCE.format(model=request)})},
                "responses": {"200": _answer("The score.", answer), **_refusals(own)},
            }
        }
        for path, (request, answer, text, own) in posts.items()
    }
    paths["/lineage"] = _page("lineage", "Model", lineage, _json({"type": "object"}))
    paths["/readyz"] = _page("readyz", "Infrastructure", ready, _json({"type": "object"}))
    for path, text in {"/livez": "Whether the process answers.", "/healthz": "The same as `/livez`."}.items():
        paths[path] = _page(path.removeprefix("/"), "Infrastructure", text, TEXT)
    paths["/metrics"] = _page("metrics", "Infrastructure", "Metrics for Prometheus.", TEXT)
    return paths


def _page(name: str, tag: str, text: str, content: Any) -> dict[str, Any]:
    responses = {"200": {"description": "It is so.", "content": content}, **_refusals()}
    return {"get": {"operationId": name, "tags": [tag], "description": text, "responses": responses}}


def _answer(text: str, model: str) -> dict[str, Any]:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS}
    return {"description": text, "headers": headers, "content": _json({"$ref": REFERENCE.format(model=model)})}


def _refusals(own: Sequence[str] = ()) -> dict[str, Any]:
    content = _json({"$ref": REFERENCE.format(model="Failure")})
    return {status: {"description": REFUSALS[status], "content": content} for status in sorted((*FOR_ALL, *own))}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
