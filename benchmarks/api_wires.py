"""How the load's requests get to a server and back: HTTP/1.1 and gRPC, on connections that block or that do not.

Only what a benchmark needs of either protocol, so that the client costs little: bytes go out and come in.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import grpc

HOST = "127.0.0.1"
PATIENCE_SECONDS = 10.0  # for a connection, and for one answer without a rate
OPEN_AT_FIRST = 4  # connections; more are opened when requests have to wait
OK = 200
UNANSWERED, LOST = "unanswered", "connection lost"
CONNECTION_OF_ITS_OWN = [("grpc.use_local_subchannel_pool", 1)]
CONTENT_TYPE = "application/json"


@dataclass(frozen=True)
class Plan:
    """What to send where. `target` is a path (http) or a full method name (grpc); `bodies` a file, one on each line.

    `rate` is in requests a second, 0 for one after the other on each of `connections`, which with a rate are the most
    that http opens; grpc shares one then. `first` is the body to begin with.
    """

    protocol: str
    port: int
    target: str
    bodies: str
    rate: float
    seconds: float
    connections: int
    first: int = 0

    @property
    def requests(self) -> int:
        """How many fall due, with a rate."""
        return max(1, round(self.rate * self.seconds))


# --- HTTP/1.1 as far as it is needed ---------------------------------------------------------------------------------


def http_request(plan: Plan, body: bytes) -> bytes:
    """Return the bytes of one POST."""
    head = f"POST {plan.target} HTTP/1.1\r\nHost: {HOST}:{plan.port}\r\nContent-Type: {CONTENT_TYPE}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def http_answer(received: bytes | bytearray) -> tuple[int, bytes] | None:
    """Return status and body of an answer, None while it is not whole. `ValueError` for one without a length."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError(f"An answer without a Content-Length is not read here: {head.decode(errors='replace')}")
    length = int(head[at + 17 :].split(b"\r\n", 1)[0])
    body = received[end + 4 : end + 4 + length]
    return (int(head[9:12]), bytes(body)) if len(body) == length else None


# --- connections that block ------------------------------------------------------------------------------------------

Ask = Callable[[bytes], tuple[int | str, bytes]]


@contextmanager
def connection(plan: Plan) -> Iterator[Ask]:
    """Open a connection, and give what sends a body on it and waits for its answer."""
    if plan.protocol == "grpc":
        with grpc.insecure_channel(f"{HOST}:{plan.port}", CONNECTION_OF_ITS_OWN) as channel:
            grpc.channel_ready_future(channel).result(PATIENCE_SECONDS)
            yield _grpc_ask(channel.unary_unary(plan.target))
    else:
        with _HttpConnection(plan) as connection:
            yield connection.ask


def _grpc_ask(call: Callable[..., bytes]) -> Ask:
    def ask(body: bytes) -> tuple[int | str, bytes]:
        try:
            return OK, call(body, timeout=PATIENCE_SECONDS)
        except grpc.RpcError as error:
            return error.code().name, b""

    return ask


class _HttpConnection:
    """One blocking connection, opened again when it was lost."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._socket = self._open()

    def _open(self) -> socket.socket:
        opened = socket.create_connection((HOST, self._plan.port), PATIENCE_SECONDS)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened

    def __enter__(self) -> "_HttpConnection":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, body: bytes) -> tuple[int | str, bytes]:
        try:
            self._socket.sendall(http_request(self._plan, body))
            received = b""
            while (answer := http_answer(received)) is None:
                part = self._socket.recv(65_536)
                if not part:
                    raise ConnectionError(LOST)
                received += part
        except OSError as error:
            self._socket.close()
            self._socket = self._open()
            return UNANSWERED if isinstance(error, TimeoutError) else LOST, b""
        return answer


# --- and lanes that do not -------------------------------------------------------------------------------------------

Answered = Callable[[int, int | str, bytes], None]  # the request's number, its status, its answer


class Lane(Protocol):
    """A way to send without waiting for the answer, which is told to what it was opened with."""

    async def open(self) -> None:
        """Connect."""

    def send(self, number: int, body: bytes) -> None:
        """Send a request, or keep it until it can be sent."""

    async def close(self) -> None:
        """Disconnect, whatever is still waited for."""


def lane_of(plan: Plan, answered: Answered) -> Lane:
    """Return a lane for a plan, not yet open."""
    return (_GrpcLane if plan.protocol == "grpc" else _HttpLane)(plan, answered)


class _GrpcLane:
    """All requests on one connection, as HTTP/2 is meant."""

    def __init__(self, plan: Plan, answered: Answered) -> None:
        self._plan, self._answered = plan, answered
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._channel = grpc.aio.insecure_channel(f"{HOST}:{self._plan.port}", CONNECTION_OF_ITS_OWN)
        await asyncio.wait_for(self._channel.channel_ready(), PATIENCE_SECONDS)
        self._call = self._channel.unary_unary(self._plan.target)

    def send(self, number: int, body: bytes) -> None:
        task = asyncio.ensure_future(self._ask(number, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, number: int, body: bytes) -> None:
        try:
            answer = await self._call(body)
        except grpc.RpcError as error:
            self._answered(number, error.code().name, b"")
        else:
            self._answered(number, OK, answer)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()


class _HttpLane:
    """Kept-alive connections, one request at a time on each; the one that was free last is taken first."""

    def __init__(self, plan: Plan, answered: Answered) -> None:
        self._plan, self.answered = plan, answered
        self._free: list[_Pipe] = []
        self._queue: deque[tuple[int, bytes]] = deque()
        self._pipes: set[_Pipe] = set()
        self._opening: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        await asyncio.gather(*(self._open_one() for _ in range(min(OPEN_AT_FIRST, self._plan.connections))))

    async def _open_one(self) -> None:
        try:
            _, pipe = await asyncio.get_running_loop().create_connection(lambda: _Pipe(self), HOST, self._plan.port)
        except OSError:
            return  # what waits for it goes out on another connection, or is counted as not answered
        self._pipes.add(pipe)
        self.free(pipe)

    def send(self, number: int, body: bytes) -> None:
        request = http_request(self._plan, body)
        if self._free:
            self._free.pop().send(number, request)
            return
        self._queue.append((number, request))
        if len(self._pipes) + len(self._opening) < self._plan.connections:
            task = asyncio.ensure_future(self._open_one())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def free(self, pipe: "_Pipe") -> None:
        """Give a connection the next request that waits, if any."""
        if self._queue:
            pipe.send(*self._queue.popleft())
        else:
            self._free.append(pipe)

    def lost(self, pipe: "_Pipe") -> None:
        """Forget a connection."""
        self._pipes.discard(pipe)
        if pipe in self._free:
            self._free.remove(pipe)

    async def close(self) -> None:
        await asyncio.gather(*self._opening)
        self._queue.clear()
        for pipe in list(self._pipes):
            pipe.transport.abort()


class _Pipe(asyncio.Protocol):
    """One connection of an `_HttpLane`."""

    transport: asyncio.Transport

    def __init__(self, lane: _HttpLane) -> None:
        self._lane = lane
        self._received = bytearray()
        self._number: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, number: int, request: bytes) -> None:
        self._number = number
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = http_answer(self._received)
        if answer is None or self._number is None:
            return
        number, self._number = self._number, None
        self._received.clear()
        self._lane.answered(number, *answer)
        self._lane.free(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._lane.lost(self)
        if self._number is not None:
            number, self._number = self._number, None
            self._lane.answered(number, LOST, b"")
