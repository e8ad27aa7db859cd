"""Candidate against champion on the same rows: how much is gained, how sure that is, and what it comes to.

The paired bootstrap: rows are drawn again with replacement, and both models are measured on the same draw, so that
what makes rows hard or easy for both of them cancels out. The interval of a gain is that of percentiles (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 and 13).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.declaration import Comparison, Gates
from models.errors import Problem
from models.scoring import Scores
from models.training.split import Labels

Metric = Literal["auc", "log_loss"]
Outcome = Literal["better", "tie", "worse"]
Counts = npt.NDArray[np.int64]  # how often each row was drawn
Sample = npt.NDArray[np.float64]
NAMES: dict[Metric, str] = {"auc": "ROC-AUC", "log_loss": "log-loss"}
SMALLEST = np.finfo(np.float64).eps  # scikit-learn's: a probability of 0 that comes true costs 36 nats, not infinity


@dataclass(frozen=True)
class Gain:
    """How much better the candidate is by one metric: above zero is better, whichever way the metric points.

    `lower` and `upper` enclose the declared share of the resamples; `probability` is the share in which the candidate
    is better, equals counted half; `resampled` has the gain of each resample, float64 [resamples].
    """

    value: float
    lower: float
    upper: float
    probability: float
    resampled: Sample = field(repr=False)


Gains = Mapping[Metric, Gain]


class Ranking:
    """One model's scores, put into an order in which the ROC-AUC of any resample is a sum over the positive rows."""

    def __init__(self, y: Labels, scores: Scores) -> None:
        """Sort `scores`, float [rows], once; `y`, float [rows], is 1 for the positive rows."""
        order = np.argsort(scores, kind="stable")
        positive = y[order] > 0
        self._positives, self._negatives = order[positive], order[~positive]
        highs, lows = scores[self._positives], scores[self._negatives]
        self._below, self._up_to = np.searchsorted(lows, highs, "left"), np.searchsorted(lows, highs, "right")

    def won(self, counts: Counts) -> int:
        """Return twice the number of pairs in which a positive row has the higher score; equal scores count once."""
        negatives = np.zeros(len(self._negatives) + 1, np.int64)
        np.cumsum(counts[self._negatives], out=negatives[1:])
        return int(np.dot(counts[self._positives], negatives[self._below] + negatives[self._up_to]))


def compare(y: Labels, candidate: Scores, champion: Scores, settings: Comparison) -> dict[Metric, Gain]:
    """Return the candidate's gains over the champion on outcomes `y`, float32 [rows] of 0 and 1 (both must occur).

    Both models' scores are float32 [rows]. The same seed gives the same gains; the same scores give gains of exactly
    zero. A resample in which all outcomes are equal has no ROC-AUC: it is drawn again.
    """
    rankings = Ranking(y, candidate), Ranking(y, champion)
    saved, positive = _losses(y, champion) - _losses(y, candidate), np.flatnonzero(y > 0)

    def measure(counts: Counts) -> tuple[float, float]:
        positives = int(counts[positive].sum())
        pairs = 2 * positives * (len(y) - positives)
        nats = float((counts * saved).sum())  # not by BLAS, whose sum depends on the number of cores
        return (rankings[0].won(counts) - rankings[1].won(counts)) / pairs, nats / len(y)

    seen = measure(np.ones(len(y), np.int64))
    drawn = np.array([measure(counts) for counts in draws(y, settings)])
    return {
        "auc": _gain(seen[0], drawn[:, 0], settings.confidence),
        "log_loss": _gain(seen[1], drawn[:, 1], settings.confidence),
    }


def draws(y: Labels, settings: Comparison) -> Iterator[Counts]:
    """Draw the rows again and again: how often each comes, int64 [rows]. Both outcomes are in every draw."""
    rng, rows, positive = np.random.default_rng(settings.seed), len(y), np.flatnonzero(y > 0)
    left = settings.resamples
    while left:
        counts = np.bincount(rng.integers(0, rows, rows), minlength=rows)
        if 0 < counts[positive].sum() < rows:
            left -= 1
            yield counts


def margins(gates: Gates) -> dict[Metric, tuple[float, float]]:
    """Return how far behind a candidate may be, and the gain above which it wins, by metric."""
    least = gates.comparison
    return {
        "auc": (gates.max_auc_behind_champion, least.min_auc_gain),
        "log_loss": (gates.max_log_loss_behind_champion, least.min_log_loss_gain),
    }


def behind(gates: Gates, gains: Gains) -> list[Problem]:
    """Return in what the candidate is behind the champion by more than its margin; empty when it keeps up."""
    problems = []
    for metric, (margin, _) in margins(gates).items():
        gain = gains[metric].value
        if not gain >= -margin:
            message = f"the candidate's {NAMES[metric]} is behind the champion's by more than {margin:g}"
            remedy = "The champion stays; see what changed in the examples."
            problems.append(Problem(f"max_{metric}_behind_champion", gain, message, remedy))
    return problems


def outcome(gates: Gates, gains: Gains) -> Outcome:
    """Say what the gains come to.

    worse: by either metric, the candidate is behind by more than its margin. better: the interval of one gain lies
    above the least gain that is declared, and neither interval reaches below its margin. Anything else is a tie.
    """
    if behind(gates, gains):
        return "worse"
    limits = [(gains[metric].lower, margin, least) for metric, (margin, least) in margins(gates).items()]
    safe = all(lower >= -margin for lower, margin, _ in limits)
    return "better" if safe and any(lower > least for lower, _, least in limits) else "tie"


def _losses(y: Labels, scores: Scores) -> Sample:
    """Return each row's log-loss in nats."""
    right = np.where(y > 0, scores, 1 - scores.astype(np.float64))
    losses: Sample = -np.log(np.clip(right, SMALLEST, 1 - SMALLEST))
    return losses


def _gain(value: float, resampled: Sample, confidence: float) -> Gain:
    lower, upper = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    probability = np.mean(resampled > 0) + np.mean(resampled == 0) / 2
    return Gain(value, float(lower), float(upper), float(probability), resampled)
