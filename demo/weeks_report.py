"""What became of the company's weeks: a table for the terminal, and a picture."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from rich.table import Table

from models.declaration import Declaration
from orchestration.sensors.retraining import DRIFT, OUTCOMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass
class Week:
    """One week: what Dagster has seen, what the truth was, and what was done."""

    number: int
    day: date
    version: int
    feature: str
    feature_psi: float
    score_psi: float
    realised_auc: float | None  # of the predictions whose outcomes became known this week
    served_auc: float
    never_retrained_auc: float
    best_possible_auc: float
    failed: frozenset[str]
    event: str = ""

    @property
    def drift_seen(self) -> bool:
        """Whether a check of drift has failed."""
        return not self.failed.isdisjoint(DRIFT)

    @property
    def loss_seen(self) -> bool:
        """Whether a check of realised quality has failed."""
        return not self.failed.isdisjoint(OUTCOMES)

    @property
    def promoted(self) -> bool:
        """Whether a new version was promoted."""
        return self.event.endswith("promoted")


def weeks_table(weeks: Sequence[Week]) -> Table:
    """Return the weeks, a row each."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("week", "day", "largest PSI", "of", "score PSI", "realised", "served", "never retrained", "best"):
        table.add_column(heading, justify="left" if heading in ("day", "of") else "right", no_wrap=True)
    table.add_column("version", justify="right")
    table.add_column("what happened")
    for week in weeks:
        realised = "" if week.realised_auc is None else f"{week.realised_auc:.3f}"
        table.add_row(
            str(week.number),
            str(week.day),
            _marked(f"{week.feature_psi:.3f}", week.drift_seen),
            week.feature,
            f"{week.score_psi:.3f}",
            _marked(realised, week.loss_seen),
            *(f"{auc:.3f}" for auc in (week.served_auc, week.never_retrained_auc, week.best_possible_auc)),
            str(week.version),
            _marked(week.event, False, week.promoted),
        )
    table.caption = (
        "realised: what churn/outcomes reports that week, of predictions five weeks old. served, never retrained "
        "(version 1) and best: against the truth of that week's customers."
    )
    table.caption_justify = "left"
    return table


def _marked(text: str, bad: bool, good: bool = False) -> str:
    return f"[red]{text}[/red]" if bad else f"[green]{text}[/green]" if good else text


def weeks_plot(weeks: Sequence[Week], campaign: date, declaration: Declaration) -> bytes:
    """Return AUC (above) and drift (below), week by week, with what happened, as PNG bytes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), dpi=100, layout="constrained")
    ranking, drift = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _ranking(ranking, weeks, declaration)
    _drift(drift, weeks, declaration)
    for axes in (ranking, drift):
        _events(axes, weeks, campaign)
    _names(ranking, weeks, campaign)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _ranking(axes: "Axes", weeks: Sequence[Week], declaration: Declaration) -> None:
    from models.training.plots import COLOURS, DASHED, SHADE

    at = [week.number for week in weeks]
    axes.plot(at, [week.best_possible_auc for week in weeks], color=SHADE, linestyle=DASHED, label="best possible")
    never = [week.never_retrained_auc for week in weeks]
    axes.plot(at, never, color=COLOURS[1], linewidth=1.6, label="version 1, never retrained")
    axes.plot(at, [week.served_auc for week in weeks], color=COLOURS[0], linewidth=2.4, label="the champion served")
    known = {week.number: week.realised_auc for week in weeks if week.realised_auc is not None}
    label = "realised, of five weeks ago"
    axes.plot(list(known), list(known.values()), "o", color=COLOURS[2], markersize=6, label=label)
    least = declaration.outcomes.min_auc or declaration.gates.min_auc
    axes.axhline(least, color=COLOURS[2], linewidth=1, linestyle=DASHED, label=f"least realised  {least:g}")
    _finish(axes, "ROC-AUC", "")


def _drift(axes: "Axes", weeks: Sequence[Week], declaration: Declaration) -> None:
    from models.training.plots import COLOURS, DASHED, INK

    at = [week.number for week in weeks]
    axes.plot(at, [week.feature_psi for week in weeks], color=COLOURS[3], linewidth=2, label="most shifted feature")
    axes.plot(at, [week.score_psi for week in weeks], color=COLOURS[0], linewidth=1.6, label="score")
    limit = declaration.drift.max_feature_shift
    axes.axhline(limit, color=COLOURS[3], linewidth=1, linestyle=DASHED, label=f"limit  {limit:g}")
    axes.set_ylim(bottom=0)
    kept = [week.number + 0.5 for week in weeks if week.event and not week.promoted]
    axes.plot(kept, [0.0] * len(kept), "x", color=INK, markersize=7, clip_on=False, label="trained, champion kept")
    _finish(axes, "population stability index", "week")


def _finish(axes: "Axes", y: str, x: str) -> None:
    from models.training.plots import dress

    dress(axes, "", x, y)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlim(left=0.5)


def _moments(weeks: Sequence[Week], campaign: date) -> dict[str, float]:
    """Return what happened for the first time, and each promotion, with its week; trainings follow a week's nights."""
    begins = (campaign - weeks[0].day).days / 7 + 1
    found = {"campaign starts": begins} if 1 <= begins <= weeks[-1].number else {}
    seen = next((week.number for week in weeks if week.drift_seen), None)
    lost = next((week.number for week in weeks if week.loss_seen), None)
    found |= {"drift is seen": float(seen)} if seen else {}
    found |= {"loss is seen": float(lost)} if lost else {}
    return found | {week.event.removeprefix("trained: "): week.number + 0.5 for week in weeks if week.promoted}


def _events(axes: "Axes", weeks: Sequence[Week], campaign: date) -> None:
    from models.training.plots import COLOURS, INK

    for name, at in _moments(weeks, campaign).items():
        axes.axvline(at, color=COLOURS[2] if name.endswith("promoted") else INK, linewidth=1, zorder=1)


def _names(axes: "Axes", weeks: Sequence[Week], campaign: date) -> None:
    """Write above the picture what happened when."""
    for name, at in _moments(weeks, campaign).items():
        axes.annotate(name, (at, 1.01), xycoords=("data", "axes fraction"), rotation=30, fontsize=8.5, ha="left")
