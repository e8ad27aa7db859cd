"""`make bench`: the kernel, the encoder, the night and the online store, on the home's own champion and population.

Needs the home of a `make demo`. The night is written to a scratch table, which is dropped again. Of a model of events
it is the newest day that was scored, and a lookup is of an entity's whole history, to which nothing is added.
"""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from assets.resources import Backends
from backends.batch_scoring import population_plan, score_and_publish
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.night_tags import DAY
from backends.lakehouse.reading import Plan, partition_is
from backends.nights import Night, newest_night
from backends.settings import Settings
from benchmarks.rounds import COUNTED, Record, record_of, timed
from models.audit import Limits
from models.contract import Contract
from models.declaration import Declaration, load_declaration
from models.encoding import encode_arrow
from models.event_rules import EVENT_DAY
from models.scoring import Scorer

KERNEL_ROWS = 200_000
LOOKUPS = 10_000
SCRATCH = "benchmarks.predictions"


def measure(system: str, rows: int, work: Callable[[], object]) -> Record:
    """Run once to warm up, then `COUNTED` times."""

    def run() -> int:
        work()
        return rows

    run()
    return record_of(system, [timed(run) for _ in range(COUNTED)])


def main(
    model: Annotated[str, typer.Option()] = "churn",
    output: Annotated[Path | None, typer.Option("--json", help="Where to write the records.")] = None,
) -> None:
    """Measure, print one table, and write the records."""
    settings = Settings()
    declaration = load_declaration(settings.models / f"{model}.yaml")
    with Backends(settings).lakehouse() as lake:
        records = _records(Backends(settings), lake, declaration)
    table = Table(title=f"{platform.machine()}, {settings.threads} threads, onnxruntime {onnxruntime.__version__}")
    for heading in ("system", "rows", "seconds", "min .. max", "rows/s", "peak MB"):
        table.add_column(heading, justify="left" if heading == "system" else "right")
    for r in records:
        spread = f"{r.fastest:.3f} .. {r.slowest:.3f}"
        speed = f"{r.rows_per_second:,.0f}"
        table.add_row(r.system, f"{r.rows:,}", f"{r.seconds:.3f}", spread, speed, f"{r.peak_rss_mb:.0f}")
    Console().print(table)
    if output:
        output.write_text(json.dumps([asdict(record) for record in records], indent=2) + "\n")


def _records(backends: Backends, lake: Lakehouse, declaration: Declaration) -> list[Record]:
    registry = backends.registry()
    version = registry.champion(declaration.name)
    champion = Scorer(registry.read_version(version), version.sha256)
    floating = _float_twin(backends, declaration.name, version.mlflow_run_id)
    scored_on, plan = to_score(lake, declaration, champion.contract)
    batches = [batch for _, batch in zip(range(2), plan.batches(plan.files[0]), strict=False)]
    batch = pa.Table.from_batches(batches).slice(0, KERNEL_ROWS)
    encoded, rows = encode_arrow(champion.contract, batch), batch.num_rows
    night = Night(
        population=declaration.scored_table,
        predictions=SCRATCH,
        rejects=f"{SCRATCH}_rejects",
        scorer=champion,
        version=version.version,
        scored_on=scored_on,
        scored_at=datetime.now(UTC),
        limits=Limits(declaration.gates.max_score_shift, declaration.gates.max_rejected_share),
        day_column=EVENT_DAY if declaration.events else None,
    )
    try:
        return [
            measure(
                "night, scan to publish", plan.snapshot.rows, lambda: score_and_publish(lake, backends.engine(), night)
            ),
            measure(f"kernel {champion.contract.precision}, 1 thread", rows, lambda: champion.score(encoded)),
            measure("kernel float32, 1 thread", rows, lambda: floating.score(encoded)),
            measure("encoder, 1 thread", rows, lambda: encode_arrow(champion.contract, batch)),
            lookups(backends, declaration, champion, plan),
        ]
    finally:
        for table in (SCRATCH, f"{SCRATCH}_rejects"):
            if lake.catalog.table_exists(table):
                lake.catalog.purge_table(table)


def _float_twin(backends: Backends, model: str, run_id: str) -> Scorer:
    from assets.trained_model import ARTIFACT
    from models.scoring import sha256_of

    manifest = json.loads((backends.settings.home / "manifests" / model / "trained_model.json").read_text())
    onnx = backends.registry().read_onnx(run_id, ARTIFACT, manifest["sha256"])
    assert sha256_of(onnx) == manifest["sha256"]
    return Scorer(onnx)


def to_score(lake: Lakehouse, declaration: Declaration, contract: Contract) -> tuple[date, Plan]:
    """Return a day and its rows: today and the whole population, or the newest day of events that was scored."""
    table = declaration.scored_table
    if not declaration.events:
        return datetime.now(UTC).date(), population_plan(lake, contract, table, None)
    day = date.fromisoformat(newest_night(lake, declaration.predictions_table).properties[DAY])
    return day, population_plan(lake, contract, table, None, where=partition_is(EVENT_DAY, day))


def lookups(backends: Backends, declaration: Declaration, scorer: Scorer, plan: Plan, count: int = LOOKUPS) -> Record:
    """Look entities of the population up one by one."""
    contract = scorer.contract
    keys = next(plan.batches(plan.files[-1])).column(contract.entity_key).to_pylist()
    drawn = [keys[i] for i in np.random.default_rng(0).integers(0, len(keys), count)]
    find, among = _finder(backends, declaration, contract, plan)

    def look_up() -> None:
        for key in drawn:
            find(key)

    return measure(f"lookup, one of {among}", count, look_up)


def _finder(
    backends: Backends, declaration: Declaration, contract: Contract, plan: Plan
) -> tuple[Callable[[Any], object], str]:
    """Return what looks an entity up, and among what."""
    if not declaration.events:
        store = backends.online_store(declaration.name)
        return lambda key: store.get_many(contract, [key]), f"{plan.snapshot.rows:,}"
    histories = backends.histories(contract)
    event = np.zeros(1, histories.history.dtype)
    among = f"{int(histories.describe()['entities']):,} histories"
    return lambda key: histories.fetch_and_append([key], event, [False]), among


if __name__ == "__main__":
    typer.run(main)
