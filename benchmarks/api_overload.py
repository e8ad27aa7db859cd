"""`make bench-overload`: what becomes of a service that is asked three times as much as it can take.

A flood from one process, and beside it, from another, a caller that asks as usual and whose answers are looked at: the
flood's own times would mostly be those of a load that cannot keep up. All of them, and the service, share two cores.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from backends.settings import Settings, quiet
from benchmarks.api_customers import CustomerHome
from benchmarks.api_home import prepare
from benchmarks.api_rounds import memory_of, worker_of
from benchmarks.api_systems import SYSTEMS, free_port, requests_of, started
from benchmarks.api_wires import Plan
from benchmarks.machine import machine, title
from benchmarks.processes import Worker

SYSTEM, STORE = "tandem-rest", "lmdb"
BUSY = 8  # connections that keep a worker busy
FLOOD = 256
PROBE_RATE, PROBE_CONNECTIONS = 300, 32
CAPACITY_SECONDS, AFTER_SECONDS = 4.0, 5.0
LOAD = "benchmarks.api_load"


@dataclass(frozen=True)
class Phase:
    """What one caller saw: answers a second, what was not answered by status, times in ms of what was."""

    phase: str
    asked_per_second: float
    answered_per_second: float
    statuses: dict[str, int]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    rss_mb: float  # of the worker, at its end


def main(
    rows: Annotated[int, typer.Option(help="Customers in the store.")] = 5_000_000,
    times: Annotated[float, typer.Option(help="The flood, by what the worker can take.")] = 3.0,
    seconds: Annotated[float, typer.Option(help="How long it lasts.")] = 60.0,
    output: Annotated[Path | None, typer.Option("--json", help="Where to write the records.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder that is made once and reused.")] = None,
) -> None:
    """Measure before, during and after, and print a line for each."""
    quiet()
    console = Console(width=120)
    place = CustomerHome(home or Settings().home / "benchmarks" / "api", rows, free_port())
    with console.status(f"{rows:,} customers, a network and a Bento"):
        bento = prepare(place, [STORE])
    bodies, _ = requests_of(place, SYSTEM, STORE).bodies(0, 0)
    facts = machine(("bentoml", "uvicorn", "uvloop"))
    with started(place, bento, SYSTEMS[SYSTEM].server, STORE) as server:
        plan = Plan("http", server.port, SYSTEMS[SYSTEM].target, bodies, rate=0, seconds=1, connections=1)
        phases = measured(server.pid, plan, times, seconds)
    console.print(_table(phases, title(facts)))
    if output:
        output.write_text(json.dumps({"machine": facts, "phases": [asdict(p) for p in phases]}, indent=2) + "\n")


def measured(pid: int, plan: Plan, times: float, seconds: float) -> list[Phase]:
    """Ask as usual, find out how much the worker can take, flood it with more, and ask as usual again."""
    with Worker.start("the flood", LOAD) as flood, Worker.start("the probe", LOAD) as probe:

        def ask(load: Worker, phase: str, rate: float, connections: int, lasts: float) -> Phase:
            wanted = asdict(plan) | {"rate": rate, "connections": connections, "seconds": lasts}
            return _phase(phase, rate, lasts, load.ask(json.dumps(wanted)), pid)

        ask(probe, "warm-up", 0, BUSY, 1.0)
        before = ask(probe, "before", PROBE_RATE, PROBE_CONNECTIONS, AFTER_SECONDS)
        capacity = ask(flood, "as fast as it can", 0, BUSY, CAPACITY_SECONDS)
        with ThreadPoolExecutor(1) as pool:
            rate = times * capacity.answered_per_second
            flooding = pool.submit(ask, flood, f"flood, {times:g} x", rate, FLOOD, seconds)
            during = ask(probe, "beside the flood", PROBE_RATE, PROBE_CONNECTIONS, seconds - 2)
            flooded = flooding.result()
        after = ask(probe, "right after", PROBE_RATE, PROBE_CONNECTIONS, AFTER_SECONDS)
        again = ask(flood, "as fast as it can, again", 0, BUSY, CAPACITY_SECONDS)
    return [before, capacity, flooded, during, after, again]


def _phase(phase: str, rate: float, seconds: float, outcome: Mapping[str, Any], pid: int) -> Phase:
    times = np.array(outcome["waited_us"] or [0]) / 1000
    lasted = max(outcome["seconds"], seconds)
    asked = outcome["answered"] + sum(outcome["errors"].values())
    worker, _ = worker_of(pid, {})
    return Phase(
        phase,
        rate or asked / lasted,
        outcome["answered"] / lasted,
        {"200": outcome["answered"], **outcome["errors"]},
        *(float(np.percentile(times, q)) for q in (50, 90, 99)),
        rss_mb=float(np.subtract(*memory_of(worker))),
    )


def _table(phases: list[Phase], machine_line: str) -> Table:
    table = Table(title=machine_line)
    for heading in ("phase", "asked/s", "answered/s", "statuses", "p50 ms", "p90 ms", "p99 ms", "worker MB"):
        table.add_column(heading, justify="left" if heading in ("phase", "statuses") else "right")
    for p in phases:
        statuses = ", ".join(f"{count:,} x {status}" for status, count in p.statuses.items())
        figures = [f"{value:.2f}" for value in (p.p50_ms, p.p90_ms, p.p99_ms)]
        table.add_row(
            p.phase,
            f"{p.asked_per_second:,.0f}",
            f"{p.answered_per_second:,.0f}",
            statuses,
            *figures,
            f"{p.rss_mb:,.0f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
