"""The picture of `benchmarks/quality.py`: how far the network's AUC is from each rival's, table by table."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.plots import OURS, RIVAL
from benchmarks.quality_verdict import MOST_BEHIND, Row

SHOWN = {"boosted_trees": ("HistGradientBoosting, defaults", RIVAL, "o"), "lightgbm": ("LightGBM, tuned", OURS, "D")}


def differences(rows: Sequence[Row], path: Path) -> None:
    """Draw a line for each table, the smallest lead over LightGBM at the bottom; to the right the network is better."""
    ordered = sorted(rows, key=lambda row: row.leads["lightgbm"][0])
    figure = Figure(figsize=(9, 0.9 + 0.32 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-MOST_BEHIND, 0, color="#e9eef0", zorder=0, label=f"behind by at most {MOST_BEHIND:g}")
    axes.axvline(0, color="#555555", linewidth=1)
    for rival, (label, color, marker) in SHOWN.items():
        means = [row.leads[rival][0] for row in ordered]
        spreads = [row.leads[rival][1] for row in ordered]
        places = range(len(ordered))
        axes.errorbar(means, places, xerr=spreads, fmt=marker, color=color, capsize=2, markersize=5, label=label)
    axes.set_yticks(range(len(ordered)), [row.name for row in ordered], fontsize=9)
    axes.set_xlabel("AUC of the network less AUC of the rival, mean and spread of the splits (logarithmic from .01 on)")
    axes.set_xscale("symlog", linthresh=0.01)
    ticks = (-0.005, 0, 0.005, 0.01, 0.02, 0.05, 0.1)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)
