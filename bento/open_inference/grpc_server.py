"""The Open Inference Protocol over gRPC: a server of its own, in the event loop of the worker that answers HTTP too.

BentoML has no gRPC of its own for its services, so it only starts and stops this one.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from bento.failures import RETRY_AFTER_SECONDS, body_of, status_of
from bento.guard.admission import Admission, until_it_waits
from bento.guard.keys import KeyRing
from bento.observing.watch import Watch
from bento.observing.watcher import OIP_GRPC
from bento.open_inference.contents import head_of, outputs_in, reasons_in, response_of, tensors_in
from bento.open_inference.inference import OpenInference
from bento.open_inference.messages import METHODS, POOL, SERVICE
from bento.open_inference.tensors import refused
from models.errors import PortTakenError

DRAIN_SECONDS = 10.0  # for calls in flight when the worker is to end
HOLD_SECONDS = 0.1  # twice so long are the last calls held, see `GrpcServer.stop`
WATCH_SECONDS = 1.0  # how soon a watcher of the health service hears of a change
LONGEST_MESSAGE = 2000  # bytes of an error's text: a trailer may hold 8 kB, and escaped each may take three
NEED_NO_KEY = frozenset({"ServerLive", "ServerReady", "ModelReady"})  # for whatever watches over the service
OVERLOADED = "The request would wait too long for its turn. Try again after the seconds of retry-after."
KEY_REFUSED = "The metadata have no key of this service. Send `authorization: Bearer KEY` or `x-api-key: KEY`."

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}

_log = logging.getLogger("bentoml.tandem.open_inference")

Method = Callable[[Any, Watch], Awaitable[Any]]


@dataclass(frozen=True)
class Limits:
    """Who may ask, and how much: the same as over HTTP."""

    keys: KeyRing
    admission: Admission
    max_message_bytes: int
    max_calls: int


class GrpcServer:
    """The server of one worker, made, started and stopped in the event loop that serves.

    `tls` gives the private key and the certificate chain, both in PEM; without them the server speaks plain HTTP/2.
    `shared` lets several workers listen on one port.
    """

    def __init__(
        self,
        inference: OpenInference,
        address: str,
        limits: Limits,
        tls: Callable[[], tuple[bytes, bytes] | None],
        *,
        shared: bool = False,
    ) -> None:
        self._inference = inference
        self._head = head_of(inference.head())
        self._address = address
        self._keys = limits.keys
        self._admission = limits.admission
        self._limits = limits
        self._tls = tls
        self._shared = shared
        self._server: Any = None
        self._stopping = asyncio.Event()
        self._released = asyncio.Event()  # set when callers know that the server stops

    async def start(self) -> None:
        """Listen; `PortTakenError` when the address is taken or cannot be listened on."""
        options = [
            ("grpc.max_receive_message_length", self._limits.max_message_bytes),
            ("grpc.so_reuseport", int(self._shared)),
        ]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=self._limits.max_calls)
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, self._handlers())])
        health_pb2_grpc.add_HealthServicer_to_server(_Health(self._is_ready, self._stopping), self._server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(_Reflection(self._keys), self._server)
        try:
            if tls := self._tls():
                self._server.add_secure_port(self._address, grpc.ssl_server_credentials([tls]))
            else:
                self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise PortTakenError(
                f"gRPC cannot listen on {self._address}. Set TANDEM_GRPC_PORT to a free port, or to 0 for no gRPC."
            ) from error
        await self._server.start()
        _log.info("gRPC listens on %s", self._address)

    async def stop(self) -> None:
        """Take no more calls, and answer those in flight.

        gRPC cancels what arrives between its own goodbye and the moment when the caller has heard it. So calls are held
        for a little while before and after: who calls again and again waits for an answer meanwhile, and gets it.
        """
        self._stopping.set()
        if self._server is not None:
            await asyncio.sleep(HOLD_SECONDS)
            stopped = asyncio.ensure_future(self._server.stop(DRAIN_SECONDS))
            await asyncio.sleep(HOLD_SECONDS)
            self._released.set()
            await stopped

    async def _is_ready(self) -> bool:
        return not self._stopping.is_set() and await self._inference.ready()

    # --- the methods ----------------------------------------------------------------------------------------------

    def _handlers(self) -> dict[str, Any]:
        methods: dict[str, Method] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        return {
            name: grpc.unary_unary_rpc_method_handler(self._guarded(name, method)) for name, method in methods.items()
        }

    def _guarded(self, name: str, method: Method) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """Read and write the messages here: gRPC itself would answer bytes that are no message with an inner error."""
        request_class, response_class = METHODS[name]

        async def guarded(raw: bytes, context: Any) -> bytes:
            if self._stopping.is_set():
                await self._released.wait()
            watch = Watch()
            try:
                response = await method(_parsed(request_class, raw), watch)
                answer: bytes = response_class.SerializeToString(response)
            except Exception as error:  # noqa: BLE001  whatever it is, the answer is ours and the log has it
                code, message = _failure(error)
                watch.failed(body_of(error))
                self._tell(name, watch, status_of(error), context)
            else:
                self._tell(name, watch, 200, context)
                return answer
            return await _refuse(context, code, message)

        async def admitted(raw: bytes, context: Any) -> bytes:
            await _check_key(self._keys, context)
            if name != "ModelInfer":
                return await guarded(raw, context)
            if not self._admission.take():
                if self._inference.watcher is not None:
                    self._inference.watcher.refused(OIP_GRPC, 429)
                return await _refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, OVERLOADED)
            return await until_it_waits(guarded(raw, context), self._admission.done)

        return guarded if name in NEED_NO_KEY else admitted

    def _tell(self, name: str, watch: Watch, status: int, context: Any) -> None:
        """Tell the watcher of an answered call, if it was one for scores."""
        if self._inference.watcher is not None and name == "ModelInfer":
            self._inference.watcher.answered(watch, OIP_GRPC, status, context.invocation_metadata())

    async def _server_live(self, _: Any, __: Watch) -> Any:
        return METHODS["ServerLive"][1](live=True)

    async def _server_ready(self, _: Any, __: Watch) -> Any:
        return METHODS["ServerReady"][1](ready=await self._is_ready())

    async def _model_ready(self, request: Any, _: Watch) -> Any:
        served = self._inference.serves(request.name, request.version)
        return METHODS["ModelReady"][1](ready=served and await self._is_ready())

    async def _server_metadata(self, _: Any, __: Watch) -> Any:
        return METHODS["ServerMetadata"][1](**self._inference.server_metadata())

    async def _model_metadata(self, request: Any, _: Watch) -> Any:
        self._inference.check_served(request.name, request.version)
        return METHODS["ModelMetadata"][1](**self._inference.model_metadata())

    async def _model_infer(self, request: Any, watch: Watch) -> Any:
        watch.request_id = request.id or uuid.uuid4().hex
        self._inference.check_served(request.model_name, request.model_version)
        outputs = await self._inference.infer(tensors_in(request), outputs_in(request), watch, reasons_in(request))
        raw = bool(request.raw_input_contents)
        return response_of(self._head, watch.request_id, outputs, raw)


class _Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc is untyped
    """`grpc.health.v1`: the whole server, and the protocol's service, are healthy while the worker is ready."""

    def __init__(self, ready: Callable[[], Awaitable[bool]], stopping: asyncio.Event) -> None:
        self._ready = ready
        self._stopping = stopping

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        if request.service not in ("", SERVICE):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no service {request.service!r:.80} here.")
        return await self._status(request.service)

    async def Watch(self, request: Any, _: Any) -> AsyncIterator[Any]:  # noqa: N802
        last = None
        while True:
            stopping = self._stopping.is_set()
            status = await self._status(request.service)
            if status != last:
                yield status
            if stopping:
                return
            last = status
            try:
                await asyncio.wait_for(self._stopping.wait(), WATCH_SECONDS)
            except TimeoutError:
                continue  # time to look again

    async def _status(self, service: str) -> Any:
        response = health_pb2.HealthCheckResponse
        if service not in ("", SERVICE):
            return response(status=response.SERVICE_UNKNOWN)
        return response(status=response.SERVING if await self._ready() else response.NOT_SERVING)


class _Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    """What the server offers, for those who have a key where keys are needed."""

    def __init__(self, keys: KeyRing) -> None:
        for descriptor in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
            POOL.AddSerializedFile(descriptor.serialized_pb)
        services = (SERVICE, reflection.SERVICE_NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        super().__init__(services, pool=POOL)
        self._keys = keys

    async def ServerReflectionInfo(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        await _check_key(self._keys, context)
        async for response in super().ServerReflectionInfo(requests, context):
            yield response


async def _check_key(keys: KeyRing, context: Any) -> None:
    if not keys.required:
        return
    metadata = context.invocation_metadata() or ()
    headers = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in metadata]
    if not keys.accepts_headers(headers):
        await _refuse(context, grpc.StatusCode.UNAUTHENTICATED, KEY_REFUSED)


async def _refuse(context: Any, code: Any, message: str) -> NoReturn:
    passing = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    await context.abort(code, message, (("retry-after", str(RETRY_AFTER_SECONDS)),) if passing else ())
    raise AssertionError("gRPC went on after an abort")


def _parsed(request_class: Any, raw: bytes) -> Any:
    try:
        return request_class.FromString(raw)
    except DecodeError as error:
        remedy = "Send the message as the protocol defines it."
        raise refused("request", None, f"is not a {request_class.__name__}", remedy) from error


def _failure(error: Exception) -> tuple[Any, str]:
    """Return code and text of an error, the text short enough for a trailer."""
    status = status_of(error)
    if status == 500:
        _log.error("A call could not be answered.", exc_info=error)
    text = body_of(error)["error"]["message"].encode(errors="replace")
    shown = text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 3] + b"..."
    return CODES.get(status, grpc.StatusCode.INTERNAL), shown.decode(errors="ignore")
