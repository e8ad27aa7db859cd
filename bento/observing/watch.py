"""The notes of one request: when each stage ended, what was scored, what went wrong. `watcher` reads them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from backends.vectors import Key
from models.encoding import Encoded

# of `Scored`, beside the rows
COLUMNS = ("positions", "keys", "event_times", "stale", "scores", "decisions", "events", "happened")


class Scored(NamedTuple):
    """The rows that a request let score, by reference. Times are milliseconds since 1970 UTC."""

    positions: Sequence[int]  # in the request
    keys: Sequence[Key | None]
    rows: Encoded
    event_times: Sequence[int]  # int64's smallest when unknown, and for features that were sent
    stale: Sequence[bool]
    scores: Sequence[float]
    decisions: Sequence[bool]
    now: int
    events: Sequence[Key | None] = ()  # of a model of events: their keys
    happened: Sequence[int] = ()  # and when they did, microseconds since 1970 UTC

    def fresh(self) -> "Scored":
        """Leave out the rows with stale features."""
        if not any(self.stale):
            return self
        kept = [row for row, stale in enumerate(self.stale) if not stale]
        columns: dict[str, Any] = {
            name: [values[row] for row in kept] for name in COLUMNS if (values := getattr(self, name))
        }
        return self._replace(rows=self.rows[np.array(kept, np.int64)], **columns)


class Watch:
    """Made when a request comes; a mark ends a stage. Costs a microsecond for all of a request."""

    __slots__ = ("begun", "errors", "marks", "request_id", "scored")

    def __init__(self, request_id: str = "") -> None:
        self.request_id = request_id
        self.begun = time.perf_counter_ns()
        self.marks: list[tuple[str, int]] = []
        self.errors: list[str] = []
        self.scored: Scored | None = None

    def mark(self, stage: str) -> None:
        """Say that a stage is over."""
        self.marks.append((stage, time.perf_counter_ns()))

    def failed(self, answer: Mapping[str, Any]) -> None:
        """Note an answer, to the request or to one of its rows, that is an error: the `type` in its body."""
        self.errors.append(answer["error"]["type"])
