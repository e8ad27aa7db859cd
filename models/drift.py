"""How far rows have moved away from the training set: population stability indices over a profile's bins.

What an index means, which limits are usual and what to do above them is in docs/drift.md.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.audit import Counts, stability_terms
from models.contract import CategoryFeature, Contract, Feature
from models.errors import Problem
from models.profile import Bins, CategoryBins, Histograms, Profile, bin_names

Shares = npt.NDArray[np.float64]

MOVING = 0.1  # from here on, an index is usually read as a change worth a look (Siddiqi, 2006)


@dataclass(frozen=True)
class Shift:
    """How far a feature, or the score, is from the training set. Shares are of all rows, in both."""

    name: str
    index: float  # population stability index
    labels: list[str]  # of the bins
    training: Counts  # int64 [bins]
    now: Counts  # int64 [bins]
    is_category: bool

    @property
    def shares(self) -> tuple[Shares, Shares]:
        """The share of each bin, in the training set and now."""
        return self.training / max(1, self.training.sum()), self.now / max(1, self.now.sum())

    @property
    def missing(self) -> tuple[float, float]:
        """The share of missing values, in the training set and now."""
        before, now = self.shares
        return float(before[-1]), float(now[-1])

    @property
    def unseen(self) -> tuple[float, float] | None:
        """The share of values that the vocabulary has not, in the training set and now; None for numbers."""
        before, now = self.shares
        return (float(before[-2]), float(now[-2])) if self.is_category else None

    @property
    def moved_most(self) -> str:
        """The bin that has most of the index, for a person: what it is, its share in the training set, and now."""
        before, now = self.shares
        at = int(np.argmax(_terms(self.training, self.now)))
        return f"{self.labels[at]}: {before[at]:.1%} -> {now[at]:.1%}"

    def verdict(self, limit: float) -> str:
        """Say in a word how far that is."""
        return "shifted" if self.index > limit else "moving" if self.index >= MOVING else "steady"


@dataclass(frozen=True)
class Drift:
    """Rows against the training set."""

    features: list[Shift]  # the largest first
    score: Shift
    rows: int  # that were counted

    def beyond(self, limit: float) -> list[Shift]:
        """Return the features whose index is above a limit."""
        return [shift for shift in self.features if shift.index > limit]


def shift_index(training: Counts, now: Counts) -> float:
    """Return the index of two histograms over the same bins; a bin that is empty in both does not count.

    One that is empty in only one of them counts as half a row there, so that a new value is seen and the index finite.
    """
    return float(_terms(training, now).sum())


def drift_of(contract: Contract, profile: Profile, found: Histograms) -> Drift:
    """Compare histograms with the training set's, feature by feature."""
    features = [
        _shift(name, bins, found.features[name], contract.features.get(name)) for name, bins in profile.features.items()
    ]
    largest = sorted(features, key=lambda shift: -shift.index)
    return Drift(largest, _shift(contract.output, profile.score, found.score, None), found.rows)


def feature_problems(drift: Drift, limit: float) -> list[Problem]:
    """Say what is wrong with each feature above the limit, the largest shift first."""
    return [_problem(shift, "drift.max_feature_shift", limit) for shift in drift.beyond(limit)]


def score_problems(drift: Drift, limit: float) -> list[Problem]:
    """Say what is wrong with the score, if its index is above the limit."""
    return [_problem(drift.score, "drift.max_score_shift", limit)] if drift.score.index > limit else []


def _shift(name: str, bins: Bins, now: Counts, feature: Feature | None) -> Shift:
    training = np.array(bins.counts, np.int64)
    labels = bin_names(bins, feature.values if isinstance(feature, CategoryFeature) else ())
    return Shift(name, shift_index(training, now), labels, training, now, isinstance(bins, CategoryBins))


def _terms(training: Counts, now: Counts) -> Shares:
    """Return what each bin adds to the index: float64 [bins], none below 0."""
    return np.where((training > 0) | (now > 0), stability_terms(training, now), 0.0)


def _problem(shift: Shift, field: str, limit: float) -> Problem:
    remedy = f"Allowed is {limit:g} ({field}). Look for a changed source first; train again if it is the customers."
    message = f"has moved away from the training set, most in {shift.moved_most}"
    return Problem(shift.name, round(shift.index, 4), message, remedy)
