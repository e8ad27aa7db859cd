"""Clients of the Open Inference Protocol, over gRPC and over REST, for the parity check and the benchmark.

They need no more than the service itself. Any other client of the protocol does as well; see docs/open-inference.md.
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx
from pydantic import SecretStr
from pydantic_core import from_json, to_json

from backends.settings import Settings
from bento.open_inference.tensors import BINARY_SIZE, BYTES, HEADER_LENGTH, Tensor, bytes_of, tensor_of_bytes
from models.errors import (
    ContractError,
    EntityNotFoundError,
    ModelNotServedError,
    OnlineStoreError,
    ServiceUnreachableError,
    TandemError,
)

# The protocol's errors have a status and a text, no more: a 404 is a key as long as the model is there.
_BY_STATUS: dict[int, type[TandemError]] = {404: EntityNotFoundError, 422: ContractError, 503: OnlineStoreError}
_STATUSES = {"INVALID_ARGUMENT": 422, "NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429, "UNAUTHENTICATED": 401}


@dataclass(frozen=True)
class Inferred:
    """An answer: the output tensors by name, each a list with one value per row."""

    model_version: str
    id: str
    parameters: dict[str, Any]
    outputs: dict[str, list[Any]]


class OpenInferenceClient(ABC):
    """One connection to the service of one model. `timeout` is in seconds, for each request.

    With a `request_id` every request carries it.

    Every method raises `ServiceUnreachableError` when the service does not answer as one of this protocol would,
    `ModelNotServedError` when it serves another model, and `EntityNotFoundError`, `ContractError` or
    `OnlineStoreError` when it answers with them.
    """

    def __init__(self, model: str, address: str, timeout: float, key: SecretStr | None, request_id: str) -> None:
        self.model = model
        self.address = address
        self.timeout = timeout
        self.request_id = request_id
        secret = (key or Settings().api_key).get_secret_value()
        self._headers = {"authorization": f"Bearer {secret}"} if secret else {}
        self._datatypes: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def infer(self, columns: Mapping[str, Sequence[Any]]) -> Inferred:
        """Return the answer for some rows, given by column: the entity key, features, or both. None is missing."""
        if not self._datatypes:
            self._datatypes = self._inputs()
        return self._infer([_tensor(name, self._datatypes.get(name), values) for name, values in columns.items()])

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    @abstractmethod
    def _inputs(self) -> dict[str, str]:
        """Return the datatypes of the model's inputs; `ModelNotServedError` when there is no such model."""

    @abstractmethod
    def _infer(self, tensors: Sequence[Tensor]) -> Inferred: ...

    def _error(self, status: int, message: str) -> TandemError:
        if status == 404 and not self._datatypes:
            return ModelNotServedError(message)
        known = _BY_STATUS.get(status)
        return known(message) if known else self._no_answer(f"{status}: {message}")

    def _no_answer(self, reason: str) -> ServiceUnreachableError:
        return ServiceUnreachableError(
            f"The service at {self.address} does not answer as the Open Inference Protocol says ({reason}). Start it "
            f"with `make serve MODEL={self.model}`, and check address and port."
        )


class RestInferenceClient(OpenInferenceClient):
    """Over REST, with raw tensors behind the JSON; `address` is the service's URL."""

    def __init__(
        self, model: str, address: str, timeout: float = 5.0, key: SecretStr | None = None, request_id: str = ""
    ) -> None:
        super().__init__(model, address.rstrip("/"), timeout, key, request_id)
        self._headers |= {"x-request-id": request_id} if request_id else {}
        self._http = httpx.Client(base_url=f"{self.address}/v2/models/", timeout=timeout, headers=self._headers)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _inputs(self) -> dict[str, str]:
        response = self._call("GET", self.model)
        try:
            return {described["name"]: described["datatype"] for described in response.json()["inputs"]}
        except (ValueError, TypeError, KeyError) as error:
            raise self._no_answer("no metadata") from error

    def _infer(self, tensors: Sequence[Tensor]) -> Inferred:
        raw = [_raw(tensor) for tensor in tensors]
        inputs = [_described(tensor, len(content)) for tensor, content in zip(tensors, raw, strict=True)]
        head = to_json({"inputs": inputs, "parameters": {"binary_data_output": True}})
        headers = {HEADER_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
        response = self._call("POST", f"{self.model}/infer", content=b"".join([head, *raw]), headers=headers)
        try:
            return _inferred(response)
        except (ValueError, TypeError, KeyError) as error:
            raise self._no_answer("no outputs") from error

    def _call(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **content)
        except httpx.TransportError as error:
            raise self._no_answer(type(error).__name__) from error
        if response.status_code == httpx.codes.OK:
            return response
        try:
            message = response.json()["error"]
        except (ValueError, TypeError, KeyError) as error:
            raise self._no_answer(f"status {response.status_code}") from error
        if not isinstance(message, str):  # refused before it came to the protocol
            raise self._no_answer(f"{response.status_code}: {message['message']}")
        raise self._error(response.status_code, message)


class GrpcInferenceClient(OpenInferenceClient):
    """Over gRPC; `address` is `host:port`. `root_certificates` are those that a TLS service is checked with, in PEM."""

    def __init__(
        self,
        model: str,
        address: str,
        timeout: float = 5.0,
        key: SecretStr | None = None,
        root_certificates: bytes | None = None,
        request_id: str = "",
    ) -> None:
        import grpc  # here, so that who only imports this module does not pay for it

        from bento.open_inference.messages import METHODS, SERVICE

        super().__init__(model, address, timeout, key, request_id)
        self._failure = grpc.RpcError
        if root_certificates is None:
            self._channel = grpc.insecure_channel(address)
        else:
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(root_certificates))
        self._methods = {
            name: self._channel.unary_unary(
                f"/{SERVICE}/{name}", request.SerializeToString, response.FromString, _registered_method=True
            )
            for name, (request, response) in METHODS.items()
        }
        self._requests = {name: request for name, (request, _) in METHODS.items()}

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _inputs(self) -> dict[str, str]:
        metadata = self._call("ModelMetadata", self._requests["ModelMetadata"](name=self.model))
        return {described.name: described.datatype for described in metadata.inputs}

    def _infer(self, tensors: Sequence[Tensor]) -> Inferred:
        request = self._requests["ModelInfer"](model_name=self.model, id=self.request_id)
        for tensor in tensors:
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[len(tensor.values)])
            request.raw_input_contents.append(_raw(tensor))
        response = self._call("ModelInfer", request)
        parameters = {
            name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.parameters.items()
        }
        outputs = {
            output.name: tensor_of_bytes(output.name, output.datatype, list(output.shape), raw).values
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }
        return Inferred(response.model_version, response.id, parameters, outputs)

    def _call(self, method: str, request: Any) -> Any:
        try:
            return self._methods[method](request, timeout=self.timeout, metadata=tuple(self._headers.items()))
        except self._failure as error:
            code, message = error.code().name, error.details() or ""
            ours = dict(error.trailing_metadata() or ())
            if code == "UNAVAILABLE" and "retry-after" in ours:  # else there is nobody at all
                raise self._error(503, message) from error
            if code in _STATUSES:
                raise self._error(_STATUSES[code], message) from error
            raise self._no_answer(f"{code}: {message}") from error


def _tensor(name: str, datatype: str | None, values: Sequence[Any]) -> Tensor:
    """Return a column as a tensor; what the model does not know goes as it is, and is refused there."""
    if datatype is None:
        datatype = "FP64" if all(isinstance(value, int | float) for value in values) else BYTES
    if datatype.startswith("FP") and all(type(value) is int for value in values):
        return Tensor(name, "INT64", list(values))  # whole, so that a number is rounded once, by the one encoder
    if datatype.startswith("FP"):
        return Tensor(name, "FP64", [float("nan") if value is None else value for value in values])
    return Tensor(name, datatype, list(values))


def _raw(tensor: Tensor) -> bytes:
    try:
        return bytes_of(tensor)
    except (struct.error, AttributeError, OverflowError) as error:
        raise ContractError(
            f"{tensor.name}: does not fit into {tensor.datatype} ({error}). Check its values."
        ) from error


def _described(tensor: Tensor, size: int) -> dict[str, Any]:
    shape = [len(tensor.values)]
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "parameters": {BINARY_SIZE: size}}


def _inferred(response: httpx.Response) -> Inferred:
    length = int(response.headers[HEADER_LENGTH])
    body = response.content
    head = from_json(body[:length])
    outputs = {}
    for output in head["outputs"]:
        end = length + output["parameters"][BINARY_SIZE]
        raw = body[length:end]
        outputs[output["name"]] = tensor_of_bytes(output["name"], output["datatype"], output["shape"], raw).values
        length = end
    return Inferred(head["model_version"], head["id"], head["parameters"], outputs)
