"""What drift looks like in Dagster's UI, of a night and of requests alike: figures, a table, pictures and verdicts."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import picture
from models.declaration import Drift as Limits
from models.errors import Problem

if TYPE_CHECKING:
    from models.drift import Drift, Shift

MOST_PLOTTED = 60  # features with a figure of their own, which Dagster plots over time
MOST_PANELS = 6  # the score, and the features that have moved most
NO_PROFILE = (
    "not judged: version {version} was trained before the ONNX file had a profile of its training set. Train again "
    "(job {model}_training); the nights of the new champion are judged."
)


def verdict(check: str, problems: Iterable[Problem], why_not: str, facts: Mapping[str, Any]) -> dg.AssetCheckResult:
    """Say whether a check holds; it warns, and blocks nothing. Nothing is judged where there is a reason not to."""
    found = "" if why_not else "; ".join(map(str, problems))
    return dg.AssetCheckResult(
        check_name=check,
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"reason": found or why_not or "holds", **facts},
    )


def too_few(rows: int, limits: Limits, what: str) -> str:
    """Say why so few rows are not judged; nothing when they are enough."""
    least = limits.min_rows
    return f"not judged: {rows:,} {what}, but at least {least:,} are needed (drift.min_rows)" if rows < least else ""


def drift_facts(drift: "Drift", limits: Limits) -> dict[str, Any]:
    """Return the figures, what one wants to know first at the top; `pictures_of` has the pictures."""
    most = drift.features[0]
    single = {f"psi_{shift.name}": round(shift.index, 4) for shift in drift.features}
    return {
        "largest_feature_psi": round(most.index, 4),
        "most_shifted_feature": f"{most.name}, most in {most.moved_most}",
        "features_beyond_limit": len(drift.beyond(limits.max_feature_shift)),
        "score_psi": round(drift.score.index, 4),
        "rows_counted": drift.rows,
        "features": _table(drift, limits),
        **(single if len(single) <= MOST_PLOTTED else {}),
    }


def pictures_of(drift: "Drift", limits: Limits) -> dict[str, dg.MetadataValue]:
    """Return how far the features have moved, and how those that have moved most are distributed."""
    from models.training.drift_plots import distributions, shift_bars

    return {
        "how_far": picture("how far", shift_bars(drift, limits.max_feature_shift, limits.max_score_shift)),
        "what_moved": picture("what moved", distributions([drift.score, *drift.features[: MOST_PANELS - 1]])),
    }


def _table(drift: "Drift", limits: Limits) -> dg.MetadataValue:
    rows = [_row(drift.score, limits.max_score_shift)]
    rows += [_row(shift, limits.max_feature_shift) for shift in drift.features]
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows])


def _row(shift: "Shift", limit: float) -> dict[str, str | float]:
    missing, unseen = shift.missing, shift.unseen
    return {
        "feature": shift.name,
        "psi": round(shift.index, 4),
        "verdict": shift.verdict(limit),
        "moved_most": shift.moved_most,
        "missing_in_training": f"{missing[0]:.2%}",
        "missing_now": f"{missing[1]:.2%}",
        "unseen_in_training": f"{unseen[0]:.2%}" if unseen else "",
        "unseen_now": f"{unseen[1]:.2%}" if unseen else "",
    }
