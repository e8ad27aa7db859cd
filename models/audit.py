"""What a night's scores must satisfy before anybody may read them: a pure fold over the staged rows.

Rows as many as the population has, keys present and unique, scores finite and within [0, 1], and a distribution near
the last published night's.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import Problem

BINS = 50  # equal-width bins over [0, 1]
EDGES = np.linspace(0, 1, BINS + 1)

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AuditReport:
    """What was found in the staged rows. `problems` is empty when they may be published."""

    rows: int
    histogram: Counts  # int64 [BINS]
    mean: float
    minimum: float
    maximum: float
    shift: float | None  # population stability index against the last night; None on the first
    problems: list[Problem]


@dataclass(frozen=True)
class Expected:
    """What the writer says it staged."""

    rows: int  # of the population
    histogram: Counts  # int64 [BINS], of the scores as they were made


def histogram_of(scores: npt.NDArray[np.float32]) -> Counts:
    """Count scores in [0, 1] by bin: int64 [BINS]; others, NaN too, are left out."""
    good = scores[(scores >= 0) & (scores <= 1)]
    return np.bincount(np.minimum((good * np.float32(BINS)).astype(np.int64), BINS - 1), minlength=BINS)


def audit(
    batches: Iterable[tuple[pa.Array, npt.NDArray[np.float32]]],
    expected: Expected,
    last_night: Counts | None,
    max_shift: float,
) -> AuditReport:
    """Audit (keys, scores) batches as read back from the staged snapshot."""
    keys, histogram, total = [], np.zeros(BINS, np.int64), 0.0
    low, high = np.inf, -np.inf
    for batch_keys, scores in batches:
        keys.append(batch_keys)
        histogram += histogram_of(scores)
        total += float(scores.sum(dtype=np.float64))
        low, high = float(scores.min(initial=low)), float(scores.max(initial=high))
    rows = sum(map(len, keys))
    shift = None if last_night is None else population_stability_index(last_night, histogram)
    problems = [
        *_row_problems(keys, rows, expected.rows),
        *_score_problems(histogram, rows, expected, shift, max_shift),
    ]
    return AuditReport(rows, histogram, total / max(1, rows), low, high, shift, problems)


def _row_problems(keys: list[pa.Array], rows: int, expected_rows: int) -> list[Problem]:
    problems = []
    if rows != expected_rows:
        remedy = f"The population has {expected_rows:,} rows: none may be lost or scored twice. Run again."
        problems.append(Problem("rows", rows, "differ in number from the population's", remedy))
    missing = sum(chunk.null_count for chunk in keys)
    if missing:
        problems.append(Problem("entity key", None, f"is null in {missing:,} rows", "Mend the population table."))
    distinct = _count_distinct(keys)
    if distinct != rows - missing:
        message = f"{rows - missing - distinct:,} keys stand more than once"
        problems.append(Problem("entity key", distinct, message, "Mend the population table: one row for each key."))
    return problems


def _score_problems(
    histogram: Counts, rows: int, expected: Expected, shift: float | None, max_shift: float
) -> list[Problem]:
    problems = []
    broken = rows - int(histogram.sum())
    if broken:
        remedy = "Check the champion's training run."
        problems.append(Problem("score", f"{broken:,} rows", "is not a number from 0 to 1", remedy))
    if not np.array_equal(histogram, expected.histogram):
        remedy = "The files were changed or damaged after they were written. Run again."
        problems.append(Problem("score", None, "read back differs from the score that was written", remedy))
    if shift is not None and shift > max_shift:
        remedy = f"Allowed is {max_shift:g} (gates.max_score_shift). Look for a changed source, or raise the limit."
        problems.append(Problem("score shift", round(shift, 4), "against the last night is too large", remedy))
    return problems


def _count_distinct(keys: list[pa.Array]) -> int:
    """Count distinct keys that are not null. Integers are sorted in place: 8 bytes a row and no hash table."""
    if not keys:
        return 0
    if not pa.types.is_integer(keys[0].type):
        return int(pc.count_distinct(pa.chunked_array(keys)).as_py())
    values = np.concatenate([chunk.drop_null().to_numpy() for chunk in keys])
    if not (values[1:] > values[:-1]).all():  # a population in the order of its keys needs no sorting
        values.sort()
    return int(np.count_nonzero(values[1:] != values[:-1])) + min(1, len(values))


def population_stability_index(expected: Counts, actual: Counts) -> float:
    """Return the PSI of two histograms over the same bins: sum((a - e) * ln(a / e)) over shares.

    Below 0.1 is usually read as stable, above 0.25 as changed (Siddiqi, Credit Risk Scorecards, 2006). Empty bins
    count as half a row, so that the index stays finite.
    """
    e = np.maximum(expected, 0.5) / max(1, expected.sum())
    a = np.maximum(actual, 0.5) / max(1, actual.sum())
    return float(((a - e) * np.log(a / e)).sum())


def histogram_to_text(histogram: Counts) -> str:
    """Write a histogram for a snapshot's properties."""
    return json.dumps(histogram.tolist(), separators=(",", ":"))


def histogram_from_text(text: str) -> Counts:
    """Read what `histogram_to_text` wrote."""
    return np.array(json.loads(text), np.int64)
