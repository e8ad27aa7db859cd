"""The embedded online store: LMDB, one folder a model, no server."""

import contextlib
import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb
import numpy as np
import numpy.typing as npt

from backends.online_store import (
    Batch,
    LoadReport,
    OnlineStore,
    Vectors,
    facts_of,
    generation_name,
    loading_elsewhere,
    nothing_loaded,
)
from backends.vector_spool import refuse_repeated, spooled
from backends.vectors import Key, pack_key, packed_keys, unpack
from models.contract import Contract

ROWS_PER_COMMIT = 131_072  # about 12 MB: keeps the writer's memory flat, and costs no time
LOOK_EVERY_SECONDS = 0.1  # how soon a reader notices a new generation

HISTORIES = "histories-"  # how the folders of `lmdb_histories` begin, in the same home; a load leaves them alone
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
        folder = self._home / generation_name(loaded_at)
        with alone(self._home, self.model):
            try:
                folder.mkdir()
                rows = _write_vectors(folder, contract, batches)
                facts = facts_of(contract, loaded_at, rows, properties)
                _write_synced(folder / PROPERTIES, json.dumps(facts, indent=2))
                sync_folder(folder)
                _write_synced(self._home / f"{POINTER}.new", folder.name)
                (self._home / f"{POINTER}.new").replace(self._home / POINTER)
                sync_folder(self._home)
            finally:
                self._remove_all_but_current()
        size = sum(file.stat().st_size for file in folder.iterdir())
        return LoadReport(rows, size, time.perf_counter() - started, folder.name)

    def _remove_all_but_current(self) -> None:
        try:
            current = (self._home / POINTER).read_text()
        except FileNotFoundError:
            current = ""
        for folder in self._home.iterdir():
            if folder.is_dir() and folder.name != current and not folder.name.startswith(HISTORIES):
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
        raise nothing_loaded(self.model) from failure


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
    with spooled(contract, batches, folder) as rows:
        order = np.argsort(rows.keys, kind="stable")
        keys = rows.keys[order]
        refuse_repeated(contract, keys)
        _write_sorted(folder / DATA, keys, rows.vectors, order)
    return len(keys)


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


@contextlib.contextmanager
def alone(home: Path, model: str) -> Iterator[None]:
    """Hold the lock of a model's loaders; the kernel drops it with the process, however that ends."""
    with (home / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise loading_elsewhere(model) from error
        yield


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
