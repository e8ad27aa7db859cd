"""Pictures for people, as PNG bytes 860 pixels wide. What they show is computed in `evaluation` and `fit`.

matplotlib and scikit-learn are imported inside the functions: they are large, and a night needs none of the second.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from models.scoring import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from models.training.split import Labels

INK, GRID, SHADE = "#1f2933", "#e4e7eb", "#9aa5b1"
COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea")
DASHED = (0, (4, 4))


def roc_and_calibration(y: Labels, scores: Mapping[str, Scores]) -> bytes:
    """Return ROC curves (left) and reliability curves over ten bins of equal count (right) of named scores."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, (roc, reliability) = new_figure(height=4.4, panels=2)
    highest = 0.0
    for (name, values), colour in zip(scores.items(), COLOURS, strict=False):
        false_positives, true_positives, _ = roc_curve(y, values)
        label = f"{name}  {roc_auc_score(y, values):.4f}"
        roc.plot(false_positives, true_positives, color=colour, linewidth=2, label=label)
        highest = max(highest, _reliability(reliability, y, values, colour, name))
    dress(roc, "Ranking: ROC curve and its area", "false positive rate", "true positive rate")
    dress(reliability, "Calibration: ten bins of equal count", "mean predicted probability", "observed share")
    for axes, end in ((roc, 1.0), (reliability, min(1.0, 1.06 * highest))):
        axes.plot([0, 1], [0, 1], color=SHADE, linewidth=1, linestyle=DASHED, zorder=0)
        axes.set(xlim=(0, end), ylim=(0, end * 1.01))
        axes.legend(loc="lower right", frameon=False, fontsize=9)
    return to_png(figure)


def float_against_int8(float_scores: Scores, int8_scores: Scores) -> bytes:
    """Return the change of each row's score against its float score (left), and how the changes are spread (right)."""
    figure, (rows, spread) = new_figure(height=4.2, panels=2)
    change = int8_scores.astype(np.float64) - float_scores
    p99 = float(np.quantile(np.abs(change), 0.99))
    reach = max(float(np.abs(change).max()), 1e-6)
    density = rows.hexbin(float_scores, change, gridsize=(48, 30), bins="log", cmap="viridis_r", mincnt=1, linewidths=0)
    bar = figure.colorbar(density, ax=rows, pad=0.02, label="rows")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8.5)
    rows.set_ylim(-1.05 * reach, 1.05 * reach)
    dress(rows, "Change of each score", "float score", "int8 minus float")
    spread.hist(change, bins=61, range=(-reach, reach), color=COLOURS[0], log=True)
    for side in (-p99, p99):
        rows.axhline(side, color=COLOURS[1], linewidth=1.4, linestyle=DASHED)
        spread.axvline(side, color=COLOURS[1], linewidth=1.4, linestyle=DASHED)
    dress(spread, f"Mean {np.abs(change).mean():.4f}, 99 % within {p99:.4f}", "int8 minus float", "rows")
    spread.locator_params(axis="x", nbins=5)
    spread.minorticks_off()
    return to_png(figure)


def training_curve(losses: Sequence[float]) -> bytes:
    """Return the training loss over the course of the training, with a running mean."""
    figure, (axes,) = new_figure(height=3.4, panels=1)
    progress = np.linspace(0, 100, len(losses))
    axes.plot(progress, losses, color=COLOURS[0], linewidth=1, alpha=0.35)
    window = max(len(losses) // 20, 1)
    smooth = np.convolve(losses, np.full(window, 1 / window), "valid")
    axes.plot(np.convolve(progress, np.full(window, 1 / window), "valid"), smooth, color=COLOURS[0], linewidth=2)
    dress(axes, f"Training loss, {smooth[-1]:.4f} at the end", "share of the training (%)", "cross-entropy (nats)")
    axes.set_xlim(0, 100)
    return to_png(figure)


def realised_quality(
    versions: Mapping[str, tuple[Labels, Scores]],
    days: Mapping[tuple[str, date], tuple[float, float]],
    least_auc: float,
) -> bytes:
    """Return realised AUC by day, with two standard errors, and its limit (left), and reliability by version (right).

    `versions` has outcomes and scores, of both outcomes each; `days` has AUC and standard error by version and day. Of
    many versions the last four are shown.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure, (ranking, reliability) = new_figure(height=4.2, panels=2)
    highest = 0.0
    for (name, (y, scores)), colour in zip(list(versions.items())[-len(COLOURS) :], COLOURS, strict=False):
        points = {day: point for (of, day), point in sorted(days.items(), key=lambda item: item[0][1]) if of == name}
        aucs, errors = [auc for auc, _ in points.values()], [2 * error for _, error in points.values()]
        ranking.errorbar(
            np.array(list(points), "datetime64[D]"),
            aucs,
            errors,
            color=colour,
            marker="o",
            markersize=5,
            linewidth=1.6,
            elinewidth=1,
            label=name,
        )
        highest = max(highest, _reliability(reliability, y, scores, colour, f"{name}: {len(y):,} rows"))
    ranking.axhline(least_auc, color=SHADE, linewidth=1.2, linestyle=DASHED, zorder=0, label=f"least  {least_auc:g}")
    dress(ranking, "Realised ranking, by day of the prediction", "", "ROC-AUC, two standard errors")
    locator = AutoDateLocator(minticks=2, maxticks=6)
    ranking.xaxis.set_major_locator(locator)
    ranking.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    dress(reliability, "Calibration: ten bins of equal count", "mean predicted probability", "share that came about")
    end = min(1.0, 1.06 * highest) or 1.0
    reliability.plot([0, 1], [0, 1], color=SHADE, linewidth=1, linestyle=DASHED, zorder=0)
    reliability.set(xlim=(0, end), ylim=(0, end * 1.01))
    ranking.legend(loc="best", frameon=False, fontsize=9)
    reliability.legend(loc="lower right", frameon=False, fontsize=9)
    return to_png(figure)


def _reliability(axes: Axes, y: Labels, scores: Scores, colour: str, label: str) -> float:
    """Draw the share that came about over the mean score, in bins of equal count; return the highest of both."""
    from models.training.evaluation import BINS

    bins = np.array_split(np.argsort(scores, kind="stable"), min(BINS, len(y)))
    predicted, observed = [float(scores[rows].mean()) for rows in bins], [float(y[rows].mean()) for rows in bins]
    axes.plot(predicted, observed, color=colour, linewidth=1.6, marker="o", markersize=5, label=label)
    return max(*predicted, *observed)


def new_figure(height: float, panels: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, row after row of `panels`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, height), dpi=100, layout="constrained")
    return figure, list(np.ravel(figure.subplots(rows, panels)))


def dress(axes: Axes, title: str, x: str, y: str) -> None:
    """Give axes their title and their labels, and the look of all pictures."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=10)
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.tick_params(labelsize=8.5, colors=INK, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
