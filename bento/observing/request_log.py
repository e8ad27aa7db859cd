"""A declared share of the answered requests, kept for drift and audits in files that an asset carries into Iceberg.

A request hands over references and goes on. A thread writes them through BentoML's monitoring, a moment later. When it
cannot keep up, or there is no room, rows are dropped and counted: an answer never waits for its log.
"""

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

import numpy as np
from bentoml.monitoring import MonitorBase, monitor

from bento.observing.request_files import NoRoomError, RequestFiles
from bento.observing.watch import COLUMNS, Scored
from models.contract import Contract
from models.encoding import Encoded
from models.request_record import Column, category_words, record_columns

MAX_ROWS = 20_000  # waiting to be written
WRITE_SECONDS = 0.5
PIECE_ROWS, PAUSE_SECONDS = 64, 0.001  # between two pieces the thread lets requests run: they share one interpreter

_log = logging.getLogger(__name__)


class Answered(NamedTuple):
    """The rows of one request, as they were scored."""

    protocol: str
    request_id: str
    at: float  # seconds since 1970
    scored: Scored

    def pieces(self) -> Iterator["Answered"]:
        """Cut into pieces of a few rows."""
        for start in range(0, len(self.scored.rows), PIECE_ROWS):
            part = slice(start, start + PIECE_ROWS)
            columns = {name: getattr(self.scored, name)[part] for name in (*COLUMNS, "rows")}
            yield self._replace(scored=self.scored._replace(**columns))


class RequestLog:
    """The request log of one worker. `count(outcome, rows)` is told what became of the rows.

    Outcomes: `written`, `dropped` (no room in memory or in the folder), `failed` (the disk refused).
    """

    def __init__(
        self,
        contract: Contract,
        version: str,
        sha256: str,
        sample: float,
        files: RequestFiles,
        count: Callable[[str, int], None],
    ) -> None:
        self._sample = sample
        self._name = f"{contract.output}:{uuid.uuid4().hex}"  # BentoML keeps a monitor by its name as long as it runs
        self._values = _Values(contract, version, sha256)
        self._files = files
        self._count = count
        self._lock = threading.Lock()
        self._waiting: list[Answered] = []
        self._waiting_rows = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)

    def start(self) -> Self:
        """Begin to write, in a thread of its own, if there will be anything to be written."""
        if self._sample > 0:
            self._thread.start()
        return self

    def wants(self) -> bool:
        """Draw whether a request is one of the sample."""
        return self._sample > 0 and random.random() < self._sample  # noqa: S311  # no secret

    def offer(self, answered: Answered) -> None:
        """Take the rows of a request, or drop and count them when too many wait already. Never blocks."""
        rows = len(answered.scored.rows)
        with self._lock:
            full = self._waiting_rows + rows > MAX_ROWS
            if not full:
                self._waiting.append(answered)
                self._waiting_rows += rows
        if full:
            self._count("dropped", rows)

    def close(self) -> None:
        """Write what waits and finish the file."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._write()
        self._files.finish()

    def _run(self) -> None:
        while not self._stopped.wait(WRITE_SECONDS):
            self._write()
            self._files.finish_when_due()

    def _write(self) -> None:
        with self._lock:
            waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        if waiting:
            self._count(self._outcome(waiting), sum(len(answered.scored.rows) for answered in waiting))

    def _outcome(self, waiting: list[Answered]) -> str:
        try:
            since = 0
            for piece in (piece for answered in waiting for piece in answered.pieces()):
                self._record(piece)
                since += len(piece.scored.rows)
                if since >= PIECE_ROWS:
                    time.sleep(PAUSE_SECONDS)
                    since = 0
            self._files.flush()
        except NoRoomError as error:
            _log.warning("Requests are not logged: %s", error)
            return "dropped"
        except OSError as error:
            self._files.abandon()
            _log.error("Requests cannot be logged: %s. Make room, or mend the folder; they are answered.", error)
            return "failed"
        return "written"

    def _record(self, piece: Answered) -> None:
        """Hand a few rows to BentoML's monitor."""
        with monitor(self._name, _FileMonitor, {"files": self._files}) as record:
            for column, values in zip(self._values.columns, self._values.of(piece), strict=True):
                record.log_batch(values, column.name, column.role, column.kind)


class _FileMonitor(MonitorBase[Any]):  # type: ignore[misc]  # BentoML is untyped here
    """BentoML's monitor with files of ours behind it; its own append to one file that is never complete."""

    def __init__(self, name: str, files: RequestFiles) -> None:
        super().__init__(name)
        self._files = files
        self.start_record()

    def start_record(self) -> None:
        """Begin a few rows."""
        self._columns: list[Column] = []
        self._batches: list[Sequence[Any]] = []

    def log_batch(self, data_batch: Sequence[Any], name: str, role: Any, data_type: Any) -> None:
        """Take one column of them."""
        self._columns.append(Column(name, role, data_type))
        self._batches.append(data_batch)

    def stop_record(self) -> None:
        """Write them."""
        self._files.write(self._columns, zip(*self._batches, strict=True))


class _Values:
    """Turns what was scored into columns of plain values, in the order of `record_columns`."""

    def __init__(self, contract: Contract, version: str, sha256: str) -> None:
        self.columns = record_columns(contract)
        words = {name: category_words(category) for name, category in contract.categories.items()}
        numbers, categories = list(contract.numbers), list(contract.categories)
        self._numbers = {name: numbers.index(name) for name in numbers}
        self._categories = {name: (categories.index(name), words[name]) for name in categories}
        self._features = list(contract.features)
        self._version = int(version) if version.isdecimal() else None
        self._sha256 = sha256

    def of(self, piece: Answered) -> list[Sequence[Any]]:
        """Return the values of each column."""
        scored, rows = piece.scored, len(piece.scored.rows)
        at = datetime.fromtimestamp(piece.at, UTC).isoformat(timespec="microseconds")
        times = np.array(scored.event_times, np.int64).astype("datetime64[ms]")
        return [
            scored.keys,
            *self._events(scored),
            [at] * rows,
            [piece.request_id] * rows,
            scored.positions,
            [piece.protocol] * rows,
            scored.scores,
            scored.decisions,
            [None if text == "NaT" else text for text in np.datetime_as_string(times, timezone="UTC").tolist()],
            scored.stale,
            [self._version] * rows,
            [self._sha256] * rows,
            *(self._feature(name, scored.rows) for name in self._features),
        ]

    def _events(self, scored: Scored) -> list[Sequence[Any]]:
        """Return the events' own columns, where the model has events."""
        if not scored.happened:
            return []
        happened = np.array(scored.happened, np.int64).astype("datetime64[us]")
        return [scored.events, np.datetime_as_string(happened, timezone="UTC").tolist()]

    def _feature(self, name: str, rows: Encoded) -> list[Any]:
        if name in self._numbers:
            return [None if value != value else value for value in rows.numbers[:, self._numbers[name]].tolist()]
        column, words = self._categories[name]
        return [words[code] for code in rows.categories[:, column].tolist()]
