"""What is declared of a profiled source, and why: its tables, split, features, threshold, gates and port."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from models.declaration import Declaration, load_declaration
from models.errors import OnboardingError
from onboarding.baseline import Baseline, least_auc, measure, most_calibration_error
from onboarding.columns import Column
from onboarding.draft import Draft, LeftOut, text_of
from onboarding.features import Feature, feature_of
from onboarding.findings import Finding, What
from onboarding.profiling import Profiled
from onboarding.splits import Choice, choose_split

FIRST_PORT = 3001
SAMPLE = 20_000  # examples that the baseline learns from, about
NAMELESS: tuple[What, ...] = ("identifier", "free text", "empty", "unreadable")  # for which no kind would do
LEAST_OF_EACH = 500  # rows of the rarer outcome among them, where there are so many


@dataclass(frozen=True)
class Declared:
    """A declaration as it was written, and the baseline that its gates were made from."""

    draft: Draft
    declaration: Declaration
    baseline: Baseline


def declare(name: str, found: Profiled, taken: Collection[int], today: date, path: Path) -> Declared:
    """Write a valid declaration to `path`; its API gets a port that is not `taken`."""
    choice = choose_split(found.time)
    draft = _draft(name, found, choice, taken, today)
    baseline = measure(_validated(draft, path), _sample(found))
    draft = _with_gates(draft, found, choice, baseline)
    return Declared(draft, _validated(draft, path), baseline)


def _validated(draft: Draft, path: Path) -> Declaration:
    path.write_text(text_of(draft), "utf-8")
    return load_declaration(path)


def _sample(found: Profiled) -> pa.Table:
    """Return some of the examples, drawn evenly: so many that the rarer outcome is among them, or all."""
    outcome, rng = found.outcome, np.random.default_rng(0)
    rarer = min(outcome.positives, outcome.negatives)
    share = min(1.0, max(SAMPLE / outcome.labelled, LEAST_OF_EACH / rarer))
    batches = found.rows.batches(with_label=True)
    drawn = (batch if share == 1 else batch.filter(pa.array(rng.random(len(batch)) < share)) for batch in batches)
    return pa.Table.from_batches(drawn, found.rows.examples_schema)


# --- tables, split and features -------------------------------------------------------------------------------------


def _draft(name: str, found: Profiled, choice: Choice, taken: Collection[int], today: date) -> Draft:
    features, left_out = _features(found)
    copied, outcome = why_copied(found), found.outcome
    table = found.staged.table
    as_is = bool(table) and not copied
    return Draft(
        name=name,
        source=found.staged.origin,
        key=found.key.name,
        label=outcome.column,
        positive=found.label.positive,
        population=table if as_is else f"silver.{name}_population",
        examples=table if as_is else f"silver.{name}_examples",
        time=found.time.name if found.time else None,
        split=choice.split,
        features=features,
        left_out=left_out,
        port=next(port for port in range(FIRST_PORT, 65_536) if port not in taken),
        first_day=today.replace(day=1),
        notes=(*found.staged.notes, *([f"{table} is copied, since {copied}"] if table and copied else [])),
        comments={
            "population": _about_population(found),
            "examples": _about_examples(found),
            "label": f"{outcome.positives:,} positive ({outcome.share:.2%}): {' '.join(map(repr, outcome.positive))}, "
            f"{outcome.why}",
            "split": choice.why,
        },
    )


def _features(found: Profiled) -> tuple[list[Feature], list[LeftOut]]:
    """Return the features, and what is left out."""
    reasons = {finding.column: finding for finding in found.findings}
    features, left_out = [], []
    for column in found.columns:
        reason = reasons.get(column.name)
        if reason and reason.left_out:
            left_out.append((reason, feature_of(column) if _could_be_one(column, reason) else None))
        else:
            features.append(_warned(feature_of(column), reason))
    if not features:
        why = "; ".join(f"{f.column!r} ({f.what}: {f.evidence})" for f in found.findings) or "there is none"
        raise OnboardingError(
            f"{found.staged.origin} has no column left that could be a feature: {why}. Add columns that tell something "
            "about each row."
        )
    return features, left_out


def _could_be_one(column: Column, reason: Finding) -> bool:
    """Whether a column that is left out has a kind that would do."""
    return reason.what not in NAMELESS and column.reading.kind != "date"


def _warned(feature: Feature, reason: Finding | None) -> Feature:
    evidence = reason.evidence if reason and reason.what == "warning" else ""
    return replace(feature, comment="; ".join(filter(None, (feature.comment, evidence))))


def _about_population(found: Profiled) -> str:
    if found.population is None or found.time is None:
        return f"every row, {found.staged.rows:,}"
    return f"the newest row of each {found.key.name} by {found.time.name}, {found.scored:,}"


def _about_examples(found: Profiled) -> str:
    unlabelled = found.outcome.unlabelled
    others = f"; {unlabelled:,} rows without a label are scored, not learnt from" if unlabelled else ""
    return f"{found.outcome.labelled:,} labelled rows{others}"


def why_copied(found: Profiled) -> str:
    """Return what keeps a table of the catalog from being used as it is; nothing where it can be."""
    if found.population is not None:
        return f"{found.key.name!r} names several rows"
    if found.outcome.unlabelled:
        return f"{found.outcome.column!r} is missing in some rows"
    if not found.label.is_as_it_was(found.staged.types[found.staged.position(found.outcome.column)]):
        return f"{found.outcome.column!r} has to become yes or no"
    if found.staged.is_changed:
        return "columns were renamed, or rows that stand twice left out"
    return next(filter(None, (_why_read(column, found) for column in (*found.columns, found.key))), "")


def _why_read(column: Column, found: Profiled) -> str:
    if not found.staged.types[column.position].equals(column.type):
        return f"{column.name!r} is text that holds {'numbers' if column.is_number else column.reading.kind + 's'}"
    if column.infinite:
        return f"{column.name!r} is infinite in some rows, which a contract refuses"
    return f"{column.name!r} has values that mean missing" if column.reading.found else ""


# --- threshold and gates --------------------------------------------------------------------------------------------


def _with_gates(draft: Draft, found: Profiled, choice: Choice, baseline: Baseline) -> Draft:
    """Add a threshold and gates that a model as good as the baseline passes."""
    rows = max(2, round(found.outcome.labelled * choice.test_share))
    positives = min(max(1, round(rows * found.outcome.share)), rows - 1)
    gates = {
        "min_auc": least_auc(baseline.auc, positives, rows - positives),
        "max_calibration_error": most_calibration_error(found.outcome.share, rows),
    }
    return replace(draft, threshold=baseline.threshold, gates=gates, comments=draft.comments | _reasons(baseline, rows))


def _reasons(baseline: Baseline, rows: int) -> dict[str, str]:
    return {
        "decision_threshold": (
            f"best F1 of a quick baseline: finds {baseline.recall:.0%} of the positives, right in "
            f"{baseline.precision:.0%} of its alarms"
        ),
        "min_auc": f"a quick baseline reaches {baseline.auc:.3f}; below by what chance may do to {rows:,} test rows",
        "max_calibration_error": f"with {rows:,} test rows chance alone makes some",
    }


def warnings_of(found: Profiled, few: int) -> Sequence[str]:
    """Return what to know of the whole table."""
    positives = found.outcome.positives
    return [f"{positives} positive rows are few: every figure is a rough one."] if positives < few else []
