"""The online store in Redis: lookups in one trip, by whoever waits and by an event loop that does not."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from backends.online_store import Batch, LoadReport, OnlineStore, Vectors, nothing_loaded
from backends.redis_store.address import Address, Command
from backends.redis_store.failures import explained
from backends.redis_store.layout import Generation, pointer_of, stored_key, vector_in
from backends.redis_store.loading import Loader
from backends.redis_store.wire import BlockingLine, Line, LostError, RefusedError, connect
from backends.vectors import Key, unpack
from models.contract import Contract
from models.errors import StoreUnavailableError

PAUSE_SECONDS = 0.25  # after a failure nobody asks, so that a lost Redis costs requests no time
OPENING_SECONDS = 2.0  # how long an event loop goes on opening a line that requests no longer wait for
NAMES_AT_ONCE = 1000  # in one command: others are served between two of them
TRIPS = 5  # a load between two trips makes a third one necessary

Names = Callable[[Generation], list[bytes]]
Values = list[bytes | None]
Trips = Generator[list[Command], list[Values], Values]


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


class RedisStore(OnlineStore):
    """Vectors in buckets that a generation's name is part of; a pointer names the generation that readers use.

    Every trip asks for the pointer last. When it is what the reader took it for, everything before came from a
    generation that nobody had begun to remove; else the reader follows it with one more trip.
    """

    def __init__(self, address: Address, model: str) -> None:
        super().__init__(model)
        self._address = address
        self._generation: Generation | None = None
        self._breaker = Breaker()
        self._asking = threading.Lock()
        self._line: BlockingLine | None = None
        self._switchboards: WeakKeyDictionary[asyncio.AbstractEventLoop, _Switchboard] = WeakKeyDictionary()

    def get_many(self, contract: Contract, keys: Sequence[Key]) -> Vectors:
        """See `OnlineStore`. It waits for its turn, for at most the timeouts in the address."""
        stored = [stored_key(contract, key) for key in keys]
        return _vectors(contract, stored, self._read(_buckets_of(stored)))

    async def get_many_async(self, contract: Contract, keys: Sequence[Key]) -> Vectors:
        """See `OnlineStore`. Lookups of the same moment share one line."""
        stored = [stored_key(contract, key) for key in keys]
        trips = self._trips(_buckets_of(stored))
        try:
            commands = next(trips)
            while True:
                commands = trips.send(await self._switchboard().ask(commands))
        except StopIteration as end:
            return _vectors(contract, stored, end.value)
        except (LostError, RefusedError) as failure:
            raise explained(self.model, failure) from failure

    async def aclose(self) -> None:
        """See `OnlineStore`."""
        if switchboard := self._switchboards.pop(asyncio.get_running_loop(), None):
            switchboard.close()

    def describe(self) -> dict[str, str]:
        """See `OnlineStore`."""
        (properties,) = self._read(lambda generation: [generation.properties])
        if properties is None:
            raise nothing_loaded(self.model)
        facts: dict[str, str] = json.loads(properties)
        return facts

    def load(self, contract: Contract, batches: Iterable[Batch], properties: Mapping[str, str]) -> LoadReport:
        """See `OnlineStore`. Needs room for two generations, and a spool file as large as the vectors in TMPDIR."""
        return Loader(self._address, self.model).load(contract, batches, properties)

    def _switchboard(self) -> "_Switchboard":
        loop = asyncio.get_running_loop()
        switchboard = self._switchboards.get(loop)
        if switchboard is None:
            self._switchboards[loop] = switchboard = _Switchboard(self._address, self._breaker)
        return switchboard

    def _trips(self, names: Names) -> Trips:
        """Yield the commands of each trip, take their answers, and return the values of one generation's keys."""
        generation = self._generation
        for _ in range(TRIPS):
            asked = [*(names(generation) if generation else []), pointer_of(self.model)]
            answers = yield [
                ("MGET", *asked[start : start + NAMES_AT_ONCE]) for start in range(0, len(asked), NAMES_AT_ONCE)
            ]
            *values, pointer = [value for answer in answers for value in answer]
            if pointer is None:
                raise nothing_loaded(self.model)
            if generation and pointer == generation.pointer:
                return values
            self._generation = generation = Generation.parse(self.model, pointer)
        raise StoreUnavailableError(
            f"The online features of {self.model} were replaced {TRIPS} times while one request looked them up. "
            f"Materialize {self.model}/online_features less often."
        )

    def _read(self, names: Names) -> Values:
        trips = self._trips(names)
        try:
            commands = next(trips)
            while True:
                commands = trips.send(self._ask(commands))
        except StopIteration as end:
            values: Values = end.value
            return values
        except (LostError, RefusedError) as failure:
            raise explained(self.model, failure) from failure

    def _ask(self, commands: list[Command]) -> list[Any]:
        with self._asking:
            self._breaker.check()
            try:
                if self._line:  # it may have been closed since it was last used: then a new one is opened
                    with contextlib.suppress(LostError):
                        return self._line.ask(*commands)
                self._line = BlockingLine(self._address, self._address.connect_seconds, self._address.read_seconds)
                return self._line.ask(*commands)
            except (LostError, RefusedError) as failure:
                self._line = None
                self._breaker.trip(failure)
                raise


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


def _buckets_of(stored: Sequence[bytes]) -> Names:
    return lambda generation: generation.buckets_of(stored)


def _vectors(contract: Contract, stored: Sequence[bytes], buckets: Values) -> Vectors:
    found = [None if b is None else vector_in(b, key) for b, key in zip(buckets, stored, strict=True)]
    rows, event_times = unpack(contract, [vector for vector in found if vector is not None])
    return Vectors(rows, event_times, tuple(i for i, vector in enumerate(found) if vector is None))
