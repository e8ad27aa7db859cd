"""The model's own REST API as a bare ASGI app in front of BentoML's, whose middlewares cost more than an answer.

BentoML documents these routes and its clients call them; whatever else is asked for is BentoML's to answer. Nothing
here blocks the event loop longer than the JSON of one body, read or written, or one trip to a store takes.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic_core import from_json, to_json

from bento.failures import RETRY_AFTER_SECONDS, body_of, refusal, status_of
from bento.guard.threads import in_thread
from bento.observing.watch import Watch
from bento.observing.watcher import REST, Watcher
from bento.predictor import Outcome, Predictor
from models.errors import OnlineStoreError, Problem, TandemError, ValueRejectedError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

ROWS = "rows"
# Of a body: up to here the event loop waits about as long as a thread would cost. A larger one is answered in a thread,
# but parsed in the loop: the parser lets no other thread run.
INLINE_BYTES = 16_384
NOTHING: Mapping[str, Any] = {}
LONGEST_REQUEST_ID = 128
JSON = b"application/json"
METRICS = CONTENT_TYPE_LATEST.encode()
PAGE_POLICY = (
    b"content-security-policy",
    b"default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:",
)

_log = logging.getLogger("bentoml.tandem")  # below BentoML's logger, which has a handler


class DisconnectedError(Exception):
    """The caller left before its request was complete; nobody waits for an answer."""


class Rest:
    """`/predict`, `/predict_many`, `/lineage` and `/readyz` of one model; `inner` answers the rest.

    `bento` is the tag of the Bento that is served, None for a service that runs from its sources. A `watcher` is told
    of each request, and has the metrics. `around` is what `/lineage` says of this one service, beside the model.
    """

    def __init__(
        self,
        predictor: Predictor,
        inner: App,
        bento: str | None = None,
        watcher: Watcher | None = None,
        around: Mapping[str, Any] = NOTHING,
    ) -> None:
        self._predictor = predictor
        self._watcher = watcher
        self._inner = inner
        self._around = {"bento": bento, **around}
        self._lineage_headers: Headers = [
            (b"x-model", _ascii(predictor.lineage.model)),
            (b"x-model-version", _ascii(predictor.lineage.version)),
            (b"x-model-sha256", _ascii(predictor.scorer.sha256)),
        ]
        self._posts = {"/predict": predict_async, "/predict_many": predict_many_async}
        self._gets = {"/lineage": self._lineage, "/readyz": self._readiness}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        if path in self._posts and method == "POST":
            await self._post(scope, receive, send)
        elif path == "/metrics" and method in ("GET", "HEAD") and self._watcher is not None:
            text = await asyncio.to_thread(self._watcher.metrics.text)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", METRICS)]})
            await send({"type": "http.response.body", "body": text})
        elif path in self._gets and method in ("GET", "HEAD"):
            request_id = request_id_of(scope)
            status, content = await asyncio.to_thread(answered, self._gets[path])
            await self._reply(send, request_id, status, content)
        elif path in self._posts or path in self._gets or (path == "/metrics" and self._watcher is not None):
            allowed = "POST" if path in self._posts else "GET, HEAD"
            content = _wrong_method(path, method, allowed)
            await self._reply(send, request_id_of(scope), 405, content, [(b"allow", allowed.encode())])
        else:
            await self._inner(scope, receive, _guarded_page(send) if path == "/" else send)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = Watch(request_id_of(scope))
        try:
            body = await body_from(receive)
        except DisconnectedError:
            return
        status, content = await self._answer(scope, body, watch)
        if status != 200:
            watch.failed(content)
        await self._reply(send, watch.request_id, status, content)
        if self._watcher is not None:
            self._watcher.answered(watch, REST, status, scope["headers"])

    async def _answer(self, scope: Scope, body: bytes, watch: Watch) -> tuple[int, dict[str, Any]]:
        if (media_type := media_type_of(scope)) is not None and not is_json(media_type):
            return 415, _wrong_media_type(media_type)
        return await answered_async(self._posts[scope["path"]], self._predictor, body, watch)

    async def _reply(
        self, send: Send, request_id: str, status: int, content: dict[str, Any], headers: Headers | None = None
    ) -> None:
        content["request_id"] = request_id
        body = in_json(content)
        more = list(headers or ())
        if status == 503:
            more.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
        start = [(b"content-type", JSON), (b"content-length", b"%d" % len(body))]
        start.append((b"x-request-id", request_id.encode()))
        await send({"type": "http.response.start", "status": status, "headers": start + self._lineage_headers + more})
        await send({"type": "http.response.body", "body": body})

    def _lineage(self) -> dict[str, Any]:
        predictor = self._predictor
        online: dict[str, str] | None
        try:
            online = predictor.online_facts()
        except OnlineStoreError:
            online = None
        return {**predictor.lineage.model_dump(), **self._around, "online_features": online}

    def _readiness(self) -> dict[str, Any]:
        """Say whether a key can be answered now: the model was verified at the start, the store is asked here."""
        self._predictor.rehearse()
        return {"ready": True, **self._predictor.facts}


def predict(predictor: Predictor, body: bytes, watch: Watch | None = None) -> dict[str, Any]:
    """Return the answer to `POST /predict`."""
    return predictor.predict(parsed(body), watch)


async def predict_async(predictor: Predictor, body: bytes, watch: Watch | None = None) -> dict[str, Any]:
    """Return what `predict` does; the event loop serves others while the store, or a thread, is waited for."""
    return await predictor.predict_async(parsed(body), watch, len(body) > INLINE_BYTES)


def predict_many(predictor: Predictor, body: bytes, watch: Watch | None = None) -> dict[str, Any]:
    """Return the answer to `POST /predict_many`: what all rows share, and a prediction or an error for each."""
    return _together(predictor, predictor.predict_rows(_rows_of(parsed(body)), watch), watch)


async def predict_many_async(predictor: Predictor, body: bytes, watch: Watch | None = None) -> dict[str, Any]:
    """Return what `predict_many` does; the event loop serves others while the store, or a thread, is waited for."""
    rows, aside = _rows_of(parsed(body)), len(body) > INLINE_BYTES
    outcomes = await predictor.predict_rows_async(rows, watch, aside=aside)
    if aside and any(isinstance(one, TandemError) for one in outcomes):  # to write an error takes as long as to find it
        return await in_thread(_together, predictor, outcomes, watch)
    return _together(predictor, outcomes, watch)


def _together(predictor: Predictor, outcomes: list[Outcome], watch: Watch | None) -> dict[str, Any]:
    errors = {row: body_of(one) for row, one in enumerate(outcomes) if isinstance(one, TandemError)}
    if watch is not None:
        for answer in errors.values():
            watch.failed(answer)
    predictions = [errors.get(row, one) for row, one in enumerate(outcomes)] if errors else outcomes
    return {**predictor.facts, "predictions": predictions, "errors": len(errors)}


def answered(answer: Callable[..., dict[str, Any]], *arguments: Any) -> tuple[int, dict[str, Any]]:
    """Return status and content of an answer, whatever becomes of it; what nobody foresaw is in the log alone."""
    try:
        return 200, answer(*arguments)
    except Exception as error:  # noqa: BLE001  a caller gets JSON in any case
        return _failed(error)


async def answered_async(
    answer: Callable[..., Awaitable[dict[str, Any]]], *arguments: Any
) -> tuple[int, dict[str, Any]]:
    """Return what `answered` does, of an answer that has to be awaited."""
    try:
        return 200, await answer(*arguments)
    except Exception as error:  # noqa: BLE001  a caller gets JSON in any case
        return _failed(error)


def _failed(error: Exception) -> tuple[int, dict[str, Any]]:
    status = status_of(error)
    if status == 500:
        _log.error("A request could not be answered.", exc_info=error)
    return status, body_of(error)


def parsed(body: bytes) -> Any:
    """Return the JSON of a request's body; `ValueRejectedError` when it is none."""
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        problem = Problem("request", None, f"is not JSON: {error}", "Send a JSON object in UTF-8.")
        raise ValueRejectedError([problem]) from error


async def body_from(receive: Receive) -> bytes:
    """Return a request's whole body; `DisconnectedError` when the caller left before its end."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def header_of(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header of a name in lower case; None when there is none."""
    return next((value for header, value in scope["headers"] if header == name), None)


def request_id_of(scope: Scope) -> str:
    """Return the caller's `X-Request-ID` where it is printable ASCII of at most 128 characters, else a new one."""
    given = header_of(scope, b"x-request-id")
    if given and len(given) <= LONGEST_REQUEST_ID and given.isascii() and (text := given.decode()).isprintable():
        return text
    return os.urandom(16).hex()


def media_type_of(scope: Scope) -> str | None:
    """Return a request's media type without its parameters; None when the caller does not say."""
    given = header_of(scope, b"content-type")
    return given.partition(b";")[0].strip().decode("latin-1").lower() if given else None


def is_json(media_type: str) -> bool:
    """Whether a media type is JSON or built on it."""
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def _guarded_page(send: Send) -> Send:
    """Forbid BentoML's page what it loads from elsewhere: a tracker."""

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], PAGE_POLICY]
        await send(message)

    return guarded


def _rows_of(request: Any) -> list[Any]:
    remedy = 'Send {"rows": [...]}, each row like a request of /predict.'
    if not isinstance(request, dict):
        raise ValueRejectedError([Problem("request", request, "is not a JSON object", remedy)])
    if unknown := [name for name in request if name != ROWS]:
        raise ValueRejectedError([Problem(name, request[name], "is not known here", remedy) for name in unknown])
    rows = request.get(ROWS)
    if not isinstance(rows, list):
        raise ValueRejectedError([Problem(ROWS, rows, "is missing or not a list", remedy)])
    return rows


def in_json(content: dict[str, Any]) -> bytes:
    """Return an answer's body. A number without a place in JSON is null."""
    return to_json(content, inf_nan_mode="null")


def _wrong_method(path: str, method: str, allowed: str) -> dict[str, Any]:
    problem = Problem("method", method, f"is not what {path} takes", f"Use {allowed}.")
    return refusal(405, "MethodNotAllowed", problem)


def _wrong_media_type(media_type: str) -> dict[str, Any]:
    remedy = "Send JSON, and say so: Content-Type: application/json."
    return refusal(415, "UnsupportedMediaType", Problem("Content-Type", media_type, "is not JSON", remedy))


def _ascii(text: str) -> bytes:
    return text.encode("ascii", "replace")
