"""The online store: one vector per entity, packed and ready to score. LMDB in one folder by default, Redis by setting.

A vector is a row of the graph's inputs with the contract's fingerprint and the event time in front, so the service
neither joins nor encodes, and never scores what was packed for another contract. `load` writes a whole generation
beside the old one and switches to it in one step; whoever is reading goes on reading. Here is the face of all stores;
each has a module of its own. Arrow and Iceberg do not belong there: who loads a store hands over NumPy arrays.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backends.vectors import EventTimes, Key, Keys
from models.contract import Contract
from models.encoding import Encoded
from models.errors import OnlineStoreError, StoreUnavailableError

Batch = tuple[Keys, Encoded, EventTimes]


@dataclass(frozen=True)
class Vectors:
    """What the store has for some keys: `rows` and `event_times` of those found, in the order they were asked for."""

    rows: Encoded
    event_times: EventTimes
    missing: tuple[int, ...]  # positions, among the keys asked for, of entities without a vector


@dataclass(frozen=True)
class LoadReport:
    """One load: how many vectors, the size of the store in bytes, the time it took, the generation's name."""

    rows: int
    bytes: int
    seconds: float
    generation: str


class OnlineStore(ABC):
    """The vectors of one model. Safe to share between threads."""

    over_network = False  # whether `get_many_async` waits for a network, not for work in this process

    def __init__(self, model: str) -> None:
        self.model = model

    @abstractmethod
    def get_many(self, contract: Contract, keys: Sequence[Key]) -> Vectors:
        """Return the vectors of some entities, all from one generation.

        `ValueRejectedError` for a key of a wrong type, `StoreUnavailableError` when nothing was loaded yet,
        `StoreMismatchError` when the vectors were packed for another contract.
        """

    async def get_many_async(self, contract: Contract, keys: Sequence[Key]) -> Vectors:
        """Return what `get_many` does, while the event loop serves others, where a store has to wait for a network."""
        return self.get_many(contract, keys)

    async def aclose(self) -> None:  # noqa: B027
        """Close what `get_many_async` has opened for the running event loop; the next call opens it again."""

    @abstractmethod
    def load(self, contract: Contract, batches: Iterable[Batch], properties: Mapping[str, str]) -> LoadReport:
        """Replace everything with the vectors of `batches`: keys, encoded rows and event times, of equal lengths.

        Keys may come in any order, but only once. `properties` say where the rows come from; `describe` returns them.
        When anything fails, the old vectors stay. `OnlineStoreError` for keys that stand twice, for no rows at all and
        while another load is running; `ValueRejectedError` for a key that cannot be stored.
        """

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Return the properties of what is loaded, with rows, fingerprint and time of loading; see `get_many`."""


def generation_name(loaded_at: datetime) -> str:
    """Return the name of what is loaded now."""
    return f"{loaded_at:%Y%m%dT%H%M%S.%fZ}"


def facts_of(contract: Contract, loaded_at: datetime, rows: int, properties: Mapping[str, str]) -> dict[str, str]:
    """Return the properties of a generation, with what every store adds to them."""
    return {
        **properties,
        "rows": str(rows),
        "loaded_at": loaded_at.isoformat(),
        "contract_fingerprint": contract.fingerprint.hex(),
        "generation": generation_name(loaded_at),
    }


def nothing_loaded(model: str) -> StoreUnavailableError:
    """Return the error of a store that was never loaded."""
    return StoreUnavailableError(
        f"There are no online features of {model}. Materialize {model}/online_features, "
        "and check that TANDEM_ONLINE_STORE is the same there and here."
    )


def loading_elsewhere(model: str) -> OnlineStoreError:
    """Return the error of the second of two loaders."""
    return OnlineStoreError(
        f"The online features of {model} are being loaded by another process. Wait until it has ended."
    )


def unknown_scheme(scheme: str) -> OnlineStoreError:
    """Return the error of an address that names no store."""
    return OnlineStoreError(
        f"The online store's scheme {scheme!r} is not known. Set TANDEM_ONLINE_STORE to lmdb://<folder>, "
        "redis://<host>:<port>/<database>, or rediss:// for TLS."
    )


def open_store(uri: str, model: str) -> OnlineStore:
    """Return the store of one model at `lmdb://<folder>`, `redis://` or `rediss://`. Nothing is opened yet.

    `OnlineStoreError` for another scheme, and for an address that cannot be one.
    """
    scheme, _, place = uri.partition("://")
    if scheme == "lmdb" and place:
        from backends.lmdb_store import LmdbStore

        return LmdbStore(Path(place), model)
    if scheme in ("redis", "rediss"):
        from backends.redis_store.address import Address
        from backends.redis_store.store import RedisStore

        return RedisStore(Address.parse(uri), model)
    raise unknown_scheme(scheme)
