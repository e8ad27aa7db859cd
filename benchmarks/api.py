"""`make bench-api`: the service over REST, gRPC and the Open Inference Protocol, its floor and its rival, in one run.

Each server has one worker, and the load runs on the same cores. The network, the Bento and the stores are made once:
see `benchmarks/api_home.py`. How times are taken: `benchmarks/api_load.py`.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from shutil import which
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backends.settings import Settings, quiet
from benchmarks.api_bars import RATE, bars_of
from benchmarks.api_customers import CustomerHome
from benchmarks.api_home import REDIS, STORES, ApiHome, prepare, redis_running
from benchmarks.api_rounds import Asked, Point, measure
from benchmarks.api_swipes import SwipeHome
from benchmarks.api_systems import NULL, SERVERS, SYSTEMS, Running, free_port, requests_of, started
from benchmarks.batch_home import MODEL
from benchmarks.machine import machine, title
from benchmarks.plots import waits
from bento.building.build import BuiltBento

ROUNDS = 2
RATES = (0, 100, 300, 600, 1000)
LONGER = 2  # times as long at the rate that has bars: its p99.9 needs the requests
SATURATED = 8  # connections that keep a worker busy, at rate 0
OPEN_AT_MOST = 64  # connections at a rate
NULL_RATES = (0, 1000)
HOMES: dict[str, tuple[type[ApiHome], int]] = {  # by model, and how many rows it has unless told otherwise
    CustomerHome.model: (CustomerHome, 5_000_000),
    SwipeHome.model: (SwipeHome, 2_000_000),
}
LIBRARIES = (
    "bentoml", "grpcio", "hiredis", "lmdb", "mlflow", "numpy", "onnxruntime", "redis", "starlette", "uvicorn", "uvloop",
)  # fmt: skip


def main(
    model: Annotated[str, typer.Option(help="One of the demo's models.")] = MODEL,
    rows: Annotated[int | None, typer.Option(help="Customers, or card swipes, in the stores.")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Where to write the records.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw them, as PNG.")] = None,
    only: Annotated[str, typer.Option(help="Some systems, with commas between them; default all.")] = "",
    stores: Annotated[str, typer.Option(help="Some stores, with commas between them.")] = ",".join(STORES),
    seconds: Annotated[float, typer.Option(help="Of each point in each round.")] = 2.5,
    home: Annotated[Path | None, typer.Option(help="Folder that is made once and reused.")] = None,
) -> None:
    """Measure, print the tables, and write the records and whether they reach what is asked of them."""
    quiet()
    console = Console(width=120)
    real = [name for name in SYSTEMS if name != NULL]
    systems = _known("system", only.split(",") if only else real, real)
    chosen = _known("store", stores.split(","), STORES)
    if REDIS in chosen and not which("redis-server"):
        console.print("Redis is left out: there is no redis-server. Install it, `apt-get install redis-server`.")
        chosen.remove(REDIS)
    place = _home(model, rows, home)
    for name in [name for name in os.environ if name.startswith("TANDEM_")]:
        del os.environ[name]  # what is measured are the defaults, whatever is set here
    facts = run(place, systems, chosen, seconds, console)
    console.print(*_tables(facts))
    if output:
        output.write_text(json.dumps(facts, indent=2) + "\n")
    if plot:
        waits(facts["records"], plot)


def _home(model: str, rows: int | None, folder: Path | None) -> ApiHome:
    _known("model", [model], HOMES)
    home, usual_rows = HOMES[model]
    usual_folder = Settings().home / "benchmarks" / ("api" if model == MODEL else f"api-{model}")
    return home(folder or usual_folder, rows or usual_rows, free_port())


def _known(kind: str, names: list[str], known: Sequence[str] | dict[str, Any]) -> list[str]:
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"no such {kind}: {', '.join(unknown)}. There are: {', '.join(known)}.")
    return names


def run(
    home: ApiHome, systems: Sequence[str], stores: Sequence[str], seconds: float, console: Console
) -> dict[str, Any]:
    """Make what is missing, start every server, measure all; return what the JSON has."""
    with ExitStack() as running:
        if REDIS in stores:
            running.enter_context(redis_running(home))
        with console.status(f"{home.rows:,} {home.what}, a network and a Bento"):
            bento = prepare(home, stores)
        servers, starts = _start_all(home, bento, systems, stores, running)
        asked = {place: _asked(home, server, *place) for place, server in _places(systems, stores, servers)}
        with console.status("") as status:
            say = status.update if console.is_terminal else console.print
            records = measure(list(_points(list(asked), seconds)), asked, ROUNDS, say)
    kept = [asdict(record) for record in records if record.system != NULL]
    return {
        "machine": machine(LIBRARIES),
        "model": home.model,
        "rows": home.rows,
        "what": home.what,
        "records": [record for record in kept if record["connections"] != SATURATED],
        "saturated": [record for record in kept if record["connections"] == SATURATED],
        "load": [asdict(record) for record in records if record.system == NULL],
        "starts": starts,
        "bars": [asdict(bar) | {"reached": bar.reached} for bar in bars_of(kept, starts)],
    }


Servers = dict[tuple[str, str], Running]
Place = tuple[str, str]  # a system and a store


def _start_all(
    home: ApiHome, bento: BuiltBento, systems: Sequence[str], stores: Sequence[str], running: ExitStack
) -> tuple[Servers, list[dict[str, Any]]]:
    """Start one server after the other, and ours once more before, to know better how long that takes."""
    wanted = dict.fromkeys(SYSTEMS[system].server for system in systems)
    places = [(name, store) for name in [*wanted, NULL] for store in SERVERS[name].on(stores)]
    starts = []
    for name, store in places:
        if name == "tandem":
            with started(home, bento, name, store) as server:
                starts.append({"system": name, "store": store, "seconds": round(server.seconds, 2)})
    servers = {place: running.enter_context(started(home, bento, *place)) for place in places}
    starts += [
        {"system": name, "store": store, "seconds": round(server.seconds, 2)}
        for (name, store), server in servers.items()
        if name != NULL
    ]
    return servers, starts


def _places(systems: Sequence[str], stores: Sequence[str], servers: Servers) -> Iterator[tuple[Place, Running]]:
    for system in [*systems, NULL]:
        server = SYSTEMS[system].server
        for store in SERVERS[server].on(stores):
            yield (system, store), servers[server, store]


def _asked(home: ApiHome, server: Running, system: str, store: str) -> Asked:
    how, requests = SYSTEMS[system], requests_of(home, system, store)
    port = server.grpc_port if how.protocol == "grpc" else server.port
    return Asked(how.protocol, port, how.target.format(model=home.model), requests, server.pid, how.score)


def _points(places: Sequence[Place], seconds: float) -> Iterator[Point]:
    for rate in RATES:
        for system, store in places:
            if system == NULL and rate not in NULL_RATES:
                continue
            lasts = seconds * (LONGER if rate == RATE else 1)
            yield Point(system, store, rate, OPEN_AT_MOST if rate else 1, lasts)
    for system, store in places:
        yield Point(system, store, 0, SATURATED, seconds)


# --- on the screen --------------------------------------------------------------------------------------------------


def _tables(facts: dict[str, Any]) -> tuple[Table, Table]:
    speeds = Table(title=f"{title(facts['machine'])}; {facts['rows']:,} {facts['what']}")
    texts, figures = ("system", "store"), ("rate", "connections", "requests/s", "p50 ms", "p99 ms", "p99.9 ms")
    for heading in (*texts, *figures, "errors", "MB"):
        speeds.add_column(heading, justify="left" if heading in texts else "right")
    for r in [*facts["records"], *facts["saturated"], *facts["load"]]:
        rate = f"{r['rate']:,}" if r["rate"] else "one by one"
        times = [f"{r[name]:.2f}" for name in ("p50_ms", "p99_ms", "p999_ms")]
        counts = (f"{r['errors']:,}", f"{r['rss_mb']:.0f}")
        speed = f"{r['requests_per_second']:,.0f}"
        speeds.add_row(r["system"], r["store"], rate, str(r["connections"]), speed, *times, *counts)
    bars = Table()
    for heading in ("figure", "value", "bar", ""):
        bars.add_column(heading)
    for bar in facts["bars"]:
        bars.add_row(bar["name"], *judged(bar))
    return speeds, bars


def judged(bar: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return a bar's value, limit and verdict as they are shown."""
    value, limit = (f"{bar[name]:g} {bar['unit']}".strip() for name in ("value", "limit"))
    return value, f"{'at least' if bar['at_least'] else 'at most'} {limit}", "reached" if bar["reached"] else "missed"


if __name__ == "__main__":
    typer.run(main)
