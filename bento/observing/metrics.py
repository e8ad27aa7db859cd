"""What Prometheus sees of a service: requests, errors, latencies by stage, scores, ages of features, and which model.

A request only appends to lists. A thread counts what they hold, once a second and before every scrape, into the values
of prometheus_client, which all workers of a service share. An observation costs 0.05 microseconds so, instead of 3.
"""

import logging
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from bento.lineage import Lineage

STAGES = ("parse", "lookup", "score", "explain", "reply")
PROTOCOLS = ("rest", "oip_rest", "oip_grpc")
OUTCOMES = ("written", "dropped", "failed")  # of rows of the request log
FLUSH_SECONDS = 1.0

# Seconds. BentoML's own start at 5 ms, too coarse for a budget of 15.
LATENCIES = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
SCORES = tuple(round(0.05 * i, 2) for i in range(1, 21))
HOUR = 3600.0
AGES = tuple(HOUR * hours for hours in (1 / 60, 1 / 4, 1, 3, 6, 12, 18, 24, 30, 36, 48, 72, 168))  # seconds

_log = logging.getLogger(__name__)


class Metrics:
    """The measurements of one worker. Safe to use from several threads; every method costs less than a microsecond.

    `start` counts once a second until `close`; without it only a scrape does.
    """

    def __init__(self, lineage: Lineage, facts: dict[str, str] | None = None) -> None:
        self._registry = CollectorRegistry()
        self._of_model = {"model": lineage.model, "model_version": lineage.version}
        self._flushing = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

        self._requests: list[tuple[str, int]] = []
        self._errors: list[str] = []
        self._rows: list[tuple[str, int]] = []
        self._requests_total = self._counter("requests", "Requests answered.", "protocol", "status")
        self._errors_total = self._counter("errors", "Errors answered, one for each row of a batch.", "kind")
        self._rows_total = self._counter("logged_rows", "Rows of the request log, by outcome.", "outcome")
        self._cpu_total = self._counter("cpu_seconds", "CPU time of the workers, from when each could answer.")
        self._cpu_counted = time.process_time()

        durations = self._histogram("request_duration_seconds", "Time in the service.", LATENCIES, "protocol")
        stages = self._histogram("stage_duration_seconds", "Time in one stage of a request.", LATENCIES, "stage")
        self._durations = {name: _Batched(durations.labels(**self._of_model, protocol=name)) for name in PROTOCOLS}
        self._stages = {stage: _Batched(stages.labels(**self._of_model, stage=stage)) for stage in STAGES}
        self._scores = _Batched(self._histogram("score", "Probabilities answered.", SCORES).labels(**self._of_model))
        ages = self._histogram("feature_age_seconds", "Age of the features that came from the online store.", AGES)
        self._ages = _Batched(ages.labels(**self._of_model))

        for outcome in OUTCOMES:
            self._rows_total.labels(**self._of_model, outcome=outcome)  # 0 is not the same as unknown
        self._describe(lineage, facts or {})

    # --- what requests call ---------------------------------------------------------------------------------------

    def observe(self, stage: str, seconds: float) -> None:
        """Take the time of one of `STAGES`."""
        self._stages[stage].add(seconds)

    def request(self, protocol: str, status: int, seconds: float | None = None) -> None:
        """Count a request of one of `PROTOCOLS` by its HTTP status, and take its time."""
        self._requests.append((protocol, status))
        if seconds is not None:
            self._durations[protocol].add(seconds)

    def error(self, kind: str) -> None:
        """Count an error by its class."""
        self._errors.append(kind)

    def scores(self, probabilities: Iterable[float]) -> None:
        """Take the probabilities of a request."""
        self._scores.extend(probabilities)

    def feature_ages(self, seconds: Iterable[float]) -> None:
        """Take the ages of stored features, those that are known."""
        self._ages.extend(seconds)

    def logged(self, outcome: str, rows: int) -> None:
        """Count rows of the request log by one of `OUTCOMES`."""
        self._rows.append((outcome, rows))

    # --- what the worker calls ------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Count once a second, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop the thread and count what is left."""
        self._stopped.set()
        if self._thread:
            self._thread.join()
        self.flush()

    def flush(self) -> None:
        """Count everything that was appended so far."""
        with self._flushing:
            for (protocol, status), count in Tally(_taken(self._requests)).items():
                self._requests_total.labels(**self._of_model, protocol=protocol, status=str(status)).inc(count)
            for kind, count in Tally(_taken(self._errors)).items():
                self._errors_total.labels(**self._of_model, kind=kind).inc(count)
            for outcome, rows in _taken(self._rows):
                self._rows_total.labels(**self._of_model, outcome=outcome).inc(rows)
            now = time.process_time()
            self._cpu_total.labels(**self._of_model).inc(now - self._cpu_counted)
            self._cpu_counted = now
            for batched in (*self._durations.values(), *self._stages.values(), self._scores, self._ages):
                batched.flush()

    def text(self) -> bytes:
        """Return what Prometheus scrapes: the sums over all workers of this service."""
        self.flush()
        return generate_latest(_shared_registry() or self._registry)

    def _run(self) -> None:
        while not self._stopped.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except Exception:  # noqa: BLE001  # a full disk must not end the counting for good
                _log.exception("The metrics could not be counted; the next second tries again.")

    # --- how they are made ----------------------------------------------------------------------------------------

    def _describe(self, lineage: Lineage, facts: dict[str, str]) -> None:
        labels = {
            **self._of_model,
            "model_sha256": lineage.sha256,
            "training_snapshot": lineage.training_snapshot,
            **facts,
        }
        text = "Always 1: which model answers here."
        gauge = Gauge("tandem_model_info", text, list(labels), registry=self._registry, multiprocess_mode="livemax")
        gauge.labels(**labels).set(1)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"tandem_{name}", text, [*self._of_model, *labels], registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        names = [*self._of_model, *labels]
        return Histogram(f"tandem_{name}", text, names, buckets=buckets, registry=self._registry)


class _Batched:
    """A histogram that is filled a batch at a time."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._bounds = np.array(histogram._upper_bounds[:-1])
        self._values: list[float] = []
        self.add: Callable[[float], None] = self._values.append
        self.extend: Callable[[Iterable[float]], None] = self._values.extend

    def flush(self) -> None:
        values = np.array(_taken(self._values), np.float64)
        if len(values):
            # A bucket holds what is at most its bound, so the first bound that is not below the value.
            counts = np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._bounds) + 1)
            for bucket in np.flatnonzero(counts):
                self._histogram._buckets[bucket].inc(float(counts[bucket]))
            self._histogram._sum.inc(float(values.sum()))


def _taken(values: list[Any]) -> list[Any]:
    """Empty a list that others append to meanwhile; nothing is lost, since what they append stands behind."""
    taken = values[: len(values)]
    del values[: len(taken)]
    return taken


def _shared_registry() -> CollectorRegistry | None:
    """Return a registry that reads the values of all workers; None in a process that is no worker of BentoML."""
    registry = CollectorRegistry()
    try:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    except ValueError:
        return None
    return registry
