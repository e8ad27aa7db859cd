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


def growth(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the seconds and the peak of memory of the night against its rows, beside a line through the origin."""
    night = sorted((r for r in records if r["system"].startswith("tandem")), key=lambda r: r["rows"])
    millions = [r["rows"] / 1e6 for r in night]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    time, memory = figure.subplots(1, 2)
    pace = night[-1]["seconds"] / millions[-1]
    time.plot([0, millions[-1]], [0, pace * millions[-1]], color=LIMIT, label="in proportion")
    spread = [[r["seconds"] - r["fastest"] for r in night], [r["slowest"] - r["seconds"] for r in night]]
    time.errorbar(millions, [r["seconds"] for r in night], spread, color=OURS, marker="o", capsize=3, label="the night")
    time.set_ylabel("seconds")
    time.legend(frameon=False)
    memory.plot(millions, [r["peak_rss_mb"] for r in night], color=OURS, marker="o")
    memory.set_ylabel("peak memory, MB")
    memory.set_ylim(0, 1.3 * max(r["peak_rss_mb"] for r in night))
    for axes in (time, memory):
        axes.set_xlabel("million rows")
        axes.set_xlim(0, 1.05 * millions[-1])
        axes.spines[["top", "right"]].set_visible(False)
    time.set_ylim(0)
    figure.savefig(path, dpi=130)


def _color(system: str) -> str:
    if system.startswith("tandem"):
        return OURS
    return LIMIT if system.startswith("kernel") else RIVAL


BUDGET_MS = 15.0
STYLES = {
    "tandem-rest": (OURS, "-"),
    "tandem-grpc": (OURS, "--"),
    "tandem-oip": (OURS, ":"),
    "bare": (LIMIT, "-"),
    "mlflow-tensors": (RIVAL, "--"),
}


def waits(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw how long the slowest of a hundred requests takes at each rate, on logarithmic axes; a panel for each store.

    A system without a store is in every panel.
    """
    stores = [store for store in dict.fromkeys(record["store"] for record in records) if store != "none"] or ["none"]
    figure = Figure(figsize=(5 * len(stores), 4), layout="constrained")
    for axes, store in zip(figure.subplots(1, len(stores), sharey=True, squeeze=False)[0], stores, strict=True):
        shown = [record for record in records if record["rate"] and record["store"] in (store, "none")]
        for system in dict.fromkeys(record["system"] for record in shown):
            points = sorted((record["rate"], record["p99_ms"]) for record in shown if record["system"] == system)
            color, style = STYLES.get(system, (RIVAL, "-"))
            axes.plot(*zip(*points, strict=True), style, color=color, marker="o", label=system)
        axes.axhline(BUDGET_MS, color="#b03a2e", linewidth=1, label=f"{BUDGET_MS:g} ms")
        axes.set(title=store, xlabel="requests due a second", xscale="log", yscale="log")
        ticks = sorted({record["rate"] for record in shown})
        axes.set_xticks(ticks, [f"{rate:,}" for rate in ticks], minor=False)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("p99, ms, from when it was due")
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(handles=list(lines.values()), loc="outside lower center", ncols=len(lines), fontsize=8)
    figure.savefig(path, dpi=130)
