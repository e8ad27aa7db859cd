"""The store of histories: each entity's events, where the API finds them and adds the next one.

A record is an entity's events of the longest window, and of two days more, behind a header. `fetch_and_append` answers
with what was there and adds the event, in one step for each entity, so of two swipes of one card at the same moment
both are recorded, and the next one sees both. Here is the face of all stores, and what they do with a record: pure
functions of bytes. Each store has a module of its own. What an event is, is in `models.history`.

A load makes the past what the lake says: of each entity, the lake's events before `until` take the place of what was
recorded, and what was recorded since then stays. It does so record by record, beside requests, and nothing is lost.
"""

import hashlib
import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backends.online_store import nothing_loaded, unknown_scheme
from backends.vectors import Key
from models.contract import Contract
from models.errors import OnlineStoreError, StoreMismatchError
from models.history import MICROSECONDS, Events, History, history_of, kept, pack, unpack, with_event

REACH = 2 * 86_400 * MICROSECONDS  # events this much older than the entity's newest can still be answered exactly
FORGET_SECONDS = 7 * 86_400  # how long the histories of another layout are kept, for a service that still reads them
HEADER = struct.Struct("<qq")  # in front of a record's events: `complete_since`, and the load that it was last part of
SPAN = struct.Struct("<qqq")


class Lake(NamedTuple):
    """What the lake has of one entity within a span: events, ascending by time, none left out since then."""

    entity: Key
    events: Events
    complete_since: int


class Span(NamedTuple):
    """What a load brings: all events of the lake with since <= time < until, in microseconds; `load` is its name."""

    since: int
    until: int
    load: int


class Remembered(NamedTuple):
    """What a store has of one entity, as it was before the event that it was asked with."""

    events: Events  # ascending by time
    complete_since: int  # no event of the entity from then on is missing
    until: int  # how far the lake has been loaded


@dataclass(frozen=True)
class Seeded:
    """One load: how many events of how many entities, the size of the records in bytes, the time it took."""

    entities: int
    events: int
    bytes: int
    seconds: float


class HistoryStore(ABC):
    """The histories of one model, laid out as its contract needs them. Safe to share between threads."""

    over_network = False  # whether `fetch_and_append_async` waits for a network, not for work in this process

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.model = contract.model
        self.history = history_of_contract(contract)
        self.layout = layout_of(contract)

    @abstractmethod
    def fetch_and_append(self, entities: Sequence[Key], events: Events, record: Sequence[bool]) -> list[Remembered]:
        """Return what there is of each event's entity, and add the event where `record` says so; in their order.

        An event whose key the entity has already is not added again. To look up and to add is one step, whoever else
        asks. `ValueRejectedError` for a key of a wrong type, `StoreUnavailableError` when nothing was loaded yet, or
        the store does not answer; then some of the events may have been added.
        """

    async def fetch_and_append_async(
        self, entities: Sequence[Key], events: Events, record: Sequence[bool]
    ) -> list[Remembered]:
        """Do as `fetch_and_append`, while the event loop serves others, where a store has to wait for a network."""
        return self.fetch_and_append(entities, events, record)

    async def aclose(self) -> None:  # noqa: B027
        """Close what `fetch_and_append_async` has opened for the running event loop."""

    @abstractmethod
    def load(self, lake: Iterable[Lake], span: Span, properties: Mapping[str, str]) -> Seeded:
        """Make the past of every entity what the lake says; see the module. Each entity comes at most once.

        When anything fails, some records are as after the load and some as before, each right by itself; the next load
        does the rest. `OnlineStoreError` while another load is running.
        """

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Return the properties of the last load; errors as in `fetch_and_append`."""


def open_histories(uri: str, contract: Contract) -> HistoryStore:
    """Return the histories of one model in the store at `uri`, see `backends.online_store.open_store`."""
    scheme, _, place = uri.partition("://")
    if scheme == "lmdb" and place:
        from backends.lmdb_histories import LmdbHistories

        return LmdbHistories(Path(place), contract)
    if scheme in ("redis", "rediss"):
        from backends.redis_store.address import Address
        from backends.redis_store.histories import RedisHistories

        return RedisHistories(Address.parse(uri), contract)
    raise unknown_scheme(scheme)


def history_of_contract(contract: Contract) -> History:
    """Return what the contract of a model of events wants to know of the past."""
    assert contract.events is not None
    return history_of(contract.features, contract.events)


def layout_of(contract: Contract) -> str:
    """Return 16 hexadecimal digits that change with anything that a record's bytes, or what is kept, depend on."""
    history = history_of_contract(contract)
    measured = [(n, contract.features[n].model_dump(exclude={"description"})) for n in history.numbers]
    measured += [(n, contract.features[n].model_dump(exclude={"description"})) for n in history.categories]
    limits = [history.limits.resolution, history.limits.max_events, history.longest]
    text = json.dumps([contract.entity_key, contract.entity_key_type, limits, measured])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def loaded_facts(store: HistoryStore, span: Span, seeded: Mapping[str, str]) -> dict[str, str]:
    """Return the properties of a load, with what every store adds to them."""
    return {
        **seeded,
        "layout": store.layout,
        "contract_fingerprint": store.contract.fingerprint.hex(),
        "loaded_at": datetime.now(UTC).isoformat(),
        "history_since": _iso(span.since),
        "history_until": _iso(span.until),
    }


def not_loaded(store: HistoryStore, others: Iterable[str]) -> OnlineStoreError:
    """Return the error of a store without these histories; `others` are the layouts that there are."""
    there = [layout for layout in others if layout != store.layout]
    if not there:
        return nothing_loaded(store.model)
    return StoreMismatchError(
        f"The histories of {store.model} have layout {', '.join(sorted(there))}, but the model needs {store.layout}. "
        f"Materialize {store.model}/online_features."
    )


def forgettable(loaded_at: str) -> bool:
    """Whether the histories of another layout, loaded then, may go."""
    return (datetime.now(UTC) - datetime.fromisoformat(loaded_at)).total_seconds() > FORGET_SECONDS


def _iso(microseconds: int) -> str:
    return str(np.datetime_as_string(np.datetime64(microseconds, "us"), timezone="UTC"))


# --- records --------------------------------------------------------------------------------------------------------


def remembered(history: History, record: bytes | None, span: Span) -> Remembered:
    """Return what a record says; without one the entity had no event since the span began."""
    if record is None:
        return Remembered(unpack(history, b""), span.since, span.until)
    return Remembered(unpack(history, record[HEADER.size :]), HEADER.unpack_from(record)[0], span.until)


def appended(history: History, record: bytes | None, event: Events, span: Span) -> bytes | None:
    """Return a record with one event more ([1] of `dtype`); None when the event is in it already."""
    events, complete_since, _ = remembered(history, record, span)
    if (events["key"] == event["key"][0]).any():
        return None
    load = span.load if record is None else HEADER.unpack_from(record)[1]
    grown = with_event(history, events, event, REACH)
    lost = max(_before(events, grown), _before(event, grown))
    return HEADER.pack(max(complete_since, lost + 1), load) + pack(grown)


def merged(history: History, record: bytes | None, lake: Events, complete_since: int, span: Span) -> bytes | None:
    """Return a record whose past is the lake's, see the module and `Lake`; None when nothing is left in it."""
    recorded = unpack(history, b"")
    if record is not None:
        events = unpack(history, record[HEADER.size :])
        recorded = events[np.searchsorted(events["time"], span.until, "left") :]
        since = int(HEADER.unpack_from(record)[0])
        complete_since = since if since > span.until else complete_since  # of those since the load, some are gone
    events = np.concatenate([lake, recorded])
    if not len(events):
        return None
    left = events[kept(history, events["time"], REACH)]
    return HEADER.pack(max(complete_since, _before(events, left) + 1), span.load) + pack(left)


def of_lake(history: History, entity: Key, events: Events, span: Span) -> Lake:
    """Return what is worth loading of an entity's events, ascending by time."""
    left = events[kept(history, events["time"], REACH)]
    return Lake(entity, left, max(span.since, _before(events, left) + 1))


def is_of(record: bytes, span: Span) -> bool:
    """Whether a record was part of a load."""
    return bool(HEADER.unpack_from(record)[1] == span.load)


def _before(events: Events, left: Events) -> int:
    """Return the time of the newest event that is gone from the beginning; the smallest number when none is."""
    first = left["time"][0]
    gone = events["time"][: np.searchsorted(events["time"], first, "left")]
    return int(gone[-1]) if len(gone) else -(2**63)
