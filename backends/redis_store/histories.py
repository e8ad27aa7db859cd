"""Histories in Redis: a string for each entity, and one script that looks up and adds, in one trip."""

import contextlib
import json
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from backends.histories import (
    SPAN,
    HistoryStore,
    Lake,
    Remembered,
    Seeded,
    Span,
    forgettable,
    loaded_facts,
    not_loaded,
    remembered,
)
from backends.redis_store.address import Address, Command
from backends.redis_store.failures import explained
from backends.redis_store.history_script import Script
from backends.redis_store.layout import stored_key
from backends.redis_store.lines import Lines
from backends.redis_store.loading import Loader
from backends.redis_store.wire import BlockingLine, LostError, RefusedError
from backends.vectors import Key
from models.contract import Contract
from models.history import Events, pack

AT_ONCE = 32  # records in one transaction: other clients wait for less than a millisecond
SCANNED = 1000
LONG = struct.Struct("<q")


class RedisHistories(HistoryStore):
    """See `HistoryStore`. A line that breaks is opened again and asked again: an event is added once all the same."""

    over_network = True

    def __init__(self, address: Address, contract: Contract) -> None:
        super().__init__(contract)
        self._address = address
        self._lines = Lines(address)
        self._names = _Names(self.model, self.layout)
        self._script = Script(self.history)

    def fetch_and_append(self, entities: Sequence[Key], events: Events, record: Sequence[bool]) -> list[Remembered]:
        """See `HistoryStore`. It waits for its turn, for at most the timeouts in the address."""
        commands = self._commands(entities, events, record)
        with self._translated():
            return self._found(self._lines.ask(commands) if commands else [])

    async def fetch_and_append_async(
        self, entities: Sequence[Key], events: Events, record: Sequence[bool]
    ) -> list[Remembered]:
        """See `HistoryStore`. Requests of the same moment share one line."""
        commands = self._commands(entities, events, record)
        with self._translated():
            return self._found(await self._lines.ask_async(commands) if commands else [])

    async def aclose(self) -> None:
        """See `HistoryStore`."""
        await self._lines.aclose()

    def describe(self) -> dict[str, str]:
        """See `HistoryStore`."""
        with self._translated():
            (properties,) = self._lines.ask([("GET", self._names.properties)])
            if properties is None:
                raise not_loaded(self, self._layouts())
        facts: dict[str, str] = json.loads(properties)
        return facts

    def load(self, lake: Iterable[Lake], span: Span, properties: Mapping[str, str]) -> Seeded:
        """See `HistoryStore`."""
        return _HistoryLoader(self._address, self, self._names, self._script).seed(lake, span, properties)

    def _commands(self, entities: Sequence[Key], events: Events, record: Sequence[bool]) -> list[Command]:
        records = [self._names.record(stored_key(self.contract, entity)) for entity in entities]
        packed = [pack(events[i : i + 1]) for i in range(len(events))]
        return self._script.appends(self._names.span, records, packed, list(record))

    def _found(self, answers: list[Any]) -> list[Remembered]:
        if None in answers:
            raise not_loaded(self, self._layouts())
        return [remembered(self.history, record, Span(*SPAN.unpack(span))) for span, record in answers]

    def _layouts(self) -> list[str]:
        """Return which layouts there are, where the user may ask."""
        with contextlib.suppress(RefusedError):
            return [layout.decode() for layout in self._lines.ask([("HKEYS", self._names.layouts)])[0]]
        return []

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (LostError, RefusedError) as failure:
            raise explained(self.model, failure) from failure


class _Names:
    """What is where, see `history_script`."""

    def __init__(self, model: str, layout: str) -> None:
        self._model = model
        prefix = f"tandem:{model}:history:{layout}:"
        self.span, self.properties = f"{prefix}span".encode(), f"{prefix}properties".encode()
        self.layouts = f"tandem:{model}:histories".encode()
        self._records = f"{prefix}of:".encode()

    def record(self, entity: bytes) -> bytes:
        return self._records + entity

    @property
    def records(self) -> bytes:
        """The pattern of all records."""
        return self._records + b"*"

    def of(self, layout: str) -> "_Names":
        return _Names(self._model, layout)


class _HistoryLoader(Loader):
    """Loads histories under the lock of a load of vectors. Used once."""

    def __init__(self, address: Address, store: RedisHistories, names: _Names, script: Script) -> None:
        super().__init__(address, store.model)
        self._store = store
        self._names = names
        self._script = script

    def seed(self, lake: Iterable[Lake], span: Span, properties: Mapping[str, str]) -> Seeded:
        """See `HistoryStore.load`."""
        started, packed = time.perf_counter(), SPAN.pack(*span)
        with self._translated(), self._line() as line, self._alone(line):
            self._refuse_eviction(line)
            entities, rows, size = self._merge(line, lake, packed)
            self._sweep_records(line, span)
            facts = loaded_facts(self._store, span, properties) | {"entities": str(entities), "rows": str(rows)}
            self._fenced(
                line,
                ("SET", self._names.properties, json.dumps(facts)),
                ("HSET", self._names.layouts, self._store.layout, facts["loaded_at"]),
                ("SET", self._names.span, packed),
            )
            self._forget_others(line)
        return Seeded(entities, rows, size, time.perf_counter() - started)

    def _merge(self, line: BlockingLine, lake: Iterable[Lake], span: bytes) -> tuple[int, int, int]:
        entities, rows, size, coming = 0, 0, 0, iter(lake)
        while some := list(islice(coming, AT_ONCE)):
            records = [self._names.record(stored_key(self._store.contract, one.entity)) for one in some]
            events = [(LONG.pack(one.complete_since), pack(one.events)) for one in some]
            size += sum(self._fenced(line, *self._script.merges(span, records, events)))
            entities, rows = entities + len(some), rows + sum(len(one.events) for one in some)
        return entities, rows, size

    def _sweep_records(self, line: BlockingLine, span: Span) -> None:
        """Take the past from entities that the lake has no more."""
        since, packed = LONG.pack(span.since), SPAN.pack(*span)
        for names in _scanned(line, self._names.records):
            for start in range(0, len(names), AT_ONCE):
                self._fenced(line, *self._script.sweeps(packed, since, names[start : start + AT_ONCE]))

    def _forget_others(self, line: BlockingLine) -> None:
        (known,) = line.ask(("HGETALL", self._names.layouts))
        for layout, loaded_at in zip(known[::2], known[1::2], strict=True):
            if layout.decode() != self._store.layout and forgettable(loaded_at.decode()):
                other = self._names.of(layout.decode())
                for names in _scanned(line, other.records):
                    line.ask(("UNLINK", *names))
                line.ask(("UNLINK", other.span, other.properties), ("HDEL", self._names.layouts, layout))


def _scanned(line: BlockingLine, pattern: bytes) -> Iterator[list[bytes]]:
    """Yield the names of keys, some at a time, none of them never; some may come twice."""
    cursor = b"0"
    while True:
        ((cursor, names),) = line.ask(("SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED))
        if names:
            yield names
        if cursor == b"0":
            return
