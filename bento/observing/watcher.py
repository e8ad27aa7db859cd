"""What happens to requests, told to everything that watches a service: metrics, traces, the logs."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from backends.settings import Settings
from backends.vectors import NOT_A_TIME
from bento.lineage import Lineage
from bento.observing.logs import AccessLog
from bento.observing.metrics import Metrics
from bento.observing.request_files import RequestFiles
from bento.observing.request_log import Answered, RequestLog
from bento.observing.watch import Scored, Watch
from models.contract import Contract
from models.request_record import REPLAY

if TYPE_CHECKING:
    from bento.observing.tracing import Tracing

REST, OIP_REST, OIP_GRPC = "rest", "oip_rest", "oip_grpc"

Headers = Iterable[tuple[Any, Any]]  # names in lower case, bytes or text


class Watcher:
    """Everything that watches one worker. `start` and `close` belong to the worker's life."""

    def __init__(self, contract: Contract, lineage: Lineage, settings: Settings) -> None:
        self._lineage = lineage
        self._settings = settings
        self._refuses_stale = contract.api.stale_features == "refuse"
        self.metrics = Metrics(lineage, {"precision": contract.precision})
        self._access = AccessLog(settings)
        sample = contract.api.log_sample if settings.request_log_sample is None else settings.request_log_sample
        files = RequestFiles(settings.request_log_of(contract.model), settings.request_log_megabytes * 1_000_000)
        self._requests = RequestLog(contract, lineage.version, lineage.sha256, sample, files, self.metrics.logged)
        self._tracing: Tracing | None = None

    def start(self) -> Self:
        """Begin to count, to write and to send, each in a thread of its own.

        `TandemError` when traces are to be sent and the package that sends them is not installed.
        """
        if self._settings.traces:
            from bento.observing.tracing import Tracing  # OpenTelemetry is imported where it is asked for

            self._tracing = Tracing.open(self._settings, self._lineage)
        self.metrics.start()
        self._access.start()
        self._requests.start()
        return self

    def close(self) -> None:
        """Count, write and send what waits; to be called when the last request is answered."""
        self._requests.close()
        self._access.close()
        if self._tracing is not None:
            self._tracing.close()
        self.metrics.close()

    def answered(self, watch: Watch, protocol: str, status: int, headers: Headers = ()) -> None:
        """Take the notes of a request whose answer is out. `headers` may have the caller's `traceparent`."""
        now, last = time.perf_counter_ns(), watch.begun
        self.metrics.request(protocol, status, (now - last) / 1e9)
        if watch.scored is not None:
            watch.marks.append(("reply", now))
            self._take(watch.scored, protocol, status, watch.request_id)
        for stage, at in watch.marks:
            self.metrics.observe(stage, (at - last) / 1e9)
            last = at
        for kind in watch.errors:
            self.metrics.error(kind)
        if self._tracing is not None:
            self._trace(self._tracing, watch, now, {"protocol": protocol, "status": status}, headers)
        if self._access.wants(status):
            milliseconds, kinds = round((now - watch.begun) / 1e6, 3), ",".join(sorted(set(watch.errors))) or None
            self._access.add(watch.request_id, protocol, status, milliseconds, _rows(watch), kinds)

    def refused(self, protocol: str, status: int) -> None:
        """Count a request that was refused before the model was asked."""
        self.metrics.request(protocol, status)

    def _take(self, scored: Scored, protocol: str, status: int, request_id: str) -> None:
        self.metrics.feature_ages((scored.now - at) / 1e3 for at in scored.event_times if at != NOT_A_TIME)
        if status >= 400:  # one bad row fails all of a request in the Open Inference Protocol
            return
        answered = scored.fresh() if self._refuses_stale else scored  # the others were refused for their age
        self.metrics.scores(answered.scores)
        if answered.scores and request_id != REPLAY and self._requests.wants():
            self._requests.offer(Answered(protocol, request_id, time.time(), answered))

    def _trace(self, tracing: "Tracing", watch: Watch, now: int, facts: dict[str, Any], headers: Headers) -> None:
        to_wall_clock = time.time_ns() - now
        marks = [(stage, at + to_wall_clock) for stage, at in watch.marks]
        facts |= {"request_id": watch.request_id, "rows": _rows(watch)}
        error = watch.errors[0] if watch.errors and facts["status"] >= 400 else None
        tracing.record(watch.begun + to_wall_clock, marks, now + to_wall_clock, facts, headers, error)


def _rows(watch: Watch) -> int:
    return len(watch.scored.positions) if watch.scored else 0
