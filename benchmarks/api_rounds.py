"""From plans to records: every point is measured in turn with the others, so that a busy moment hurts all alike.

The servers run all the time. The load, a process of its own, asks one of them at a time, after it has come to rest.
"""

import base64
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import psutil

from benchmarks.api_requests import Requests
from benchmarks.api_wires import Plan
from benchmarks.processes import Worker
from models.errors import TandemError

WARM_UP_SECONDS = 0.5
REST_SECONDS, REST_SHARE, REST_LOOKS = 0.15, 0.1, 60  # a server rests when it takes no more than that share of a core
MEGABYTE = 1024 * 1024
MICROSECONDS = 1000  # in a millisecond
MOST_A_SECOND = 8000  # requests without a rate that bodies are made for; beyond, they are asked again

Score = Callable[[bytes], float]


@dataclass(frozen=True)
class Point:
    """One thing to measure: a system on a store at a rate, 0 for one request after the other on each connection."""

    system: str
    store: str
    rate: int
    connections: int
    seconds: float


@dataclass(frozen=True)
class Asked:
    """How a system is asked: where, with what, and how its answers are read."""

    protocol: str
    port: int
    target: str
    requests: Requests
    pid: int
    score: Score | None  # None for a server whose answers mean nothing


@dataclass(frozen=True)
class Record:
    """One measured point, all rounds together. Times are from when a request was due until its answer was there.

    They count requests answered with success and those not answered at all; `errors` are of every kind, by status in
    `statuses`. `rss_mb` is the worker's resident memory at its most, `mapped_mb` how much of it were pages of the
    store's file, which are the system's cache. `late_ms` is the p99 of how late the load was: it is in the times.
    """

    system: str
    store: str
    rate: int
    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    errors: int
    rss_mb: float
    mapped_mb: float
    requests: int
    statuses: dict[str, int]
    p99_ms_of_rounds: list[float]
    late_ms: float
    worker_cores: float  # how busy the worker was: at 1 it can take no more
    load_cores: float  # and how busy the load was: at 1 it is the limit
    checked: int  # answers whose score was compared, bit for bit


@dataclass
class _Measured:
    """What is known of a point so far."""

    outcomes: list[dict[str, Any]] = field(default_factory=list)
    rss_mb: float = 0.0
    mapped_mb: float = 0.0
    worker_cpu_seconds: float = 0.0
    checked: int = 0


def measure(
    points: Sequence[Point], asked: Mapping[tuple[str, str], Asked], rounds: int, say: Callable[[str], None]
) -> list[Record]:
    """Measure all points `rounds` times in turn; `asked` has each place. `TandemError` for a wrong answer."""
    measured = {point: _Measured() for point in points}
    first = 0  # every point goes on with other requests than the one before
    with Worker.start("the load", "benchmarks.api_load") as load:
        for turn in range(rounds):
            for point, so_far in measured.items():
                say(f"round {turn + 1} of {rounds}: {point.system} on {point.store} at {point.rate or 'its own rate'}")
                first = _measure_once(load, point, asked[point.system, point.store], first, so_far)
    return [_record(point, so_far) for point, so_far in measured.items()]


def _measure_once(load: Worker, point: Point, asked: Asked, first: int, so_far: _Measured) -> int:
    count = round((point.rate or MOST_A_SECOND) * (WARM_UP_SECONDS + point.seconds)) + 2
    bodies, place = asked.requests.bodies(first, count)
    plan = Plan(asked.protocol, asked.port, asked.target, bodies, point.rate, WARM_UP_SECONDS, point.connections, place)
    warm_up = load.ask(json.dumps(asdict(plan)))
    _come_to_rest(asked.pid)
    before = cpu_seconds(asked.pid)
    counted = asdict(plan) | {"seconds": point.seconds, "first": place + _asked_for(warm_up)}
    outcome = load.ask(json.dumps(counted))
    worker, cpu = worker_of(asked.pid, before)
    so_far.worker_cpu_seconds += cpu
    so_far.rss_mb, so_far.mapped_mb = max((so_far.rss_mb, so_far.mapped_mb), memory_of(worker))
    so_far.checked += _check(point, asked, outcome)
    so_far.outcomes.append(outcome)
    _come_to_rest(asked.pid)
    return first + _asked_for(warm_up) + _asked_for(outcome)


def _asked_for(outcome: Mapping[str, Any]) -> int:
    return int(outcome["answered"] + sum(outcome["errors"].values()))


def _check(point: Point, asked: Asked, outcome: Mapping[str, Any]) -> int:
    """Compare the sampled answers with the scorer's own, as float32; return how many could be compared."""
    if asked.score is None:
        return 0
    compared = 0
    for place, answer in outcome["samples"]:
        score, right = np.float32(asked.score(base64.b64decode(answer))), np.float32(asked.requests.right(place))
        compared += bool(len(right))
        if len(right) and score not in right:
            raise TandemError(
                f"{point.system} on {point.store} answers {score} to request {place} of its file, but the "
                f"scorer says {right[0]}. Its speed means nothing: see what it scores."
            )
    return compared


def _record(point: Point, measured: _Measured) -> Record:
    outcomes = measured.outcomes
    statuses = sum((Counter(outcome["errors"]) for outcome in outcomes), Counter[str]())
    seconds = sum(outcome["seconds"] for outcome in outcomes)
    waited = np.concatenate([outcome["waited_us"] for outcome in outcomes])
    p50, p99, p999 = percentiles(waited, 50, 99, 99.9)
    return Record(
        system=point.system,
        store=point.store,
        rate=point.rate,
        connections=point.connections,
        requests_per_second=round(sum(outcome["answered"] for outcome in outcomes) / seconds, 1),
        p50_ms=p50,
        p99_ms=p99,
        p999_ms=p999,
        errors=statuses.total(),
        rss_mb=round(measured.rss_mb, 1),
        mapped_mb=round(measured.mapped_mb, 1),
        requests=sum(map(_asked_for, outcomes)),
        statuses=dict(statuses),
        p99_ms_of_rounds=[percentiles(outcome["waited_us"], 99)[0] for outcome in outcomes],
        late_ms=percentiles([late for outcome in outcomes for late in outcome["late_us"]], 99)[0],
        worker_cores=round(measured.worker_cpu_seconds / seconds, 2),
        load_cores=round(sum(outcome["cpu_seconds"] for outcome in outcomes) / seconds, 2),
        checked=measured.checked,
    )


def percentiles(microseconds: Any, *shares: float) -> list[float]:
    """Return percentiles in milliseconds; 0 of nothing. A time that was measured, never one between two."""
    if not len(microseconds):
        return [0.0 for _ in shares]
    found = np.percentile(microseconds, shares, method="higher")
    return [round(float(value) / MICROSECONDS, 3) for value in found]


# --- the processes of a server --------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> dict[int, float]:
    """Return the CPU seconds of a process and of each below it, by their ids."""
    seconds = {}
    for process in _tree(pid):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        seconds[process.pid] = times.user + times.system
    return seconds


def worker_of(pid: int, before: Mapping[int, float]) -> tuple[psutil.Process, float]:
    """Return which process of a server did the work since `before`, and its CPU seconds: others only watch over it."""
    spent = {one: seconds - before.get(one, 0.0) for one, seconds in cpu_seconds(pid).items()}
    worker = max(spent, key=lambda one: spent[one])
    return psutil.Process(worker), spent[worker]


def memory_of(process: psutil.Process) -> tuple[float, float]:
    """Return a process's resident memory in megabytes, and how much of it are pages of an LMDB file."""
    maps = process.memory_maps() if hasattr(process, "memory_maps") else []
    mapped = sum(part.rss for part in maps if part.path.endswith(".mdb"))
    return process.memory_info().rss / MEGABYTE, mapped / MEGABYTE


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _come_to_rest(pid: int) -> None:
    """Wait until a server has nothing left to do, after more load than it could take for example."""
    for _ in range(REST_LOOKS):
        before = sum(cpu_seconds(pid).values())
        time.sleep(REST_SECONDS)
        if sum(cpu_seconds(pid).values()) - before <= REST_SHARE * REST_SECONDS:
            return
