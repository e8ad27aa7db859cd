"""`make bench-quality`: how good the network is beside boosted trees, on every table in reach; see docs/quality.md.

Each table is split in several seeded ways. In each, Tandem's training learns from the training rows as it always does,
float and int8; the rivals learn from the same rows, those that Tandem calibrates on among them. All meet on the same
test rows.
"""

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine, title
from benchmarks.quality_plot import differences
from benchmarks.quality_rivals import RIVALS
from benchmarks.quality_sets import SETS, QualitySet
from benchmarks.quality_verdict import Record, Row, bars, rows_of
from models.declaration import Declaration
from models.encoding import encode_arrow
from models.scoring import Scorer
from models.training.evaluation import compare_int8, evaluate
from models.training.fit import contract_of, train
from models.training.quantization import quantize
from models.training.split import labels, split_examples

LIBRARIES = ("numpy", "scikit-learn", "lightgbm", "onnxruntime", "onnx")
SYSTEMS = ("float", "int8", "boosted_trees", "lightgbm", "logistic")
THRESHOLD = 0.5  # of decisions, which are not compared


def main(
    splits: Annotated[int, typer.Option(min=1, help="How many seeded splits of each table.")] = 3,
    only: Annotated[str, typer.Option(help="Some tables, with commas between them; default all.")] = "",
    output: Annotated[
        Path | None, typer.Option("--json", help="Where records are kept; what it has is not made again.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw the differences, as PNG.")] = None,
) -> None:
    """Measure, print one table with the bars, and write the records."""
    names = only.split(",") if only else list(SETS)
    if unknown := set(names) - SETS.keys():
        raise typer.BadParameter(f"no such table: {', '.join(unknown)}. There are: {', '.join(SETS)}.")
    console = Console(width=150)
    records: list[Record] = json.loads(output.read_text())["records"] if output and output.exists() else []
    for name in names:
        if (made := SETS[name]()) is None:
            console.print(f"{name} is left out: its file is not here.")
            continue
        for seed in range(1, splits + 1):
            done = {record["system"] for record in records if (record["set"], record["seed"]) == (name, seed)}
            records += [{"set": name, "seed": seed, **record} for record in _measured(made, seed, done)]
            if output:
                facts = {"machine": machine(LIBRARIES), "records": records}
                output.write_text(json.dumps(facts, indent=1) + "\n")
        console.print(f"{name}: {_told(rows_of([record for record in records if record['set'] == name])[0])}")
    asked = [record for record in records if record["set"] in names and record["seed"] <= splits]
    rows = rows_of(asked)
    console.print(_table(rows), _bars_table(bars(rows, asked)))
    if plot:
        differences(rows, plot)


def _measured(made: QualitySet, seed: int, done: set[str]) -> list[Record]:
    """Return a record for each system that has none yet."""
    declaration = made.declared(seed)
    ours = [] if {"float", "int8"} <= done else _ours(declaration, made)
    return [*ours, *(_rival(declaration, made, rival) for rival in RIVALS if rival not in done)]


def _ours(declaration: Declaration, made: QualitySet) -> list[Record]:
    begin, cpu = time.perf_counter(), time.process_time()
    trained = train(declaration, made.table, entity_key_type="integer", training_snapshot="1")
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    int8 = Scorer(quantize(trained.onnx, trained.calibration_rows)).score(trained.test_rows)
    y, floating = trained.y_test, trained.scores_test
    facts = {"seconds": seconds, "cpu_seconds": cpu_seconds, "rows": len(trained.split.train)}
    return [
        {"system": "float", **facts, **evaluate(y, floating, THRESHOLD), "phases": trained.seconds},
        {"system": "int8", **facts, **evaluate(y, int8, THRESHOLD), **compare_int8(y, floating, int8, THRESHOLD)},
        {"system": "teacher", **trained.metrics["teacher"]},
    ]


def _rival(declaration: Declaration, made: QualitySet, rival: str) -> Record:
    split = split_examples(declaration, made.table)
    rows, y = encode_arrow(contract_of(declaration, "integer", "1"), made.table), labels(declaration, made.table)
    learnt = np.sort(np.concatenate([split.train, split.calibration]))
    begin = time.perf_counter()
    scores = RIVALS[rival](rows[learnt], y[learnt], rows[split.test], 0)
    return {"system": rival, "seconds": time.perf_counter() - begin, **evaluate(y[split.test], scores, THRESHOLD)}


def _told(row: Row) -> str:
    """Say in one line how a table went."""
    leads = ", ".join(f"{lead:+.4f} on {system}" for system, (lead, _) in row.leads.items() if system in RIVALS)
    ours = row.systems["float"]
    return f"AUC {ours.auc:.4f} ({leads}), log-loss {ours.log_loss:.4f}, {ours.seconds:.0f} s"


def _table(rows: list[Row]) -> Table:
    table = Table(title=title(machine(LIBRARIES)))
    for heading in ("table", "AUC, log-loss of", *SYSTEMS, "lead: HGB", "LightGBM", "int8 p99", "s"):
        table.add_column(heading, justify="left" if heading == "table" else "right")
    for row in rows:
        figures = [row.systems.get(system) for system in SYSTEMS]
        aucs = [f"{f.auc:.4f} ±{f.auc_spread:.4f}" if f else "" for f in figures]
        losses = [f"{f.log_loss:.4f} ±{f.log_loss_spread:.4f}" if f else "" for f in figures]
        leads = [f"{row.leads[rival][0]:+.4f}" if rival in row.leads else "" for rival in ("boosted_trees", "lightgbm")]
        table.add_row(row.name, "AUC", *aucs, *leads, f"{row.p99_change:.4f}", f"{row.systems['float'].seconds:.0f}")
        table.add_row("", "log-loss", *losses)
    return table


def _bars_table(found: dict[str, tuple[float, bool]]) -> Table:
    table = Table("bar", "figure", "reached")
    for name, (figure, reached) in found.items():
        table.add_row(name, f"{figure:+.4f}", "yes" if reached else "NO")
    return table


if __name__ == "__main__":
    typer.run(main)
