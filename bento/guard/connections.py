"""One HTTP connection as uvicorn sees it, with the service's rules in front.

A request reaches the service when it has arrived whole, is allowed, and is taken. A refusal costs a small part of an
answer: no task, no ASGI, bytes made in advance.
"""

import asyncio
import socket
import time
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from bento.guard.admission import until_it_waits
from bento.guard.gate import Rules
from bento.guard.keys import is_loopback
from bento.guard.refusals import (
    HEAD_TOO_LARGE,
    MOST_HEAD_BYTES,
    NO_KEY,
    NOT_HTTP,
    NOT_OPEN,
    OVERLOADED,
    TOO_MANY_CONNECTIONS,
    TOO_SLOW,
    Refusal,
)

NEEDS_NO_KEY = frozenset({"/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"})
NEVER_REFUSED = NEEDS_NO_KEY | {"/metrics"}  # what watches a service must see it under pressure too
IDLE_SECONDS = 1.0  # when the service stops, a kept connection may have a request on its way
LINGER_SECONDS = 2.0  # closing with unread bytes would reset the connection, and the refusal would be lost
LINGER_BYTES = 1 << 24
SWEEP_SECONDS = 1.0
ACCEPTED_AT_ONCE = 100

App = Any  # uvicorn's own types of ASGI

_opening: set[asyncio.Task[Any]] = set()


def _opened(task: asyncio.Task[Any]) -> None:
    _opening.discard(task)
    if not task.cancelled():
        task.exception()  # a caller that left meanwhile, or speaks no TLS, is nothing to tell of


class GuardedConnection(HttpToolsProtocol):
    """Keeps `rules`, which a subclass brings along."""

    rules: ClassVar[Rules]
    _sweeping: ClassVar[bool] = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ws_protocol_class = None  # there are no web sockets here
        self._since: float | None = None  # when the request began that is arriving or being answered
        self._in_head = False
        self._head_bytes = 0
        self._arriving: tuple[RequestResponseCycle, App] | None = None
        self._answering: RequestResponseCycle | None = None
        self._draining = False
        self._lingering: int | None = None  # bytes that were thrown away since the connection was given up
        self._accepts_more = True

    # --- from the socket --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or close it at once."""
        super().connection_made(transport)
        self._since = time.monotonic()
        if self._accepts_more:
            self._accept_more()
        if self.rules.loopback_only and self.server is not None and not is_loopback(self.server[0]):
            self._give_up(NOT_OPEN)
        elif len(self.connections) > self.rules.max_connections:
            self.rules.count(TOO_MANY_CONNECTIONS.status)
            transport.write(TOO_MANY_CONNECTIONS.write(keep_alive=False))
            transport.close()
            self._do_not_wait_for_tls()
        elif not type(self)._sweeping:
            type(self)._sweeping = True
            self._sweep()

    def _accept_more(self) -> None:
        """Take all who wait: uvloop itself takes one in each turn, and turns are long under pressure."""
        for descriptor in self.rules.listening:
            listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=descriptor)
            try:
                for _ in range(ACCEPTED_AT_ONCE):
                    accepted, _ = listening.accept()
                    opening = self.loop.connect_accepted_socket(self._another, accepted, ssl=self.config.ssl)
                    task = self.loop.create_task(opening)
                    _opening.add(task)
                    task.add_done_callback(_opened)
            except OSError:
                pass  # nobody else waits, or the service does not listen any more
            finally:
                listening.detach()

    def _another(self) -> "GuardedConnection":
        another = type(self)(config=self.config, server_state=self.server_state, app_state=self.app_state)
        another._accepts_more = False
        return another

    def data_received(self, data: bytes) -> None:
        """Read what arrived."""
        if self._lingering is not None:
            self._lingering += len(data)
            if self._lingering > LINGER_BYTES:
                self.transport.abort()
            return
        was_in_head = self._in_head
        super().data_received(data)
        if self._in_head:
            so_far = sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)
            self._head_bytes = self._head_bytes + len(data) if was_in_head else so_far
            if self._head_bytes > MOST_HEAD_BYTES:
                self._give_up(HEAD_TOO_LARGE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what was arriving."""
        self._arriving = self._answering = None
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Let the caller finish: the answer to its request, or to one on its way, is the last on this connection."""
        self._draining = True
        if self._answering is None:
            self.loop.call_later(IDLE_SECONDS, self._close_if_idle)
        elif not self.pipeline:
            self._answering.keep_alive = False

    # --- from the parser --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Start the clock of a request."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        if self._since is None:
            self._since = time.monotonic()

    def on_headers_complete(self) -> None:
        """Make a request of the head; `_start_asgi_task` is called when it is its turn."""
        self._in_head = False
        if self._lingering is None:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body, up to the limit."""
        if self._lingering is not None or self.cycle.response_complete:
            return
        if len(self.cycle.body) + len(body) > self.rules.max_body_bytes:
            self._give_up(self.rules.body_too_large)
        else:
            self.cycle.body += body

    def on_message_complete(self) -> None:
        """Hand over a request that has arrived whole."""
        if self._lingering is not None or self.cycle.response_complete:
            return
        super().on_message_complete()
        if self._arriving is not None:
            cycle, app = self._arriving
            self._arriving = None
            self._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse what is not HTTP."""
        self._give_up(NOT_HTTP)

    def _unsupported_upgrade_warning(self) -> None:
        """Answer as if no upgrade was asked for; callers do not write the log."""

    # --- to the service ---------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: App) -> None:
        """Decide about a request whose turn it is: its head is here, its body perhaps."""
        if self._draining and not self.pipeline:
            cycle.keep_alive = False
        if (refused := self._not_allowed(cycle)) is not None:
            self._give_up(refused)
        elif cycle.more_body:
            self._arriving = cycle, app
            if cycle.waiting_for_100_continue:
                cycle.waiting_for_100_continue = False
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif cycle.scope["path"] in NEVER_REFUSED:
            self._answering = cycle
            super()._start_asgi_task(cycle, app)
        elif self.rules.admission.take():
            self._answering = cycle
            task = self.loop.create_task(self._answer(cycle, app))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            self._refuse(cycle, OVERLOADED)

    async def _answer(self, cycle: RequestResponseCycle, app: App) -> None:
        await until_it_waits(cycle.run_asgi(app), self.rules.admission.done)

    def _not_allowed(self, cycle: RequestResponseCycle) -> Refusal | None:
        headers = cycle.scope["headers"]
        if cycle.scope["path"] not in NEEDS_NO_KEY and not self.rules.keys.accepts_headers(headers):
            return NO_KEY
        for name, value in headers:
            if name == b"content-length" and int(value) > self.rules.max_body_bytes:  # the parser took it for a number
                return self.rules.body_too_large
        return None

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        self._answering = None
        self._since = time.monotonic() if self.pipeline or self._in_head else None
        super().on_response_complete()
        if self.transport.is_closing():
            self._do_not_wait_for_tls()

    # --- refusals ---------------------------------------------------------------------------------------------------

    def _refuse(self, cycle: RequestResponseCycle, refusal: Refusal) -> None:
        """Answer a request that has arrived whole, and keep the connection."""
        with_body = cycle.scope["method"] != "HEAD"
        self.rules.count(refusal.status)
        self.transport.write(refusal.write(cycle.keep_alive, with_body))
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        elif self.pipeline:
            self.loop.call_soon(self.on_response_complete)  # not within each other, as deep as callers like
        else:
            self.on_response_complete()

    def _give_up(self, refusal: Refusal) -> None:
        """Refuse and close, whatever is still on its way here; a request that is being answered comes first."""
        self._lingering = 0
        self.pipeline.clear()
        if self._answering is not None:
            self._answering.keep_alive = False
            return
        self._arriving = self._since = None
        if self.cycle is not None:
            self.cycle.response_started = self.cycle.response_complete = True
        self._unset_keepalive_if_required()
        self.rules.count(refusal.status)
        self.transport.write(refusal.write(keep_alive=False))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    # --- slow and idle callers --------------------------------------------------------------------------------------

    def _close_if_idle(self) -> None:
        if self._answering is None and self._arriving is None and not self._in_head:
            self.transport.close()
            self._do_not_wait_for_tls()

    def _do_not_wait_for_tls(self) -> None:
        """End a connection that closes: TLS would wait half a minute for the caller's last word."""
        if self.scheme == "https":
            self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _sweep(self) -> None:
        """Cut off who is slow, once a second, as long as there are connections."""
        latest = time.monotonic() - self.rules.request_seconds
        for connection in list(self.connections):
            if isinstance(connection, GuardedConnection):
                connection._cut_off_if_begun_before(latest)
        if self.connections:
            self.loop.call_later(SWEEP_SECONDS, self._sweep)
        else:
            type(self)._sweeping = False

    def _cut_off_if_begun_before(self, latest: float) -> None:
        if self._since is None or self._since > latest or self.transport.is_closing():
            return
        if self._answering is not None:
            self.transport.abort()
        else:
            self._give_up(TOO_SLOW)
