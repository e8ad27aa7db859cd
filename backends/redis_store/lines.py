"""The connections to one Redis: one that waits, for threads, and one for each event loop, shared by its requests."""

import asyncio
import contextlib
import threading
import time
from typing import Any
from weakref import WeakKeyDictionary

from backends.redis_store.address import Address, Command
from backends.redis_store.wire import BlockingLine, Line, LostError, RefusedError, connect

PAUSE_SECONDS = 0.25  # after a failure nobody asks, so that a lost Redis costs requests no time
OPENING_SECONDS = 2.0  # how long an event loop goes on opening a line that requests no longer wait for


class Breaker:
    """Remembers a failure for a while, instead of trying again for each request."""

    def __init__(self) -> None:
        self._until = 0.0
        self._failure: LostError | RefusedError = LostError("nobody asked")

    def check(self) -> None:
        """Raise what happened last, when it was a moment ago."""
        if time.monotonic() < self._until:
            raise type(self._failure)(str(self._failure))

    def trip(self, failure: LostError | RefusedError) -> None:
        """Begin a pause."""
        self._failure = failure
        self._until = time.monotonic() + PAUSE_SECONDS


class Lines:
    """Asks a Redis; a line that was closed since it was last used is opened again, and the commands are repeated once.

    `LostError` when no answer comes in the address's time, `RefusedError` for an answer that is an error.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._breaker = Breaker()
        self._asking = threading.Lock()
        self._line: BlockingLine | None = None
        self._switchboards: WeakKeyDictionary[asyncio.AbstractEventLoop, _Switchboard] = WeakKeyDictionary()

    def ask(self, commands: list[Command]) -> list[Any]:
        """Wait for its turn, and for the answers."""
        with self._asking:
            self._breaker.check()
            try:
                if self._line:
                    with contextlib.suppress(LostError):
                        return self._line.ask(*commands)
                self._line = BlockingLine(self._address, self._address.connect_seconds, self._address.read_seconds)
                return self._line.ask(*commands)
            except (LostError, RefusedError) as failure:
                self._line = None
                self._breaker.trip(failure)
                raise

    async def ask_async(self, commands: list[Command]) -> list[Any]:
        """Ask over the running event loop's line, beside others."""
        loop = asyncio.get_running_loop()
        switchboard = self._switchboards.get(loop)
        if switchboard is None:
            self._switchboards[loop] = switchboard = _Switchboard(self._address, self._breaker)
        return await switchboard.ask(commands)

    async def aclose(self) -> None:
        """Close the running event loop's line; the next call opens it again."""
        if switchboard := self._switchboards.pop(asyncio.get_running_loop(), None):
            switchboard.close()


class _Switchboard:
    """The one line of an event loop: opened when it is needed, and again when it is lost, by one task for all."""

    def __init__(self, address: Address, breaker: Breaker) -> None:
        self._address = address
        self._breaker = breaker
        self._line: Line | None = None
        self._opening: asyncio.Task[Line | LostError | RefusedError] | None = None
        self._opening_since = 0.0

    async def ask(self, commands: list[Command]) -> list[Any]:
        """Ask over the line; a line that was closed meanwhile is opened again once."""
        line, fresh = self._line, False
        if line is None or not line.usable:
            line, fresh = await self._opened(), True
        try:
            return await line.ask(*commands)
        except LostError as lost:
            if fresh or lost.late:
                if not line.usable:
                    self._breaker.trip(lost)
                raise
        return await (await self._opened()).ask(*commands)

    def close(self) -> None:
        """Hang up."""
        if self._opening:
            self._opening.cancel()
        if self._line:
            self._line.close()

    async def _opened(self) -> Line:
        """Return a new line, within the time that a request may wait; the opening may go on longer."""
        if self._line is not None and self._line.usable:  # somebody else was quicker
            return self._line
        self._breaker.check()
        loop = asyncio.get_running_loop()
        if self._opening is None:
            self._opening, self._opening_since = loop.create_task(self._open()), loop.time()
        left = self._opening_since + self._address.connect_seconds - loop.time()
        done, _ = await asyncio.wait([self._opening], timeout=max(left, 0))
        if not done:
            raise LostError("no connection in time", late=True)
        opened = done.pop().result()
        if isinstance(opened, Line):
            return opened
        raise opened

    async def _open(self) -> Line | LostError | RefusedError:
        try:
            async with asyncio.timeout(OPENING_SECONDS):
                self._line = await connect(self._address)
            return self._line
        except (LostError, RefusedError) as failure:
            self._breaker.trip(failure)
            return failure
        except TimeoutError:
            late = LostError("no connection in time", late=True)
            self._breaker.trip(late)
            return late
        finally:
            self._opening = None
