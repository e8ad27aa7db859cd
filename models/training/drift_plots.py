"""Pictures of drift, as PNG bytes 860 pixels wide: how far each feature has moved, and what of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from models.drift import Drift, Shift
from models.training.plots import COLOURS, DASHED, GRID, INK, SHADE, dress, new_figure, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BARS, COLUMNS = 30, 3
MOST_LABELS, MOST_LETTERS = 6, 9  # below a panel
COLOUR_OF = {"steady": SHADE, "moving": COLOURS[0], "shifted": COLOURS[1]}


def shift_bars(drift: Drift, feature_limit: float, score_limit: float) -> bytes:
    """Return the index of the score and of each feature, the largest first, against their limits."""
    shown = [drift.score, *drift.features[:MOST_BARS]]
    limits = [score_limit] + [feature_limit] * (len(shown) - 1)
    figure, (axes,) = new_figure(height=1.3 + 0.26 * len(shown))
    rows = np.arange(len(shown))
    indices = [shift.index for shift in shown]
    colours = [COLOUR_OF[shift.verdict(limit)] for shift, limit in zip(shown, limits, strict=True)]
    axes.barh(rows, indices, color=colours, height=0.62)
    for row, index in zip(rows, indices, strict=True):
        axes.annotate(f"{index:.3f}", (index, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.vlines(limits, rows - 0.5, rows + 0.5, color=INK, linewidth=1.2, linestyle="--")
    axes.axhline(0.5, color=GRID, linewidth=1.6)
    axes.set_yticks(rows, [shift.name for shift in shown])
    dress(axes, _title(drift, feature_limit), "population stability index against the training set", "")
    axes.grid(visible=False, axis="y")
    axes.set(ylim=(len(shown) - 0.4, -0.6), xlim=(0, 1.12 * max(*indices, *limits)))
    return to_png(figure)


def distributions(shifts: Sequence[Shift]) -> bytes:
    """Return a panel for each shift: the share of each bin in the training set and now."""
    rows = -(-len(shifts) // COLUMNS)
    figure, panels = new_figure(height=0.5 + 2.2 * rows, panels=COLUMNS, rows=rows)
    for axes, shift in zip(panels, shifts, strict=False):
        _panel(axes, shift)
    for axes in panels[len(shifts) :]:
        axes.set_visible(False)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    return to_png(figure)


def drift_history(scores: Mapping[str, float], largest: Mapping[str, float], limit: float) -> bytes:
    """Return the index of the score and the largest of any feature, night after night (by ISO date)."""
    figure, (axes,) = new_figure(height=3.0)
    dots: dict[str, Any] = {"linewidth": 1.8, "marker": "o", "markersize": 4, "clip_on": False, "zorder": 3}
    axes.plot(list(scores), list(scores.values()), color=COLOURS[0], label="score", **dots)
    axes.plot(list(largest), list(largest.values()), color=COLOURS[1], label="largest of a feature", **dots)
    axes.axhline(limit, color=INK, linewidth=1.2, linestyle=DASHED)
    dress(axes, f"The last {len(scores)} nights", "", "population stability index")
    step = -(-len(scores) // 8)
    axes.set_xticks(list(scores)[::step])
    axes.set_ylim(0, 1.1 * max([limit, *scores.values(), *largest.values()]))
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    return to_png(figure)


def _title(drift: Drift, limit: float) -> str:
    beyond = len(drift.beyond(limit))
    found = f"{beyond} of {len(drift.features)} features beyond {limit:g}" if beyond else f"no feature beyond {limit:g}"
    return f"{drift.rows:,} rows: {found}"


def _panel(axes: Axes, shift: Shift) -> None:
    before, now = shift.shares
    shown = [at for at in range(len(before)) if before[at] or now[at]]
    places = np.arange(len(shown))
    axes.bar(places - 0.21, before[shown], width=0.42, color=SHADE, label="training set")
    axes.bar(places + 0.21, now[shown], width=0.42, color=COLOURS[0], label="now")
    dress(axes, f"{shift.name}  {shift.index:.3f}", "", "")
    axes.title.set_fontsize(9.5)
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.locator_params(axis="y", nbins=4, steps=[1, 2, 5, 10])
    step = -(-len(shown) // MOST_LABELS)
    marks = sorted({*places[::step].tolist(), *([places[-1].item()] if shift.labels[shown[-1]] == "missing" else [])})
    axes.set_xticks(marks, [_short(shift.labels[shown[at]]) for at in marks], fontsize=7.5)


def _short(label: str) -> str:
    """Name a bin in a few letters: a number's by its upper end."""
    low, _, high = label.rpartition("up to ")
    short = high if low or not high.startswith("above ") else f"> {high.removeprefix('above ')}"
    return short if len(short) <= MOST_LETTERS else f"{short[: MOST_LETTERS - 1]}."
