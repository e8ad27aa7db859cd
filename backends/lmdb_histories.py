"""Histories in LMDB: one folder a model, no server, several processes beside each other.

    <folder>/<model>/histories-<layout>/live.mdb      the records; what is written is seen by every process at once
                                        base.mdb      a copy of them as the last load left them
                                        journal-*     every event since then: see `backends.history_journal`
                                        boot          the start of the machine since which `live.mdb` is written

An event is one write transaction of some 20 us that does not wait for the disk: a sync takes 4 ms, and every hundredth
8 to 11 ms, of an answer's 15. LMDB without syncs survives the end of any process, but not that of the machine, which
may leave it corrupt. So after a start of the machine `live.mdb` is not believed: whoever opens the folder first makes
it anew, from the copy and the journals, which are synced every second.
"""

import contextlib
import fcntl
import json
import os
import shutil
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self, TypeAlias
from weakref import WeakValueDictionary

import lmdb

from backends.histories import (
    HistoryStore,
    Lake,
    Remembered,
    Seeded,
    Span,
    appended,
    forgettable,
    is_of,
    loaded_facts,
    merged,
    not_loaded,
    remembered,
)
from backends.history_journal import Journal, journaled, journals, number_of
from backends.lmdb_store import HISTORIES, alone, sync_folder
from backends.vectors import Key, pack_key
from models.contract import Contract
from models.errors import StoreUnavailableError
from models.history import Events, History, pack, unpack

LIVE, BASE, BOOT = "live.mdb", "base.mdb", "boot"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MOST_BYTES = 2**38  # of address space; the file takes what it needs
AT_ONCE = 32  # events of a request in one transaction
LOADED_AT_ONCE = 8  # records of a load in one transaction: requests wait for half a millisecond
PAUSE_SECONDS = 0.0001  # between two transactions of a load: LMDB's lock is not fair
SCANNED = 4096
STATE, PROPERTIES = b"\0state", b"\0properties"  # no entity's keys: integers have 8 bytes, texts no NUL

Transaction: TypeAlias = "lmdb.Transaction[bytes]"


class _State(NamedTuple):
    """What every transaction begins with."""

    span: Span  # of the last load that was finished; its name is 0 before the first
    journal: int  # the number that is written to

    @classmethod
    def of(cls, transaction: Transaction) -> Self:
        packed = transaction.get(STATE)
        *span, journal = _PACKED.unpack(packed) if packed else (0, 0, 0, 0)
        return cls(Span(*span), journal)

    def write(self, transaction: Transaction) -> None:
        transaction.put(STATE, _PACKED.pack(*self.span, self.journal))


_PACKED = struct.Struct("<qqqq")


class LmdbHistories(HistoryStore):
    """See the module."""

    def __init__(self, folder: Path, contract: Contract) -> None:
        super().__init__(contract)
        self._home = folder / contract.model
        self._folder = self._home / f"{HISTORIES}{self.layout}"
        self._live: _Live | None = None

    def fetch_and_append(self, entities: Sequence[Key], events: Events, record: Sequence[bool]) -> list[Remembered]:
        """See `HistoryStore`."""
        keys = [pack_key(self.contract, entity) for entity in entities]
        found: list[Remembered] = []
        with self._translated():
            live = self._opened()
            for start in range(0, len(keys), AT_ONCE):
                part = slice(start, start + AT_ONCE)
                found += self._step(live, keys[part], events[part], record[part])
        return found

    def describe(self) -> dict[str, str]:
        """See `HistoryStore`."""
        with self._translated(), self._opened().environment.begin() as transaction:
            self._loaded(transaction)
            facts: dict[str, str] = json.loads(transaction.get(PROPERTIES) or b"{}")
            return facts

    def load(self, lake: Iterable[Lake], span: Span, properties: Mapping[str, str]) -> Seeded:
        """See `HistoryStore`. Needs room for a second copy of the records."""
        started = time.perf_counter()
        self._folder.mkdir(parents=True, exist_ok=True)
        with alone(self._home, self.model):
            live = self._opened()
            number = live.turn()
            entities, rows = self._merge(live, lake, span)
            self._sweep(live, span)
            facts = loaded_facts(self, span, properties) | {"entities": str(entities), "rows": str(rows)}
            live.finish(_State(span, number), facts)
            size = live.copy()
            for journal in journals(self._folder):
                if number_of(journal) < number:
                    journal.unlink()
            self._forget_others()
        return Seeded(entities, rows, size, time.perf_counter() - started)

    # --- requests ---------------------------------------------------------------------------------------------------

    def _step(self, live: "_Live", keys: Sequence[bytes], events: Events, record: Sequence[bool]) -> list[Remembered]:
        """Look up and append in one transaction; a journal that cannot be written leaves nothing behind."""
        history, found, entries = self.history, [], []
        with live.environment.begin(write=any(record)) as transaction:
            state = self._loaded(transaction)
            for i, key in enumerate(keys):
                data = transaction.get(key)
                found.append(remembered(history, data, state.span))
                if record[i] and (grown := appended(history, data, events[i : i + 1], state.span)) is not None:
                    transaction.put(key, grown)
                    entries.append((key, pack(events[i : i + 1])))
            if entries:
                live.journal.write(state.journal, entries)
        return found

    def _loaded(self, transaction: Transaction) -> _State:
        state = _State.of(transaction)
        if not state.span.load:
            raise not_loaded(self, self._layouts())
        return state

    def _layouts(self) -> list[str]:
        return [f.name.removeprefix(HISTORIES) for f in self._home.glob(f"{HISTORIES}*") if (f / BASE).exists()]

    def _opened(self) -> "_Live":
        """Open the folder if that was not done yet."""
        if self._live is None:
            if not self._folder.is_dir():
                raise not_loaded(self, self._layouts())
            self._live = _Live.of(self._folder, self.history)
        return self._live

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Say what is wrong with the folder in our words, which may be shown to anybody."""
        try:
            yield
        except (OSError, lmdb.Error) as error:
            raise StoreUnavailableError(
                f"The histories of {self.model} cannot be read and written: {type(error).__name__}. Check that there "
                "is room in the folder that TANDEM_ONLINE_STORE names, and that it can be written to."
            ) from error

    # --- a load -----------------------------------------------------------------------------------------------------

    def _merge(self, live: "_Live", lake: Iterable[Lake], span: Span) -> tuple[int, int]:
        entities, rows, coming = 0, 0, iter(lake)
        while some := list(islice(coming, LOADED_AT_ONCE)):
            with live.environment.begin(write=True) as transaction:
                for entity, events, since in some:
                    self._put(transaction, pack_key(self.contract, entity), events, since, span)
            entities, rows = entities + len(some), rows + sum(len(one.events) for one in some)
            time.sleep(PAUSE_SECONDS)
        return entities, rows

    def _sweep(self, live: "_Live", span: Span) -> None:
        """Take the past from entities that the lake has no more."""
        nothing, after = unpack(self.history, b""), b""
        while True:
            stale, last = _stale(live.environment, after, span)
            for start in range(0, len(stale), LOADED_AT_ONCE):
                with live.environment.begin(write=True) as transaction:
                    for key in stale[start : start + LOADED_AT_ONCE]:
                        self._put(transaction, key, nothing, span.since, span)
                time.sleep(PAUSE_SECONDS)
            if last is None:
                return
            after = last

    def _put(self, transaction: Transaction, key: bytes, events: Events, since: int, span: Span) -> None:
        record = merged(self.history, transaction.get(key), events, since, span)
        if record is None:
            transaction.delete(key)
        else:
            transaction.put(key, record)

    def _forget_others(self) -> None:
        for folder in self._home.glob(f"{HISTORIES}*"):
            loaded_at = folder / "loaded_at"
            if folder != self._folder and loaded_at.exists() and forgettable(loaded_at.read_text()):
                shutil.rmtree(folder)


def _stale(environment: lmdb.Environment, after: bytes, span: Span) -> tuple[list[bytes], bytes | None]:
    """Return the next keys that were not part of a load, and where to go on; None at the end."""
    with environment.begin() as transaction, transaction.cursor() as cursor:
        if not cursor.set_range(after + b"\0" if after else b""):
            return [], None
        some = list(islice(cursor, SCANNED))
    stale = [key for key, record in some if key not in (STATE, PROPERTIES) and not is_of(record, span)]
    return stale, some[-1][0] if len(some) == SCANNED else None


class _Live:
    """An open folder, shared by all stores of this process: LMDB refuses to open a file twice."""

    def __init__(self, folder: Path, environment: lmdb.Environment) -> None:
        self.folder = folder
        self.environment = environment
        self.journal = Journal(folder)

    @classmethod
    def of(cls, folder: Path, history: History) -> "_Live":
        """Return what this process has open, or open it, made anew after a start of the machine."""
        with _OPENING:
            live = _OPEN.get(folder)
            if live is None:
                with (folder / "opening").open("w") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    _believe(folder, history)
                    live = cls(folder, _environment(folder / LIVE))
                _OPEN[folder] = live
            return live

    def turn(self) -> int:
        """Begin a new number of journals, for every process; return it."""
        with self.environment.begin(write=True) as transaction:
            state = _State.of(transaction)
            state = state._replace(journal=state.journal + 1)
            state.write(transaction)
        return state.journal

    def finish(self, state: _State, facts: Mapping[str, str]) -> None:
        """Say that a load is done."""
        with self.environment.begin(write=True) as transaction:
            transaction.put(PROPERTIES, json.dumps(facts).encode())
            state.write(transaction)
        (self.folder / "loaded_at").write_text(facts["loaded_at"])

    def copy(self) -> int:
        """Replace the copy by one of now; return its size in bytes."""
        new = self.folder / f"{BASE}.new"
        with new.open("wb") as file:
            self.environment.copyfd(file.fileno(), compact=True)
            os.fsync(file.fileno())
        new.replace(self.folder / BASE)
        sync_folder(self.folder)
        return (self.folder / BASE).stat().st_size


_OPEN: WeakValueDictionary[Path, _Live] = WeakValueDictionary()
_OPENING = threading.Lock()


def _environment(path: Path) -> lmdb.Environment:
    """Open or make a file. Where the starts of the machine have no names, it is synced with every event."""
    quick = BOOT_ID.exists()
    return lmdb.open(str(path), subdir=False, map_size=MOST_BYTES, sync=not quick, metasync=not quick, readahead=False)


def _believe(folder: Path, history: History) -> None:
    """Make `live.mdb` anew unless it was written since the machine's last start, and by processes alone."""
    now = BOOT_ID.read_text() if BOOT_ID.exists() else ""
    boot, live = folder / BOOT, folder / LIVE
    if live.exists() and boot.exists() and boot.read_text() == now:
        return
    live.unlink(missing_ok=True)
    if (folder / BASE).exists():
        new = folder / f"{LIVE}.new"
        shutil.copyfile(folder / BASE, new)
        with _environment(new) as environment:
            _replay(folder, environment, history)
            environment.sync(True)
        Path(f"{new}-lock").unlink(missing_ok=True)
        new.replace(live)
    boot.write_text(now)
    sync_folder(folder)


def _replay(folder: Path, environment: lmdb.Environment, history: History) -> None:
    """Add what was recorded since the copy."""
    with environment.begin(write=True) as transaction:
        state = _State.of(transaction)
        for journal in journals(folder):
            if number_of(journal) < state.journal:
                continue
            for key, event in journaled(journal):
                grown = appended(history, transaction.get(key), unpack(history, event), state.span)
                if grown is not None:
                    transaction.put(key, grown)
