"""The Open Inference Protocol over REST: everything below `/v2`, as a bare ASGI app; `inner` answers the rest."""

import logging
import re
from typing import Any

from pydantic_core import to_json

from bento.failures import RETRY_AFTER_SECONDS, body_of, status_of
from bento.observing.watch import Watch
from bento.observing.watcher import OIP_REST
from bento.open_inference.bodies import read_request, written_response
from bento.open_inference.inference import OpenInference
from bento.open_inference.tensors import HEADER_LENGTH
from bento.rest import App, DisconnectedError, Headers, Receive, Scope, Send, body_from, header_of, request_id_of
from models.errors import Problem

ROUTE = re.compile(
    r"/v2(?:/health/(?P<health>live|ready)"
    r"|/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>ready|infer))?)?/?"
)
KNOWN = (
    "/v2, /v2/health/live, /v2/health/ready, /v2/models/<model>[/versions/<version>], and below that /ready and /infer"
)

_log = logging.getLogger("bentoml.tandem.open_inference")


class OpenInferenceRest:
    """The protocol's routes of one model."""

    def __init__(self, inference: OpenInference, inner: App) -> None:
        self._inference = inference
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not (scope["path"] + "/").startswith("/v2/"):
            await self._inner(scope, receive, send)
            return
        watch = Watch(request_id_of(scope))
        try:
            status, headers, body = await self._answer(scope, receive, watch)
        except DisconnectedError:
            return
        except Exception as error:  # noqa: BLE001  whatever it is, the answer is JSON and the log has it
            if (status := status_of(error)) == 500:
                _log.error("A request could not be answered.", exc_info=error)
            answer = body_of(error)
            watch.failed(answer)
            headers, body = [], _json({"error": answer["error"]["message"]})
        if status == 503:
            headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
        sized = [(b"content-length", b"%d" % len(body)), (b"x-request-id", watch.request_id.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers + sized})
        await send({"type": "http.response.body", "body": body})
        if self._inference.watcher is not None and scope["path"].endswith("/infer"):
            self._inference.watcher.answered(watch, OIP_REST, status, scope["headers"])

    async def _answer(self, scope: Scope, receive: Receive, watch: Watch) -> tuple[int, Headers, bytes]:
        """Return status, headers and body of the answer."""
        found = ROUTE.fullmatch(scope["path"])
        if not found:
            return _refusal(404, Problem("path", scope["path"], "is not known here", f"Known: {KNOWN}."))
        health, model, version, verb = found.group("health", "model", "version", "verb")
        allowed = ("POST",) if verb == "infer" else ("GET", "HEAD")
        if scope["method"] not in allowed:
            remedy = f"Use {allowed[0]}."
            problem = Problem("method", scope["method"], f"is not what {scope['path']} takes", remedy)
            return _refusal(405, problem, [(b"allow", ", ".join(allowed).encode())])
        if model:
            self._inference.check_served(model, version or "")
        if verb == "infer":
            return await self._infer(scope, receive, watch)
        if health == "ready" or verb == "ready":
            ready = await self._inference.ready()
            return _content({**({"name": model} if model else {}), "ready": ready}, 200 if ready else 503)
        if health == "live":
            return _content({"live": True})
        return _content(self._inference.model_metadata() if model else self._inference.server_metadata())

    async def _infer(self, scope: Scope, receive: Receive, watch: Watch) -> tuple[int, Headers, bytes]:
        if encoding := header_of(scope, b"content-encoding"):
            given = encoding.decode("latin-1")
            problem = Problem("Content-Encoding", given, "is not taken here", "Send the body uncompressed.")
            return _refusal(415, problem)
        given_length = header_of(scope, HEADER_LENGTH.lower().encode())
        header_length = None if given_length is None else given_length.decode("latin-1")
        asked = read_request(await body_from(receive), header_length)
        outputs = await self._inference.infer(asked.tensors, tuple(asked.outputs), watch, asked.reasons)
        head = self._inference.head() | {"id": asked.id or watch.request_id}
        body, json_length = written_response(head, outputs, asked)
        if json_length is None:
            return 200, [(b"content-type", b"application/json")], body
        headers = [(b"content-type", b"application/octet-stream")]
        return 200, [*headers, (HEADER_LENGTH.lower().encode(), b"%d" % json_length)], body


def _content(content: Any, status: int = 200) -> tuple[int, Headers, bytes]:
    return status, [(b"content-type", b"application/json")], _json(content)


def _refusal(status: int, problem: Problem, headers: Headers | None = None) -> tuple[int, Headers, bytes]:
    _, kind, body = _content({"error": str(problem)})
    return status, kind + (headers or []), body


def _json(content: Any) -> bytes:
    return to_json(content, inf_nan_mode="null")
