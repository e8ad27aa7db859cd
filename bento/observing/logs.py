"""What a service writes to stderr: JSON by setting, one line an event; and by setting a line for a request.

A line never has the key or a feature of a request, nor an error's message, which may quote them: it has the request's
id, and the request log (`request_log`) the rest. Lines are written by a thread; when it cannot keep up, they are
dropped and counted.
"""

import json
import logging
import queue
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from backends.settings import Settings

MAX_LINES = 10_000  # waiting to be written
LOGGERS = ("", "bentoml", "uvicorn.error", "circus")  # those that BentoML gives handlers of its own


class JsonLines(logging.Formatter):
    """Writes a record of any logger as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str)


def configure(settings: Settings) -> None:
    """Make every logger of this process write as the settings say."""
    if settings.log_format != "json":
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler] if not name or not logger.propagate else []


class AccessLog:
    """A line for a request, where the settings ask for it. `dropped` counts those for which there was no room."""

    def __init__(self, settings: Settings, write: Callable[[str], Any] | None = None) -> None:
        self._which = settings.access_log
        self._share = settings.access_log_sample
        self._json = settings.log_format == "json"
        self._write = write or _to_stderr
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(MAX_LINES)
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        """Begin to write, if there is anything to be written."""
        if self._which != "none":
            self._thread.start()

    def wants(self, status: int) -> bool:
        """Say whether a request with this status is to have a line: errors all, others a share of them."""
        if self._which == "none":
            return False
        if status >= 400:
            return True
        return self._which == "all" and (self._share >= 1 or random.random() < self._share)  # noqa: S311  # no secret

    def add(self, request_id: str, protocol: str, status: int, ms: float, rows: int, errors: str | None) -> None:
        """Write a line soon; never blocks."""
        facts = {"at": time.time(), "request_id": request_id, "protocol": protocol, "status": status}
        facts |= {"ms": ms, "rows": rows, "errors": errors}
        try:
            self._lines.put_nowait(facts)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits."""
        if self._thread.is_alive():
            self._lines.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (facts := self._lines.get()) is not None:
            self._write(self._line(facts))

    def _line(self, facts: dict[str, Any]) -> str:
        at = datetime.fromtimestamp(facts.pop("at"), UTC).isoformat(timespec="milliseconds")
        if self._json:
            level = "error" if facts["status"] >= 500 else "warning" if facts["status"] >= 400 else "info"
            head = {"time": at, "level": level, "logger": "tandem.access", "message": "request"}
            return json.dumps({**head, **facts})
        return " ".join([at, "request", *(f"{name}={value}" for name, value in facts.items() if value is not None)])


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
