"""A load into Redis: alone, beside readers, and all or nothing.

Every write is a transaction that Redis only carries out while the loader's lock is ours, so a loader that was thought
dead cannot do harm when it wakes up, nor a command that was still on its way when its line broke. Readers see none of
it until the pointer moves. What a killed loader leaves is in the hash of generations, and the next one removes it.
"""

import contextlib
import itertools
import json
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from backends.online_store import Batch, LoadReport, facts_of, generation_name, loading_elsewhere
from backends.redis_store.address import Address, Command
from backends.redis_store.failures import explained
from backends.redis_store.layout import (
    ENTITIES_PER_BUCKET,
    Generation,
    bucket,
    generations_of,
    loader_of,
    pointer_of,
)
from backends.redis_store.wire import BlockingLine, LostError, RefusedError
from backends.vector_spool import Spooled, refuse_repeated, spooled
from models.contract import Contract
from models.errors import OnlineStoreError

CONNECT_SECONDS = 5.0
READ_SECONDS = 20.0
TIDY_SECONDS = 5.0  # for what the next load would do as well
LOCK_SECONDS = 10.0  # how long a killed loader keeps the next one waiting; renewed five times as often
BUCKETS_AT_ONCE = 256  # about 200 kB: other clients wait for less than a millisecond
KEYS_AT_ONCE = 1 << 17


class Loader:
    """Loads one model's vectors. Used once."""

    def __init__(self, address: Address, model: str) -> None:
        self._address = address
        self._model = model
        self._lock = loader_of(model)
        self._token = secrets.token_hex(16).encode()

    def load(self, contract: Contract, batches: Iterable[Batch], properties: Mapping[str, str]) -> LoadReport:
        """See `OnlineStore.load`."""
        started, loaded_at = time.perf_counter(), datetime.now(UTC)
        with self._translated(), self._line() as line, self._alone(line):
            self._refuse_eviction(line)
            self._sweep(line)
            with spooled(contract, batches) as loaded:
                refuse_repeated(contract, np.sort(loaded.keys))
                rows = len(loaded.keys)
                generation = Generation(self._model, generation_name(loaded_at), -(-rows // ENTITIES_PER_BUCKET))
                with self._whole(line):
                    size = self._write(line, generation, loaded)
                    facts = facts_of(contract, loaded_at, rows, properties)
                    self._switch(line, generation, json.dumps(facts))
        return LoadReport(rows, size, time.perf_counter() - started, generation.name)

    @contextlib.contextmanager
    def _whole(self, line: BlockingLine) -> Iterator[None]:
        """Keep one generation in the end: the new one, or after a failure the old one."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(LostError, RefusedError, OnlineStoreError), self._line(TIDY_SECONDS) as another:
                self._sweep(another)
            raise
        self._sweep(line)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (LostError, RefusedError) as failure:
            raise explained(self._model, failure) from failure

    @contextlib.contextmanager
    def _line(self, read_seconds: float = READ_SECONDS) -> Iterator[BlockingLine]:
        line = BlockingLine(self._address, CONNECT_SECONDS, read_seconds)
        try:
            yield line
        finally:
            line.close()

    # --- the lock ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self, line: BlockingLine) -> Iterator[None]:
        """Hold the lock, renewed by a thread whatever the batches wait for."""
        self._acquire(line)
        done = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(done,), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()
            with contextlib.suppress(LostError, RefusedError, OnlineStoreError), self._line(TIDY_SECONDS) as another:
                self._fenced(another, ("DEL", self._lock))

    def _acquire(self, line: BlockingLine) -> None:
        """Take the lock. One that nobody renews any more is waited for; one that somebody does is respected."""
        least = None
        while line.ask(("SET", self._lock, self._token, "NX", "PX", self._lock_ms))[0] is None:
            left = line.ask(("PTTL", self._lock))[0]
            if left == -1 or (least is not None and left > least):
                raise loading_elsewhere(self._model)
            least = left if left >= 0 else least
            time.sleep(LOCK_SECONDS / 20)

    def _renew(self, done: threading.Event) -> None:
        # What goes wrong here goes wrong for the next write too, which reports it.
        with contextlib.suppress(LostError, RefusedError, OnlineStoreError), self._line() as line:
            while not done.wait(LOCK_SECONDS / 5):
                self._fenced(line)

    def _fenced(self, line: BlockingLine, *commands: Command) -> list[Any]:
        """Carry out commands in one transaction while the lock is ours, which renews it; return their answers."""
        while True:
            _, holder = line.ask(("WATCH", self._lock), ("GET", self._lock))
            if holder != self._token:
                raise OnlineStoreError(
                    f"The load of {self._model}'s online features stood still for longer than {LOCK_SECONDS:g} seconds "
                    "and gave way to another one. Materialize it again when that one has ended."
                )
            *_, answers = line.ask(("MULTI",), ("PEXPIRE", self._lock, self._lock_ms), *commands, ("EXEC",))
            if answers is not None:  # else the lock was renewed by the other thread, or lost
                return list(answers[1:])

    @property
    def _lock_ms(self) -> int:
        return round(LOCK_SECONDS * 1000)

    # --- vectors ----------------------------------------------------------------------------------------------------

    def _write(self, line: BlockingLine, generation: Generation, loaded: Spooled) -> int:
        """Write all buckets; return the bytes of their names and contents."""
        self._fenced(line, ("HSET", generations_of(self._model), generation.name, generation.buckets))
        size = 0
        for words in _buckets(generation, loaded):
            self._fenced(line, ("MSET", *words))
            size += sum(map(len, words))
        return size

    def _switch(self, line: BlockingLine, generation: Generation, properties: str) -> None:
        pointer = ("SET", pointer_of(self._model), generation.pointer)
        self._fenced(line, ("SET", generation.properties, properties), pointer)

    def _sweep(self, line: BlockingLine) -> None:
        """Remove every generation but the current one, some buckets at a time."""
        pointer, known = self._fenced(line, ("GET", pointer_of(self._model)), ("HGETALL", generations_of(self._model)))
        for name, buckets in zip(known[::2], known[1::2], strict=True):
            old = Generation(self._model, name.decode(), int(buckets))
            if old.pointer == pointer:
                continue
            for start in range(0, old.buckets, BUCKETS_AT_ONCE):
                line.ask(("UNLINK", *map(old.bucket, range(start, min(start + BUCKETS_AT_ONCE, old.buckets)))))
            line.ask(("UNLINK", old.properties), ("HDEL", generations_of(self._model), name))

    def _refuse_eviction(self, line: BlockingLine) -> None:
        """Refuse a Redis that drops any key when it is full: its entities would be unknown, without an error."""
        try:
            (text,) = line.ask(("INFO", "memory"))
        except RefusedError:  # not every user may ask
            return
        facts = dict(row.split(":", 1) for row in text.decode().split("\r\n") if ":" in row)
        policy = facts.get("maxmemory_policy", "")
        if policy.startswith("allkeys") and facts.get("maxmemory") != "0":
            raise OnlineStoreError(
                f"Redis drops vectors when it is full: its maxmemory-policy is {policy}. Set it to noeviction, "
                "or keep the online features in a Redis of their own."
            )


def _buckets(generation: Generation, loaded: Spooled) -> Iterator[list[bytes]]:
    """Yield names and contents of all buckets that are not empty, some at a time."""
    numbers = _bucket_numbers(generation, loaded.keys)
    order = np.argsort(numbers, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=generation.buckets))])
    del numbers
    itemsize = loaded.vectors.itemsize
    for first in range(0, generation.buckets, BUCKETS_AT_ONCE):
        bounds = starts[first : first + BUCKETS_AT_ONCE + 1]
        rows = order[bounds[0] : bounds[-1]]
        keys, vectors = _texts(loaded.keys[rows]), loaded.vectors[rows].tobytes()
        edges = (bounds - bounds[0]).tolist()
        words = []
        for number, (start, end) in enumerate(itertools.pairwise(edges), first):
            if start < end:
                content = bucket(keys[start:end], vectors[start * itemsize : end * itemsize])
                words += [generation.bucket(number), content]
        if words:
            yield words


def _bucket_numbers(generation: Generation, keys: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    numbers = np.empty(len(keys), np.uint32)
    for start in range(0, len(keys), KEYS_AT_ONCE):
        part = slice(start, start + KEYS_AT_ONCE)
        numbers[part] = [generation.number_of(key) for key in _texts(keys[part])]
    return numbers


def _texts(keys: npt.NDArray[Any]) -> list[bytes]:
    """Return what `stored_key` does, for an array of sortable keys."""
    return [b"%d" % key for key in keys.tolist()] if keys.dtype == np.int64 else keys.tolist()
