"""The online store: one vector per entity, packed and ready to score. LMDB in one folder by default.

A vector is a row of the graph's inputs with the contract's fingerprint and the event time in front, so the service
neither joins nor encodes, and never scores what was packed for another contract. `load` writes a whole generation
beside the old one and switches to it in one step; whoever is reading goes on reading. Arrow and Iceberg do not belong
here: the asset that loads the store hands over NumPy arrays.
"""

import contextlib
import fcntl
import json
import os
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb
import numpy as np
import numpy.typing as npt

from backends.vectors import EventTimes, Key, Keys, pack, pack_key, packed_keys, sortable_keys, unpack, vector_dtype
from models.contract import Contract
from models.encoding import Encoded
from models.errors import (
    EntityNotFoundError,
    OnlineStoreError,
    StoreUnavailableError,
)

ROWS_PER_COMMIT = 131_072  # about 12 MB: keeps the writer's memory flat, and costs no time
LOOK_EVERY_SECONDS = 0.1  # how soon a reader notices a new generation

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

    def __init__(self, model: str) -> None:
        self.model = model

    def get(self, contract: Contract, key: Key) -> Vectors:
        """Return the one vector of an entity; `EntityNotFoundError` when there is none, and as `get_many`."""
        vectors = self.get_many(contract, [key])
        if vectors.missing:
            raise EntityNotFoundError(
                f"No online features for {contract.entity_key} {key!r}. Check the key; a new entity gets its features "
                f"when {self.model}/online_features is next materialized, or send them in the request."
            )
        return vectors

    @abstractmethod
    def get_many(self, contract: Contract, keys: Sequence[Key]) -> Vectors:
        """Return the vectors of some entities, all from one generation.

        `ValueRejectedError` for a key of a wrong type, `StoreUnavailableError` when nothing was loaded yet,
        `StoreMismatchError` when the vectors were packed for another contract.
        """

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


def open_store(uri: str, model: str) -> OnlineStore:
    """Return the store of one model at `lmdb://<folder>`; `OnlineStoreError` for another scheme. Nothing is opened."""
    scheme, _, place = uri.partition("://")
    if scheme != "lmdb" or not place:
        raise OnlineStoreError(
            f"The online store's scheme {scheme!r} is not known. Set TANDEM_ONLINE_STORE to lmdb://<folder>."
        )
    return LmdbStore(Path(place), model)


POINTER = "current"  # names the generation that readers use
DATA = "vectors.mdb"
PROPERTIES = "properties.json"


class LmdbStore(OnlineStore):
    """Vectors in `<folder>/<model>/<generation>/`; the file `current` names the generation. One loader at a time.

    A generation is written once and never changed, so readers need no locks and work on a read-only disk. They follow
    the pointer within 0.1 s; one that still reads a removed generation keeps its mapping, as POSIX promises.
    """

    def __init__(self, folder: Path, model: str) -> None:
        super().__init__(model)
        self._home = folder / model
        self._generation: _Generation | None = None
        self._look_again_at = 0.0
        self._lock = threading.Lock()

    def get_many(self, contract: Contract, keys: Sequence[Key]) -> Vectors:
        """See `OnlineStore`. About 15 us for one key among five million."""
        packed = [pack_key(contract, key) for key in keys]
        with self._current().environment.begin() as transaction:
            found = [transaction.get(key) for key in packed]
        rows, event_times = unpack(contract, [vector for vector in found if vector is not None])
        missing = tuple(i for i, vector in enumerate(found) if vector is None)
        return Vectors(rows, event_times, missing)

    def describe(self) -> dict[str, str]:
        """See `OnlineStore`."""
        return dict(self._current().properties)

    def load(self, contract: Contract, batches: Iterable[Batch], properties: Mapping[str, str]) -> LoadReport:
        """See `OnlineStore`. A load that was killed leaves an unfinished folder; the next one removes it."""
        started = time.perf_counter()
        self._home.mkdir(parents=True, exist_ok=True)
        loaded_at = datetime.now(UTC)
        folder = self._home / f"{loaded_at:%Y%m%dT%H%M%S.%fZ}"
        with self._alone():
            try:
                folder.mkdir()
                rows = _write_vectors(folder, contract, batches)
                facts = {
                    "rows": str(rows),
                    "loaded_at": loaded_at.isoformat(),
                    "contract_fingerprint": contract.fingerprint.hex(),
                    "generation": folder.name,
                }
                _write_synced(folder / PROPERTIES, json.dumps({**properties, **facts}, indent=2))
                _sync(folder)
                _write_synced(self._home / f"{POINTER}.new", folder.name)
                (self._home / f"{POINTER}.new").replace(self._home / POINTER)
                _sync(self._home)
            finally:
                self._remove_all_but_current()
        size = sum(file.stat().st_size for file in folder.iterdir())
        return LoadReport(rows, size, time.perf_counter() - started, folder.name)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the loader's lock; the kernel drops it with the process, however that ends."""
        with (self._home / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OnlineStoreError(
                    f"The online features of {self.model} are being loaded by another process. Wait until it has ended."
                ) from error
            yield

    def _remove_all_but_current(self) -> None:
        try:
            current = (self._home / POINTER).read_text()
        except FileNotFoundError:
            current = ""
        for folder in self._home.iterdir():
            if folder.is_dir() and folder.name != current:
                shutil.rmtree(folder)

    def _current(self) -> "_Generation":
        generation = self._generation
        if generation is None or time.monotonic() >= self._look_again_at:
            with self._lock:
                self._generation = generation = self._look()
                self._look_again_at = time.monotonic() + LOOK_EVERY_SECONDS
        return generation

    def _look(self) -> "_Generation":
        """Open the generation that the pointer names, unless it is open already."""
        for _ in range(3):  # a load may remove the folder between our reading the pointer and opening it
            try:
                name = (self._home / POINTER).read_text()
                known = self._generation
                return known if known and known.folder.name == name else _open_generation(self._home / name)
            except (OSError, lmdb.Error) as error:
                failure = error
        raise StoreUnavailableError(
            f"There are no online features of {self.model}. Materialize {self.model}/online_features, "
            "and check that TANDEM_ONLINE_STORE is the same there and here."
        ) from failure


@dataclass(frozen=True, eq=False)
class _Generation:
    """One open generation."""

    folder: Path
    environment: lmdb.Environment
    properties: dict[str, str]


# LMDB refuses to open a file twice in one process, so its stores share what is open.
_OPEN: WeakValueDictionary[Path, _Generation] = WeakValueDictionary()
_OPENING = threading.Lock()


def _open_generation(folder: Path) -> _Generation:
    with _OPENING:
        generation = _OPEN.get(folder)
        if generation is None:
            properties = json.loads((folder / PROPERTIES).read_text())
            environment = lmdb.open(
                str(folder / DATA), subdir=False, readonly=True, lock=False, create=False, readahead=False
            )
            _OPEN[folder] = generation = _Generation(folder, environment, properties)
        return generation


def _write_vectors(folder: Path, contract: Contract, batches: Iterable[Batch]) -> int:
    """Write a generation's vectors in the order of their keys, which fills every page; return how many there are.

    The vectors wait in a spool file until all keys are known, so memory holds the keys, their order and one chunk.
    """
    spool = folder / "spool"
    keys = _spool(spool, contract, batches)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    _refuse_duplicates(contract, keys)
    vectors = np.memmap(spool, f"V{vector_dtype(contract).itemsize}", "r")
    _write_sorted(folder / DATA, keys, vectors, order)
    spool.unlink()
    return len(keys)


def _spool(path: Path, contract: Contract, batches: Iterable[Batch]) -> npt.NDArray[Any]:
    """Append all vectors to a file as they come; return their keys, sortable."""
    all_keys = []
    with path.open("wb") as file:
        for keys, rows, event_times in batches:
            if not len(keys) == len(rows) == len(event_times):
                raise ValueError(f"A batch has {len(keys)} keys, {len(rows)} rows and {len(event_times)} event times.")
            if len(keys):
                all_keys.append(sortable_keys(contract, keys))
            file.write(pack(contract, rows, event_times).tobytes())
    if not all_keys:
        raise OnlineStoreError(f"There are no rows to load for {contract.model}. Check the population's table.")
    return np.concatenate(all_keys)


def _refuse_duplicates(contract: Contract, keys: npt.NDArray[Any]) -> None:
    """Raise `OnlineStoreError` when a key of the sorted `keys` stands twice."""
    twice = keys[1:][keys[1:] == keys[:-1]]
    if len(twice):
        example = twice[0].decode(errors="replace") if contract.entity_key_type == "string" else int(twice[0])
        raise OnlineStoreError(
            f"{len(twice)} of {len(keys)} rows repeat a {contract.entity_key}, {example!r} for example. "
            "Keep one row per entity in the population's table."
        )


def _write_sorted(path: Path, keys: npt.NDArray[Any], vectors: npt.NDArray[np.void], order: npt.NDArray[Any]) -> None:
    """Write `keys` with `vectors[order]` to a new LMDB file, and sync it."""
    most = 4 * (keys.nbytes + vectors.nbytes) + 2**24  # of address space; the file takes what it needs
    with lmdb.open(str(path), subdir=False, lock=False, map_size=most, sync=False) as environment:
        for start in range(0, len(keys), ROWS_PER_COMMIT):
            rows = slice(start, start + ROWS_PER_COMMIT)
            with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                cursor.putmulti(zip(packed_keys(keys[rows]), vectors[order[rows]].tolist(), strict=True), append=True)
        environment.sync(True)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
