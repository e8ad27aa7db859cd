"""Systems in one run, each in a process of its own that ends before the next begins.

So none is measured beside the memory or the JVM of another: ten gigabytes of a frame that was just freed, and a Spark
that idles, cost the night an eighth when all took turns.

A system is a function that prepares and returns what is measured: a function that handles all rows and says how many.
"""

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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
    """Warm each system up and run it `COUNTED` times, one system after the other; `module.SYSTEMS` has them by name."""
    records = []
    for name in names:
        with Worker.start(name, "benchmarks.rounds", module, name, str(home)) as system:
            say(f"{name}: warm-up {system.ask(RUN)['seconds']:.2f} s")
            runs = [system.ask(RUN) for _ in range(COUNTED)]
        say(f"{name}: {', '.join(format(run['seconds'], '.2f') for run in runs)} s")
        records.append(record_of(name, runs))
    return records


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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": rows, "seconds": seconds, "cpu_seconds": cpu, "peak_rss_mb": peak}


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

    from backends.settings import quiet

    quiet()
    module, name, home = sys.argv[1:]
    _serve(importlib.import_module(module).SYSTEMS[name], Path(home))
