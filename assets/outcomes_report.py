"""What realised quality looks like in Dagster's UI: figures, tables, a picture and verdicts."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import picture
from models.declaration import Declaration
from models.training.realised import (
    CALIBRATION,
    RANKING,
    Quality,
    limits_of,
    quality_of,
    realised_verdict,
    why_not_judged,
)

if TYPE_CHECKING:
    from backends.outcomes import Outcomes

CHECKS = {
    "realised_ranking_is_reached": (RANKING, "Of the version in service, realised ROC-AUC is at least {:g}."),
    "realised_probabilities_are_calibrated": (
        CALIBRATION,
        "Of the version in service, the realised calibration error is at most {:g}.",
    ),
}
DAYS_NAMED = 10


def not_possible(reason: str, today: date) -> dg.MaterializeResult:
    """Say why there are no outcomes; that is no failure of the model."""
    facts = {"reason": f"not judged: {reason}"}
    return dg.MaterializeResult(
        metadata={"matured_rows": 0, "as_of": today.isoformat(), **facts},
        check_results=[_check_result(check, True, facts) for check in CHECKS],
    )


def check_results(declaration: Declaration, judged: Quality, version: int | None) -> list[dg.AssetCheckResult]:
    """Hold the version in service against the limits; None where there is none."""
    problems = {problem.field: str(problem) for problem in realised_verdict(declaration, judged)}
    without, limits = _why_not(declaration, judged, version), limits_of(declaration)
    values = {RANKING: judged.auc, CALIBRATION: judged.calibration_error}
    found = []
    for check, (figure, _) in CHECKS.items():
        reason = problems.get(figure) or (f"not judged: {without}" if without else "holds")
        facts = {"reason": reason, "model_version": version or 0, "matured_rows": judged.rows, "limit": limits[figure]}
        value = {} if values[figure] is None else {figure: values[figure]}
        found.append(_check_result(check, figure not in problems, facts | value))
    return found


def _why_not(declaration: Declaration, judged: Quality, version: int | None) -> str:
    if version is None:
        return "no version is in service"
    why = why_not_judged(declaration, judged)
    return f"of version {version}, {why}" if why else ""


def _check_result(check: str, passed: bool, facts: Mapping[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=check, passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata=dict(facts)
    )


def outcome_facts(declaration: Declaration, found: "Outcomes", today: date) -> dict[str, Any]:
    """Return the figures, what one wants to know first at the top."""
    everything = quality_of(*found.pooled())
    by_version = {version: quality_of(*found.pooled(version)) for version in found.versions}
    history = {
        RANKING: everything.auc,
        CALIBRATION: everything.calibration_error,
        "realised_log_loss": everything.log_loss,
        "realised_top_decile_lift": everything.top_decile_lift,
    }
    return {
        "matured_rows": everything.rows,
        **{name: value for name, value in history.items() if value is not None},
        "base_rate": everything.base_rate,
        "mean_predicted": everything.mean_predicted,
        "by_version": _table(({"model_version": str(v)}, quality) for v, quality in by_version.items()),
        **_pictures(declaration, found),
        "by_day": _table(
            ({"day": str(day.day), "model_version": str(day.version)}, quality_of(day.outcomes, day.scores))
            for day in found.days
        ),
        "as_of": today.isoformat(),
        "days": f"{found.first} to {found.last}",
        **_labels(found),
        **_days_apart(found),
    }


def _table(rows: Iterable[tuple[dict[str, str], Quality]]) -> dg.MetadataValue:
    records = []
    for names, quality in rows:
        figures = {"rows": quality.rows, "positives": quality.positives, "base_rate": quality.base_rate}
        shown = asdict(quality).items()
        figures |= {key: value for key, value in shown if value is not None}
        records.append(dg.TableRecord(names | {key: _rounded(value) for key, value in figures.items()}))
    return dg.MetadataValue.table(records) if records else dg.MetadataValue.text("none has matured")


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 4)


def _pictures(declaration: Declaration, found: "Outcomes") -> dict[str, Any]:
    from models.training.plots import realised_quality

    pooled = {f"version {version}": found.pooled(version) for version in found.versions}
    judgeable = {name: (y, scores) for name, (y, scores) in pooled.items() if 0 < y.sum() < len(y)}
    if not judgeable:
        return {}
    days = {(f"version {day.version}", day.day): quality_of(day.outcomes, day.scores) for day in found.days}
    points = {place: (q.auc, q.auc_error or 0.0) for place, q in days.items() if q.auc is not None}
    png = realised_quality(judgeable, points, limits_of(declaration)[RANKING])
    return {"realised_quality": picture("realised quality", png)}


def _labels(found: "Outcomes") -> dict[str, Any]:
    """Say what became of the labels."""
    matured = found.matured
    facts = {
        "labels": matured.rows,
        "labels_of_unscored_entities": found.unscored,
        "labels_incomplete": matured.incomplete,
        "labels_repeated": matured.repeated,
        "labels_contradicting": matured.contradicting,
    }
    return facts | ({"entities_looked_at": f"one in {matured.one_in}"} if matured.one_in > 1 else {})


def _days_apart(found: "Outcomes") -> dict[str, str]:
    """Name the days that are not what they should be."""
    reruns = [day.day for day in found.days if not day.original]
    named = {
        "days_not_published": found.unpublished,
        "days_scored_afterwards": found.afterwards,
        "days_read_from_a_rerun": reruns,
    }
    return {name: _named(days) for name, days in named.items() if days}


def _named(days: list[date]) -> str:
    more = f" and {len(days) - DAYS_NAMED} more" if len(days) > DAYS_NAMED else ""
    return ", ".join(map(str, days[:DAYS_NAMED])) + more
