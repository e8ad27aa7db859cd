"""How good predictions turned out to be, and whether that is good enough. `backends/outcomes` finds them."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.declaration import Declaration
from models.errors import Problem

if TYPE_CHECKING:  # definitions are made with this module, and scikit-learn takes seconds
    import numpy as np
    import numpy.typing as npt

    from models.scoring import Scores
    from models.training.split import Labels

RANKING, CALIBRATION = "realised_auc", "realised_calibration_error"


@dataclass(frozen=True)
class Quality:
    """Realised quality of some predictions; what needs both outcomes is None where only one has come about.

    `auc_error` is the standard error of the AUC, `top_decile_lift` the positive rate of the tenth with the highest
    scores over that of all, `log_loss` is in nats.
    """

    rows: int
    positives: int
    mean_predicted: float
    auc: float | None = None
    auc_error: float | None = None
    log_loss: float | None = None
    calibration_error: float | None = None
    top_decile_lift: float | None = None

    @property
    def base_rate(self) -> float:
        """Share of positive outcomes."""
        return self.positives / max(1, self.rows)


def quality_of(y: "Labels", scores: "Scores") -> Quality:
    """Measure `scores`, float32 [rows], on outcomes `y`, float32 [rows] of 0 and 1; no rows are allowed."""
    from models.training.evaluation import evaluate

    rows, positives = len(y), int(y.sum())
    mean = float(scores.mean(dtype="float64")) if rows else 0.0
    if not 0 < positives < rows:
        return Quality(rows, positives, mean)
    found = evaluate(y, scores, threshold=0.5)
    return Quality(
        rows,
        positives,
        mean,
        found["auc"],
        auc_standard_error(y, scores),
        found["log_loss"],
        found["calibration_error"],
        found["top_decile_lift"],
    )


def auc_standard_error(y: "Labels", scores: "Scores") -> float:
    """Return the standard error of the AUC of `scores` on outcomes `y` (both must occur).

    DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988), by midranks as in Sun and Xu (IEEE SPL 21, 2014).
    """
    variance = 0.0
    ranks = _midranks(scores)
    for part in (y == 1, y == 0):
        among, others = int(part.sum()), int((~part).sum())
        placed = (ranks[part] - _midranks(scores[part])) / others  # share of the other outcome's scores below each
        variance += float(((placed - placed.mean()) ** 2).sum()) / max(1, among - 1) / among
    return math.sqrt(variance)


def _midranks(scores: "Scores") -> "npt.NDArray[np.float64]":
    """Return the rank of each score, from 1; equal ones share the middle of theirs."""
    import numpy as np

    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks


def limits_of(declaration: Declaration) -> dict[str, float]:
    """Return the least realised AUC and the most realised calibration error, as declared or by the gates."""
    limits, gates = declaration.outcomes, declaration.gates
    error = limits.max_calibration_error
    return {
        RANKING: gates.min_auc if limits.min_auc is None else limits.min_auc,
        CALIBRATION: 2 * gates.max_calibration_error if error is None else error,
    }


def why_not_judged(declaration: Declaration, quality: Quality) -> str:
    """Say why there is no verdict on some predictions; nothing when there can be one."""
    least = declaration.outcomes.min_rows
    if quality.rows < least:
        return f"{quality.rows:,} matured predictions are fewer than outcomes.min_rows, {least:,}"
    if quality.auc is None:
        return f"the outcome of all {quality.rows:,} matured predictions is the same"
    return ""


def realised_verdict(declaration: Declaration, quality: Quality) -> list[Problem]:
    """Return what is not good enough, by the name of its figure; empty as well where there is no verdict."""
    if why_not_judged(declaration, quality) or quality.auc is None or quality.calibration_error is None:
        return []
    limits, problems = limits_of(declaration), []
    if not quality.auc >= limits[RANKING]:
        remedy = "Train again on newer examples; the candidate must beat the champion to replace it."
        message = f"realised ROC-AUC is below {limits[RANKING]:g}"
        problems.append(Problem(RANKING, round(quality.auc, 4), message, remedy))
    if not quality.calibration_error <= limits[CALIBRATION]:
        remedy = (
            f"Predicted were {quality.mean_predicted:.2%} on average, {quality.base_rate:.2%} came about: train again."
        )
        message = f"the realised calibration error is above {limits[CALIBRATION]:g}"
        problems.append(Problem(CALIBRATION, round(quality.calibration_error, 4), message, remedy))
    return problems
