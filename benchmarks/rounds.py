"""Systems side by side: each in a process of its own, all in turn, so that a busy moment hurts them alike.

In turn, each run also finds memory as a night does, and not as its own last run has left it a second ago: run after
run, pandas is 1.6 times as fast, since it still holds its ten gigabytes, and the others gain a tenth.

A system is a function that prepares and returns what is measured: a function that handles all rows and says how many.
"""

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.processes import Worker

COUNTED = 3
SAMPLE_SECONDS = 0.05
MEGABYTE = 1024 * 1024
RUN = "run"

Run = Callable[[], int]
System = Callable[[Path], Run]


@dataclass(frozen=True)
class Record:
    """One measured system: median, least and most seconds of the counted runs."""

    system: str
    rows: int
    seconds: float
    fastest: float
    slowest: float
    rows_per_second: float
    cpu_seconds: float  # of the median run; 0 where other processes work too
    peak_rss_mb: float


def measure(module: str, names: Sequence[str], home: Path, say: Callable[[str], None]) -> list[Record]:
    """Warm every system up, then run all of them `COUNTED` times in turn; `module.SYSTEMS` has them by name."""
    with ExitStack() as processes:
        systems = {
            name: processes.enter_context(Worker.start(name, "benchmarks.rounds", module, name, str(home)))
            for name in names
        }
        for name, system in systems.items():
            say(f"{name}: warm-up {system.ask(RUN)['seconds']:.2f} s")
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(COUNTED):
            for name, system in systems.items():
                runs[name].append(system.ask(RUN))
                say(f"{name}: {runs[name][-1]['seconds']:.2f} s")
    return [record_of(name, made) for name, made in runs.items()]


def record_of(name: str, runs: Sequence[Mapping[str, Any]]) -> Record:
    """Return the record of some runs, each as `timed` describes it."""
    ordered = sorted(runs, key=lambda run: run["seconds"])
    middle, rows = ordered[len(ordered) // 2], ordered[0]["rows"]
    seconds = median(run["seconds"] for run in runs)
    fastest, slowest = ordered[0]["seconds"], ordered[-1]["seconds"]
    peak = max(run["peak_rss_mb"] for run in runs)
    return Record(name, rows, seconds, fastest, slowest, rows / seconds, middle["cpu_seconds"], peak)


def timed(run: Run) -> dict[str, Any]:
    """Run once; return rows, seconds, CPU seconds and the peak of this process's memory so far."""
    begun, cpu = time.perf_counter(), time.process_time()
    rows = run()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {"rows": rows, "seconds": seconds, "cpu_seconds": cpu, "peak_rss_mb": peak_rss()}


def peak_rss() -> float:
    """Return the peak of this process's resident memory, MB. What `getrusage` says begins with its parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


class _PeakOfChildren:
    """The largest resident memory of this process and those that it started, sampled: for systems with a JVM."""

    def __init__(self) -> None:
        self.peak = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        me = psutil.Process()
        while True:
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total / MEGABYTE)
            time.sleep(SAMPLE_SECONDS)


def _serve(system: System, home: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print is no answer
    run, sampled = None, None
    for _ in sys.stdin:
        run = run or system(home)
        alone = not psutil.Process().children()
        sampled = None if alone else sampled or _PeakOfChildren()
        figures = timed(run)
        if sampled:
            figures |= {"cpu_seconds": 0.0, "peak_rss_mb": max(figures["peak_rss_mb"], sampled.peak)}
        print(json.dumps(figures), file=answers, flush=True)


if __name__ == "__main__":
    import importlib

    from backends.settings import quiet, thrifty

    quiet()
    thrifty()  # as a code location does
    module, name, home = sys.argv[1:]
    _serve(importlib.import_module(module).SYSTEMS[name], Path(home))
