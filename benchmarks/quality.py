"""`make bench-quality`: how good the network is beside boosted trees, on every table in reach; see docs/quality.md.

Each table is split in several seeded ways. In each, Tandem's training learns from the training rows as it always does,
float and int8; the rivals learn from the same rows, those that Tandem calibrates on among them. All meet on the same
test rows.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine, title
from benchmarks.quality_rivals import RIVALS
from benchmarks.quality_sets import SETS, QualitySet
from benchmarks.quality_verdict import BARS, Row, bars, behind, summaries
from models.declaration import Declaration
from models.scoring import Scorer, Scores
from models.training.evaluation import compare_int8, evaluate
from models.training.fit import Trained, train
from models.training.quantization import quantize
from models.training.split import Labels, labels

LIBRARIES = ("numpy", "scikit-learn", "lightgbm", "onnxruntime", "onnx")
THRESHOLD = 0.5  # of decisions, which are not compared


def main(
    splits: Annotated[int, typer.Option(min=1, help="How many seeded splits of each table.")] = 3,
    only: Annotated[str, typer.Option(help="Some tables, with commas between them; default all.")] = "",
    output: Annotated[Path | None, typer.Option("--json", help="Where to write the records; goes on where it ended.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw the differences, as PNG.")] = None,
    ours_only: Annotated[bool, typer.Option(help="Train Tandem's network again, and take rivals from the file.")] = False,
) -> None:
    """Measure, print one table with the bars, and write the records."""
    names = only.split(",") if only else list(SETS)
    if unknown := set(names) - SETS.keys():
        raise typer.BadParameter(f"no such table: {', '.join(unknown)}. There are: {', '.join(SETS)}.")
    console = Console(width=150)
    records = json.loads(output.read_text())["records"] if output and output.exists() else []
    if ours_only:
        records = [record for record in records if record["system"] in RIVALS]
    for name in names:
        if (made := SETS[name]()) is None:
            console.print(f"{name} is left out: its file is not here.")
            continue
        for seed in range(1, splits + 1):
            done = {record["system"] for record in records if (record["set"], record["seed"]) == (name, seed)}
            records += _measured(name, made, seed, done)
            if output:
                output.write_text(json.dumps({"machine": machine(LIBRARIES), "records": records}, indent=1) + "\n")
        console.print(_line(summaries([record for record in records if record["set"] == name])[0]))
    rows = summaries([record for record in records if record["set"] in names])
    console.print(_table(rows), *bars(rows, [record for record in records if record["set"] in names]), sep="\n")
    if plot:
        from benchmarks.quality_plot import differences

        differences(rows, plot)


def _measured(name: str, made: QualitySet, seed: int, done: set[str]) -> list[dict[str, Any]]:
    """Return a record for each system that has none yet."""
    declaration, records = made.declared(seed), []
    if not {"float", "int8"} <= done:
        records += _ours(declaration, made)
    todo = [rival for rival in RIVALS if rival not in done]
    records += [_rival(declaration, made, rival) for rival in todo]
    return [{"set": name, "seed": seed, **record} for record in records]


def _ours(declaration: Declaration, made: QualitySet) -> list[dict[str, Any]]:
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


def _rival(declaration: Declaration, made: QualitySet, rival: str) -> dict[str, Any]:
    from models.encoding import encode_arrow
    from models.training.fit import contract_of
    from models.training.split import split_examples

    split = split_examples(declaration, made.table)
    rows, y = encode_arrow(contract_of(declaration, "integer", "1"), made.table), labels(declaration, made.table)
    learnt = np.sort(np.concatenate([split.train, split.calibration]))
    begin = time.perf_counter()
    scores = RIVALS[rival](rows[learnt], y[learnt], rows[split.test], 0)
    return {"system": rival, "seconds": time.perf_counter() - begin, **evaluate(y[split.test], scores, THRESHOLD)}
