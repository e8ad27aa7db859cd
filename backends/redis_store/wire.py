"""Lines to Redis: one that waits, for loaders and scripts, and one on an event loop that many requests share.

A line that failed is of no use any more; who had it opens another one.
"""

import asyncio
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from backends.redis_store.address import Address, Command

FOREIGN = (62, 63, 64)  # OpenSSL: a certificate is not for this host name, mail address, IP address
SILENT_TIMES = 10  # as long as one answer is waited for: then the line is lost
CHUNK = 1 << 18  # bytes taken from a socket at once


class LostError(Exception):
    """There is no line, or no answer came over it; `late` when it was waited for in vain."""

    def __init__(self, reason: str, *, late: bool = False) -> None:
        super().__init__(reason)
        self.late = late


class RefusedError(Exception):
    """Redis answered with an error; the line goes on."""

    @property
    def code(self) -> str:
        """Redis's word for the error, like `OOM`."""
        return str(self).partition(" ")[0]


class BlockingLine:
    """A line that waits for its answers."""

    def __init__(self, address: Address, connect_seconds: float, read_seconds: float) -> None:
        self._reader = hiredis.Reader()
        self._socket = _connected(address, connect_seconds)
        self._socket.settimeout(read_seconds)
        if address.greeting:
            self.ask(*address.greeting)

    def ask(self, *commands: Command) -> list[Any]:
        """Send commands in one go and return their answers; `RefusedError` with the first that is an error."""
        answers: list[Any] = []
        try:
            self._socket.sendall(packed(commands))
            while len(answers) < len(commands):
                if (answer := self._reader.gets()) is not False:
                    answers.append(answer)
                elif received := self._socket.recv(CHUNK):
                    self._reader.feed(received)
                else:
                    raise LostError("it closed the connection")
        except (OSError, hiredis.ProtocolError) as error:
            raise _lost(error) from error
        finally:
            if len(answers) < len(commands):
                self.close()
        for answer in answers:
            for part in answer if isinstance(answer, list) else [answer]:  # a transaction's answers are in a list
                if isinstance(part, hiredis.ReplyError):
                    raise RefusedError(str(part))
        return answers

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __del__(self) -> None:
        if line := getattr(self, "_socket", None):
            line.close()


class Line(asyncio.Protocol):
    """A line of one event loop. Requests that wait at the same time go out together, and are answered in order.

    An answer that does not come in time is given up; the line itself only when Redis was silent for much longer.
    """

    def __init__(self, read_seconds: float) -> None:
        self._read_seconds = read_seconds
        self._reader = hiredis.Reader()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()  # and since when
        self._watch: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._warned = False

    @property
    def usable(self) -> bool:
        """Whether it can still be asked."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, *commands: Command) -> list[Any]:
        """Send commands in one go and return their answers; `RefusedError` with the first that is an error."""
        if self._transport is None or self._transport.is_closing():
            raise LostError("it closed the connection")
        now = self._loop.time()
        answers: list[asyncio.Future[Any]] = [self._loop.create_future() for _ in commands]
        self._waiting.extend((answer, now) for answer in answers)
        if self._watch is None:
            self._watch = self._loop.call_later(self._read_seconds, self._look)
        self._transport.write(packed(commands))
        if len(answers) == 1:
            return [await answers[0]]
        return await asyncio.gather(*answers)

    def close(self) -> None:
        """Hang up."""
        self._fail(LostError("it was closed here"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._heard, self._warned = self._loop.time(), False
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not False:
                waiting, _ = self._waiting.popleft()
                if waiting.done():  # who asked has gone, or was told that it took too long
                    continue
                if isinstance(answer, hiredis.ReplyError):
                    waiting.set_exception(RefusedError(str(answer)))
                else:
                    waiting.set_result(answer)
        except (hiredis.ProtocolError, IndexError) as error:
            self._fail(LostError(f"it does not speak Redis's protocol ({error})"))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._fail(_lost(exc) if isinstance(exc, OSError) else LostError("it closed the connection"))

    def _look(self) -> None:
        """Give up what nobody answered in time, and look again as long as answers are awaited."""
        self._watch = None
        if not self._waiting:
            return
        now, late = self._loop.time(), LostError("no answer in time", late=True)
        oldest = max(self._waiting[0][1], self._heard)
        if now - oldest >= self._read_seconds * SILENT_TIMES:
            self._fail(late)
        elif now - oldest >= self._read_seconds and not self._warned:
            self._warned = True  # the answer may be in the socket, and this loop the one that is late
            self._watch = self._loop.call_later(0.001, self._look)
        else:
            self._warned = False
            for answer, since in self._waiting:
                if not answer.done() and now - max(since, self._heard) >= self._read_seconds:
                    answer.set_exception(late)
            self._watch = self._loop.call_later(self._read_seconds / 4, self._look)

    def _fail(self, lost: LostError) -> None:
        if self._transport is not None:
            self._transport.abort()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        while self._waiting:
            waiting, _ = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(lost)


async def connect(address: Address) -> Line:
    """Open a line on the running event loop; `LostError` or `RefusedError` when Redis does not let us in."""
    try:
        _, line = await asyncio.get_running_loop().create_connection(
            lambda: Line(address.read_seconds),
            address.host,
            address.port,
            ssl=address.tls,
            server_hostname=address.host if address.tls else None,
        )
    except OSError as error:
        raise _lost(error) from error
    try:
        if address.greeting:
            await line.ask(*address.greeting)
    except BaseException:
        line.close()
        raise
    return line


def packed(commands: Sequence[Command]) -> bytes:
    """Return commands as they are sent."""
    pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub means one word
    return b"".join(map(pack, commands))


def _connected(address: Address, seconds: float) -> socket.socket:
    try:
        plain = socket.create_connection((address.host, address.port), seconds)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.tls is None:
            return plain
        try:
            return address.tls.wrap_socket(plain, server_hostname=address.host)
        except BaseException:
            plain.close()
            raise
    except OSError as error:
        raise _lost(error) from error


def _lost(error: Exception) -> LostError:
    """Put an error into words that name no host."""
    if isinstance(error, TimeoutError):
        return LostError("no answer in time", late=True)
    if isinstance(error, ssl.SSLCertVerificationError):
        foreign = error.verify_code in FOREIGN
        return LostError(f"its certificate {'is for another host' if foreign else f'fails: {error.verify_message}'}")
    if isinstance(error, ssl.SSLError):
        return LostError(f"TLS fails: {error.reason or type(error).__name__}")
    if isinstance(error, socket.gaierror):
        return LostError("its name is not known")
    if isinstance(error, OSError) and error.errno:
        return LostError(os.strerror(error.errno))
    return LostError("the connection fails")
