"""Pictures of candidate against champion, as PNG bytes 860 pixels wide: how sure the gains are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.training.comparison import NAMES, Gain, Gains, margins
from models.training.plots import COLOURS, DASHED, INK, SHADE, dress, new_figure, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from models.declaration import Gates

BARS = 40


def gain_histograms(gains: Gains, gates: Gates) -> bytes:
    """Return how each gain is spread over the resamples, with its interval, zero, and what is declared."""
    figure, panels = new_figure(height=4.2, panels=len(gains))
    for axes, (metric, gain) in zip(panels, gains.items(), strict=True):
        margin, least = margins(gates)[metric]
        _spread(axes, gain, f"{gates.comparison.confidence:.0%} of the resamples")
        _line(axes, 0, INK, "-", "as good as the champion")
        _line(axes, -margin, COLOURS[1], DASHED, "as far behind as may be")
        if least:
            _line(axes, least, COLOURS[2], DASHED, "least gain")
        ends = [-margin, 0, least, float(gain.resampled.min()), float(gain.resampled.max())]
        room = 0.06 * (max(ends) - min(ends)) or 1e-3
        title = f"{NAMES[metric]}: {gain.value:+.4f}, better in {gain.probability:.1%}"
        dress(axes, title, f"gain in {NAMES[metric]} (to the right: better)", "resamples")
        axes.set_xlim(min(ends) - room, max(ends) + room)
        axes.locator_params(axis="x", nbins=5)
    named = {label: artist for axes in panels for artist, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return to_png(figure)


def _spread(axes: Axes, gain: Gain, label: str) -> None:
    low, high = float(gain.resampled.min()), float(gain.resampled.max())
    reach = (low, high) if high > low else (low - 1e-4, high + 1e-4)
    axes.hist(gain.resampled, bins=BARS, range=reach, color=COLOURS[0], zorder=2)
    axes.axvspan(gain.lower, gain.upper, color=SHADE, alpha=0.28, linewidth=0, zorder=1, label=label)


def _line(axes: Axes, x: float, colour: str, style: str | tuple[int, tuple[int, int]], label: str) -> None:
    axes.axvline(x, color=colour, linewidth=1.4, linestyle=style, zorder=3, label=label)
