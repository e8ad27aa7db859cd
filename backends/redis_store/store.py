"""The online store in Redis: lookups in one trip, by whoever waits and by an event loop that does not."""

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

from backends.online_store import Batch, LoadReport, OnlineStore, Vectors, nothing_loaded
from backends.redis_store.address import Address, Command
from backends.redis_store.failures import explained
from backends.redis_store.layout import Generation, pointer_of, stored_key, vector_in
from backends.redis_store.lines import Lines
from backends.redis_store.loading import Loader
from backends.redis_store.wire import LostError, RefusedError
from backends.vectors import Key, unpack
from models.contract import Contract
from models.errors import StoreUnavailableError

NAMES_AT_ONCE = 1000  # in one command: others are served between two of them
TRIPS = 5  # a load between two trips makes a third one necessary

Names = Callable[[Generation], list[bytes]]
Values = list[bytes | None]
Trips = Generator[list[Command], list[Values], Values]


class RedisStore(OnlineStore):
    """Vectors in buckets that a generation's name is part of; a pointer names the generation that readers use.

    Every trip asks for the pointer last. When it is what the reader took it for, everything before came from a
    generation that nobody had begun to remove; else the reader follows it with one more trip.
    """

    over_network = True

    def __init__(self, address: Address, model: str) -> None:
        super().__init__(model)
        self._address = address
        self._generation: Generation | None = None
        self._lines = Lines(address)

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
                commands = trips.send(await self._lines.ask_async(commands))
        except StopIteration as end:
            return _vectors(contract, stored, end.value)
        except (LostError, RefusedError) as failure:
            raise explained(self.model, failure) from failure

    async def aclose(self) -> None:
        """See `OnlineStore`."""
        await self._lines.aclose()

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
                commands = trips.send(self._lines.ask(commands))
        except StopIteration as end:
            values: Values = end.value
            return values
        except (LostError, RefusedError) as failure:
            raise explained(self.model, failure) from failure


def _buckets_of(stored: Sequence[bytes]) -> Names:
    return lambda generation: generation.buckets_of(stored)


def _vectors(contract: Contract, stored: Sequence[bytes], buckets: Values) -> Vectors:
    found = [None if b is None else vector_in(b, key) for b, key in zip(buckets, stored, strict=True)]
    rows, event_times = unpack(contract, [vector for vector in found if vector is not None])
    return Vectors(rows, event_times, tuple(i for i, vector in enumerate(found) if vector is None))
