"""The figures of `docs/quality.md`, from the JSON of a run: `python -m benchmarks.quality_pages quality.json`.

They stand between two markers; whatever is written around those stays. The picture goes to `docs/images/`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from backends.settings import ROOT
from benchmarks.api_pages import filled
from benchmarks.machine import title
from benchmarks.quality_plot import differences
from benchmarks.quality_verdict import MOST_BEHIND, Row, bars, rows_of

PAGE = ROOT / "docs" / "quality.md"
AUCS = ("table", "splits", "float", "int8", "HGB", "LightGBM", "ahead of HGB", "ahead of LightGBM")
LOSSES = ("table", "float", "int8", "HGB", "LightGBM", "calibration error: float", "LightGBM", "int8: p99 of change")
SYSTEMS = ("float", "int8", "boosted_trees", "lightgbm")


def main(records: Annotated[Path, typer.Argument(help="What `make bench-quality JSON=...` wrote.")]) -> None:
    """Write the tables and the picture into the docs."""
    facts = json.loads(records.read_text())
    PAGE.write_text(filled(PAGE.read_text(), tables(facts), "bench-quality"))
    differences(rows_of(facts["records"]), PAGE.parent / "images" / "quality.png")


def tables(facts: Mapping[str, Any]) -> str:
    """Return the bars, the AUCs and the log-losses of a run, in Markdown."""
    rows = rows_of(facts["records"])
    found = bars(rows, facts["records"])
    reached = [(name, _figure(figure), "reached" if held else "**missed**") for name, (figure, held) in found.items()]
    ahead = [sum(row.leads[rival][0] > 0 for row in rows) for rival in ("boosted_trees", "lightgbm")]
    return "\n".join(
        [
            f"{title(facts['machine'])}. Mean ± standard deviation over the splits, on test rows.\n",
            _table(("bar", "figure", ""), reached),
            f"Of {len(rows)} tables the network is ahead of HistGradientBoosting on {ahead[0]}, of tuned LightGBM on "
            f"{ahead[1]}. AUC:\n",
            _table(AUCS, map(_aucs, rows)),
            "Log-loss (nats), calibration error, and how far int8 moves a score:\n",
            _table(LOSSES, map(_losses, rows)),
        ]
    )


def _figure(value: float) -> str:
    """Write a difference of AUCs, or seconds."""
    return f"{value:+.4f}" if abs(value) < 1 else f"{value:.1f}"


def _aucs(row: Row) -> Sequence[str]:
    figures = [row.systems[system] for system in SYSTEMS]
    aucs = [f"{_short(f.auc)} ±{_short(f.auc_spread)}" for f in figures]
    leads = [_lead(row.leads[rival][0]) for rival in ("boosted_trees", "lightgbm")]
    return (row.name, str(row.splits), *aucs, *leads)


def _losses(row: Row) -> Sequence[str]:
    figures = [row.systems[system] for system in SYSTEMS]
    losses = [f"{_short(f.log_loss)} ±{_short(f.log_loss_spread)}" for f in figures]
    errors = [_short(row.systems[system].calibration_error) for system in ("float", "lightgbm")]
    return (row.name, *losses, *errors, _short(row.p99_change))


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _lead(value: float) -> str:
    return f"**{value:+.4f}**" if value < -MOST_BEHIND else f"{value:+.4f}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    typer.run(main)
