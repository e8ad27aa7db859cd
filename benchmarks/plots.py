"""Pictures of measured records, for the docs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

OURS, LIMIT, RIVAL = "#1f6f8b", "#9fb8c0", "#c9a26b"


def speeds(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw how many rows a second each system handles, fastest first, on a logarithmic axis."""
    ordered = sorted(records, key=lambda record: record["rows_per_second"])
    figure = Figure(figsize=(9, 0.6 + 0.55 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    values = [record["rows_per_second"] for record in ordered]
    bars = axes.barh(
        [record["system"] for record in ordered], values, color=[_color(record["system"]) for record in ordered]
    )
    labels = [
        f" {record['rows_per_second']:,.0f} rows/s, {record['seconds']:.1f} s, {record['peak_rss_mb']:,.0f} MB"
        for record in ordered
    ]
    axes.bar_label(bars, labels, fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 2, max(values) * 30)
    axes.set_xlabel(f"rows a second (logarithmic), {ordered[0]['rows']:,} rows")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _color(system: str) -> str:
    if system.startswith("tandem"):
        return OURS
    return LIMIT if system.startswith("kernel") else RIVAL
