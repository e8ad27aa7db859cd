"""The journal of histories in LMDB: each event that a process has recorded, for after a crash of the machine.

One process writes one file, entry after entry: CRC-32 and length of what follows, the length of the entity's key, the
key, the event. What is written survives the process at once, and the machine after a second, when a thread has synced
it. A file ends where an entry is cut short: that was the last moment. Files are numbered: a load begins a new
number, and removes the smaller ones when their events are in its copy.
"""

import logging
import os
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from backends.lmdb_store import sync_folder

NAME = "journal-"
SYNC_SECONDS = 1.0
FRAME = struct.Struct("<IIH")  # CRC-32 and length of the rest, then the key's length

_log = logging.getLogger(__name__)

Entry = tuple[bytes, bytes]  # an entity's key, and an event


class Journal:
    """The journal of this process in a folder. One thread writes at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = -1
        self._file = -1
        self._size = 0
        self._unsynced: set[int] = set()  # files
        self._ended: set[int] = set()  # files that are to be closed; by the thread that syncs, or in the end
        self._syncing = False
        self._lock = threading.Lock()  # of the three fields above

    def write(self, number: int, entries: Sequence[Entry]) -> None:
        """Append entries to the file of a number; `OSError` when there is no room, then none of them is in it."""
        if number != self._number:
            self._begin(number)
        data = b"".join(map(_framed, entries))
        try:
            if os.write(self._file, data) < len(data):
                raise OSError("the disk is full")
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)
        self._sync_soon()

    def _begin(self, number: int) -> None:
        name = f"{NAME}{number:012d}-{os.getpid()}-{secrets.token_hex(4)}"
        before, self._file = self._file, os.open(self._folder / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o664)
        self._number, self._size = number, 0
        if before >= 0:
            with self._lock:
                self._ended.add(before)

    def _sync_soon(self) -> None:
        with self._lock:
            self._unsynced.add(self._file)
            if not self._syncing:
                self._syncing = True
                threading.Thread(target=self._sync, name="history-journal", daemon=True).start()

    def _sync(self) -> None:
        """Sync what was written, as long as anything is: so a store that nobody asks has no thread."""
        while True:
            time.sleep(SYNC_SECONDS)
            with self._lock:
                files, self._unsynced = self._unsynced, set()
                ended, self._ended = self._ended, set()
                if not (files or ended):
                    self._syncing = False
                    return
            try:
                for file in files:
                    os.fdatasync(file)
                sync_folder(self._folder)
            except OSError as error:
                _log.error("The journal of histories cannot be synced: %s. A crash would lose events.", error)
            for file in ended:
                os.close(file)

    def __del__(self) -> None:
        for file in (*self._ended, self._file):
            if file >= 0:
                os.close(file)


def number_of(journal: Path) -> int:
    """Return a file's number."""
    return int(journal.name.split("-")[1])


def journals(folder: Path) -> list[Path]:
    """Return all files of a folder, in the order of their numbers."""
    return sorted(folder.glob(f"{NAME}*"))


def journaled(journal: Path) -> Iterator[Entry]:
    """Yield the entries of a file, up to the one that was cut short."""
    with journal.open("rb") as file:
        while len(frame := file.read(FRAME.size)) == FRAME.size:
            crc, size, key = FRAME.unpack(frame)
            rest = file.read(size)
            if len(rest) < size or key > size or zlib.crc32(rest) != crc:
                return
            yield rest[:key], rest[key:]


def _framed(entry: Entry) -> bytes:
    key, event = entry
    rest = key + event
    return FRAME.pack(zlib.crc32(rest), len(rest), len(key)) + rest
