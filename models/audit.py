"""What a night's scores must satisfy before anybody may read them.

Rows as many as the population has, apart from those that were rejected, which are few; keys present and unique; scores
finite and within [0, 1]; and a distribution near the last published night's.
"""

import json
import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.errors import Problem

BINS = 50  # equal-width bins over [0, 1]
EDGES = np.linspace(0, 1, BINS + 1)

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tally:
    """What stands in some of the staged rows, in figures that add up."""

    rows: int = 0
    missing_keys: int = 0
    histogram: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))  # of the scores within [0, 1]
    total: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.rows + other.rows,
            self.missing_keys + other.missing_keys,
            self.histogram + other.histogram,
            self.total + other.total,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )


@dataclass(frozen=True)
class Expected:
    """What the writer says of the rows that it staged."""

    population: int  # rows
    rejected: int  # rows of the population that were not scored
    histogram: Counts  # int64 [BINS], of the scores as they were made


@dataclass(frozen=True)
class Limits:
    """How far a night may go."""

    max_shift: float  # population stability index against the last night
    max_rejected_share: float


@dataclass(frozen=True)
class AuditReport:
    """What was found in the staged rows. `problems` is empty when they may be published."""

    tally: Tally
    rejected: int
    rejected_share: float
    shift: float | None  # population stability index against the last night; None on the first
    problems: list[Problem]

    @property
    def rows(self) -> int:
        """How many rows are staged."""
        return self.tally.rows

    @property
    def mean(self) -> float:
        """The mean score."""
        return self.tally.total / max(1, self.tally.rows)


def histogram_of(scores: npt.NDArray[np.float32]) -> Counts:
    """Count scores in [0, 1] by bin: int64 [BINS]; others, NaN too, are left out."""
    all_good = len(scores) and scores.min() >= 0 and scores.max() <= 1  # NaN is neither
    good = scores if all_good else scores[(scores >= 0) & (scores <= 1)]
    return np.bincount(np.minimum((good * np.float32(BINS)).astype(np.int64), BINS - 1), minlength=BINS)


def tally_of(keys: pa.Array, scores: npt.NDArray[np.float32]) -> Tally:
    """Count one batch, as read back from the staged snapshot."""
    low, high = float(scores.min(initial=math.inf)), float(scores.max(initial=-math.inf))
    with np.errstate(invalid="ignore"):  # infinities of both signs have no sum; the histogram tells of them
        total = float(scores.sum(dtype=np.float64))
    return Tally(len(keys), keys.null_count, histogram_of(scores), total, low, high)


def audit(
    tally: Tally, repeated_keys: int, expected: Expected, last_night: Counts | None, limits: Limits
) -> AuditReport:
    """Hold what stands on the branch against what the writer says, against the last night, and against the limits.

    `repeated_keys` counts the keys that stand in more than one staged row.
    """
    shift = None if last_night is None else population_stability_index(last_night, tally.histogram)
    share = expected.rejected / max(1, expected.population)
    problems = [
        *_row_problems(tally, repeated_keys, expected),
        *_reject_problems(expected, share, limits.max_rejected_share),
        *_score_problems(tally, expected, shift, limits.max_shift),
    ]
    return AuditReport(tally, expected.rejected, share, shift, problems)


def _row_problems(tally: Tally, repeated_keys: int, expected: Expected) -> list[Problem]:
    problems, remedy = [], "Run again; if it stays so, the population's files are damaged."
    wanted = expected.population - expected.rejected
    if tally.rows != wanted:
        message = f"differ in number from the {wanted:,} that the population has, rejects taken off"
        problems.append(Problem("rows", tally.rows, message, "None may be lost or scored twice. Run again."))
    if tally.missing_keys:
        problems.append(Problem("entity key", None, f"is null in {tally.missing_keys:,} rows", remedy))
    if repeated_keys:
        problems.append(Problem("entity key", repeated_keys, "keys stand more than once", remedy))
    return problems


def _reject_problems(expected: Expected, share: float, limit: float) -> list[Problem]:
    if share <= limit:
        return []
    remedy = (
        f"Allowed is a share of {limit:g} (gates.max_rejected_share). Look into the table of rejects, mend the "
        "population, or raise the limit."
    )
    message = f"are {share:.2%} of the population's {expected.population:,}"
    return [Problem("rejected rows", expected.rejected, message, remedy)]


def _score_problems(tally: Tally, expected: Expected, shift: float | None, max_shift: float) -> list[Problem]:
    problems = []
    broken = tally.rows - int(tally.histogram.sum())
    if broken:
        remedy = "Check the champion's training run."
        problems.append(Problem("score", f"{broken:,} rows", "is not a number from 0 to 1", remedy))
    if not np.array_equal(tally.histogram, expected.histogram):
        remedy = "The files were changed or damaged after they were written. Run again."
        problems.append(Problem("score", None, "read back differs from the score that was written", remedy))
    if shift is not None and shift > max_shift:
        remedy = f"Allowed is {max_shift:g} (gates.max_score_shift). Look for a changed source, or raise the limit."
        problems.append(Problem("score shift", round(shift, 4), "against the last night is too large", remedy))
    return problems


def population_stability_index(expected: Counts, actual: Counts) -> float:
    """Return the PSI of two histograms over the same bins: sum((a - e) * ln(a / e)) over shares.

    Below 0.1 is usually read as stable, above 0.25 as changed (Siddiqi, Credit Risk Scorecards, 2006). Empty bins
    count as half a row, so that the index stays finite.
    """
    return float(stability_terms(expected, actual).sum())


def stability_terms(expected: Counts, actual: Counts) -> npt.NDArray[np.float64]:
    """Return what each bin adds to the PSI, float64 [bins]."""
    e = np.maximum(expected, 0.5) / max(1, expected.sum())
    a = np.maximum(actual, 0.5) / max(1, actual.sum())
    terms: npt.NDArray[np.float64] = (a - e) * np.log(a / e)
    return terms


def histogram_to_text(histogram: Counts) -> str:
    """Write a histogram for a snapshot's properties."""
    return json.dumps(histogram.tolist(), separators=(",", ":"))


def histogram_from_text(text: str) -> Counts:
    """Read what `histogram_to_text` wrote."""
    return np.array(json.loads(text), np.int64)
