"""`make bench-growth`: the night on populations of several sizes, beside its kernel.

Time is to grow with the rows, and memory is not. It rewrites the population of `bench-batch`'s home, size after size.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backends.settings import Settings, quiet
from benchmarks.batch_home import BatchHome, prepare
from benchmarks.machine import machine, title
from benchmarks.plots import growth
from benchmarks.rounds import Record, measure

SIZES = "1000000,2000000,5000000,10000000,20000000"
LIBRARIES = ("pyarrow", "onnxruntime", "pyiceberg")


def main(
    sizes: Annotated[str, typer.Option("--rows", help="Customers of each population, with commas between.")] = SIZES,
    output: Annotated[Path | None, typer.Option("--json", help="Where to write the records.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw them, as PNG.")] = None,
) -> None:
    """Measure each size, and print a line for each."""
    quiet()
    console, home = Console(width=110), BatchHome(Settings().home / "benchmarks" / "batch")
    records: list[Record] = []
    for rows in sizes_of(sizes):
        with console.status(f"{rows:,} customers"):
            prepare(home, rows)
        night, kernel = measure("benchmarks.batch_systems", ["tandem-int8", "kernel"], home.folder, lambda _: None)
        console.print(line(night, kernel))
        records += [night, kernel]
    facts = machine(LIBRARIES)
    console.print(title(facts))
    if output:
        output.write_text(json.dumps({"machine": facts, "records": [asdict(r) for r in records]}, indent=2) + "\n")
    if plot:
        growth([asdict(record) for record in records], plot)


def sizes_of(text: str) -> list[int]:
    """Read sizes with commas between them; `BadParameter` for what is no number of rows."""
    if wrong := [size for size in text.split(",") if not size.strip().isdecimal() or not int(size)]:
        raise typer.BadParameter(f"no number of rows: {', '.join(map(repr, wrong))}. Write them like 1000000,2000000.")
    return [int(size) for size in text.split(",")]


def line(night: Record, kernel: Record) -> str:
    """Say how a night went, beside its kernel on the same rows."""
    return (
        f"{night.rows:>12,} rows  {night.seconds:6.2f} s ({night.fastest:.2f} .. {night.slowest:.2f})  "
        f"{night.seconds / kernel.seconds:.2f} x its kernel  {night.rows_per_second:>11,.0f} rows/s  "
        f"{night.peak_rss_mb:,.0f} MB"
    )


if __name__ == "__main__":
    typer.run(main)
