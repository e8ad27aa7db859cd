"""`make bench-batch`: the night, its kernel and what teams write without Tandem, side by side in one run.

The population is made and the models are trained once: see `benchmarks/batch_home.py`. All tables are its own.
"""

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from backends.settings import Settings, quiet
from benchmarks.batch_home import BatchHome, prepare
from benchmarks.batch_systems import SYSTEMS
from benchmarks.machine import machine, title
from benchmarks.plots import speeds
from benchmarks.rounds import Record, measure

NEEDS = {"mlflow-spark_udf": "pyspark", "onnx-converter": "skl2onnx"}
LIBRARIES = ("pyarrow", "onnxruntime", "pyiceberg", "numpy", "pandas", "scikit-learn", "mlflow", "pyspark", "skl2onnx")
# What each figure is divided by, and the bar that the issue of this lane set: seconds / seconds.
RATIOS = {
    "pandas+sklearn / tandem-int8": ("pandas+sklearn", "tandem-int8", "at least 15"),
    "mlflow-spark_udf / tandem-int8": ("mlflow-spark_udf", "tandem-int8", "at least 20"),
    "onnx-converter / tandem-int8": ("onnx-converter", "tandem-int8", ""),
    "tandem-int8 / kernel": ("tandem-int8", "kernel", "at most 2"),
    "kernel-float / kernel": ("kernel-float", "kernel", "at least 1.3"),
    "tandem-float / tandem-int8": ("tandem-float", "tandem-int8", "at least 1"),
}


def main(
    rows: Annotated[int, typer.Option(help="Customers of the population.")] = 5_000_000,
    output: Annotated[Path | None, typer.Option("--json", help="Where to write the records.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw them, as PNG.")] = None,
    only: Annotated[str, typer.Option(help="Some systems, with commas between them; default all.")] = "",
) -> None:
    """Measure, print one table, and write the records and their ratios."""
    quiet()
    names = only.split(",") if only else list(SYSTEMS)
    if unknown := set(names) - SYSTEMS.keys():
        raise typer.BadParameter(f"no such system: {', '.join(unknown)}. There are: {', '.join(SYSTEMS)}.")
    console, home = Console(width=110), BatchHome(Settings().home / "benchmarks" / "batch")
    for name in [name for name in names if name in NEEDS and not find_spec(NEEDS[name])]:
        console.print(f"{name} is left out: {NEEDS[name]} is not installed.")
        names.remove(name)
    with console.status(f"{rows:,} customers, a network and its rivals"):
        prepare(home, rows)
    records = measure("benchmarks.batch_systems", names, home.folder, console.print)
    ratios = ratios_of(records)
    console.print(_table(records), _ratio_table(ratios))
    if output:
        facts = {"machine": machine(LIBRARIES), "records": [asdict(record) for record in records], "ratios": ratios}
        output.write_text(json.dumps(facts, indent=2) + "\n")
    if plot:
        speeds([asdict(record) for record in records], plot)


def ratios_of(records: list[Record]) -> dict[str, float]:
    """Return how many times longer one system takes than another, by `RATIOS`' names, of those that were measured."""
    seconds = {record.system: record.seconds for record in records}
    pairs = {name: (over, under) for name, (over, under, _) in RATIOS.items() if {over, under} <= seconds.keys()}
    return {name: seconds[over] / seconds[under] for name, (over, under) in pairs.items()}


def _table(records: list[Record]) -> Table:
    table = Table(title=title(machine(LIBRARIES)))
    for heading in ("system", "rows", "seconds", "min .. max", "rows/s", "CPU s", "peak MB"):
        table.add_column(heading, justify="left" if heading == "system" else "right")
    for r in records:
        spread, cpu = f"{r.fastest:.2f} .. {r.slowest:.2f}", f"{r.cpu_seconds:.2f}" if r.cpu_seconds else ""
        figures = (f"{r.seconds:.2f}", spread, f"{r.rows_per_second:,.0f}", cpu, f"{r.peak_rss_mb:,.0f}")
        table.add_row(r.system, f"{r.rows:,}", *figures)
    return table


def _ratio_table(ratios: dict[str, float]) -> Table:
    table = Table()
    for heading in ("time of ... / time of ...", "ratio", "bar"):
        table.add_column(heading)
    for name, ratio in ratios.items():
        table.add_row(name, f"{ratio:.2f}", RATIOS[name][2])
    return table


if __name__ == "__main__":
    typer.run(main)
