"""The files of a request log: one that is written to, and complete ones that wait to be carried away.

A file is locked while it is open, so that a crash can be told from a worker that still writes. Who carries them away is
`backends.request_logs`.
"""

import fcntl
import logging
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import to_json

from models.request_record import FINISHED, OPEN, Column, header

FILE_SECONDS, FILE_BYTES = 300.0, 64 * 1024 * 1024  # a file is finished when it is as old or as large

_log = logging.getLogger(__name__)


class NoRoomError(Exception):
    """The folder is full: nobody carries its files away."""


class RequestFiles:
    """The folder, of which this worker writes one file. No two workers share a file.

    Begins no new file, and raises `NoRoomError`, while those in the folder hold `max_bytes` or more.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._path = folder
        self._begun = 0.0

    def write(self, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> None:
        """Append rows; `OSError` when the disk refuses."""
        file = self._file or self._begin(columns)
        file.write(b"".join(to_json(row) + b"\n" for row in rows))
        if file.tell() >= FILE_BYTES:
            self.finish()

    def flush(self) -> None:
        """Hand to the system what is still in memory; `OSError` when the disk refuses."""
        if self._file:
            self._file.flush()

    def finish_when_due(self) -> None:
        """Finish the file if it is old enough."""
        if self._file and time.monotonic() - self._begun >= FILE_SECONDS:
            self.finish()

    def finish(self) -> None:
        """Make the file complete and give it its final name."""
        file, self._file = self._file, None
        if file:
            try:
                with file:
                    file.flush()
                    os.fsync(file.fileno())
                    self._path.rename(self._path.with_suffix(FINISHED))
            except OSError as error:
                _log.error("%s cannot be finished: %s. It is taken as after a crash.", self._path, error)

    def abandon(self) -> None:
        """Let go of a file that cannot be written; it is taken as after a crash."""
        file, self._file = self._file, None
        if file:
            with suppress(OSError):  # the write that failed has said it
                file.close()

    def _begin(self, columns: Sequence[Column]) -> BinaryIO:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        waiting = sum(map(_size, self.folder.iterdir()))
        if waiting >= self._max_bytes:
            size = f"{waiting / 1e6:.0f} MB in {self.folder} wait to be carried away, and no more are allowed"
            raise NoRoomError(f"{size}. Run the job that carries them into Iceberg, or allow more.")
        self._path = self.folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex}{OPEN}"
        file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        self._file, self._begun = file, time.monotonic()
        file.write(to_json(header(columns)) + b"\n")
        return file


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):  # carried away in this moment
        return path.stat().st_size
    return 0
