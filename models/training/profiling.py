"""The profile of a training set: where its bins are cut, and how many rows are in each.

The rows are those that the network learned from: what it knows. Their scores stand for unseen ones too, since a network
that is taught by out-of-fold scores hardly knows its rows by heart: on real customers, 1,800 that it never saw are as
near to them (index 0.005) as two draws of one distribution are, and they are ten times as many as the calibration rows.
"""

import numpy as np

from models.contract import CategoryFeature, Contract
from models.counting import BinCounter
from models.encoding import Codes, Encoded, Numbers
from models.profile import Bins, CategoryBins, Histograms, NumberBins, Profile
from models.scoring import Scores

BINS = 10  # of a number
MOST_VALUES = 20  # of a category that have a bin of their own


def learn_profile(contract: Contract, rows: Encoded, scores: Scores) -> Profile:
    """Return the profile of training rows and their scores. The same arguments give the same profile."""
    numbers, codes = iter(rows.numbers.T), iter(rows.categories.T)
    features: dict[str, Bins] = {
        name: _category(next(codes), feature) if isinstance(feature, CategoryFeature) else _number(next(numbers))
        for name, feature in contract.features.items()
    }
    blank = Profile(features=features, score=_number(scores))
    found = Histograms.from_flat(blank, BinCounter(blank).count(rows, scores))
    counts = {name: tuple(counts.tolist()) for name, counts in found.features.items()}
    features = {name: bins.model_copy(update={"counts": counts[name]}) for name, bins in features.items()}
    score = blank.score.model_copy(update={"counts": tuple(found.score.tolist())})
    return Profile(features=features, score=score)


def _number(column: Numbers) -> NumberBins:
    """Cut at the deciles, or between all values where they are few: at values that occur, so that ties are one bin."""
    present = column[~np.isnan(column)]
    distinct = np.unique(present)
    if len(distinct) <= BINS:
        edges = distinct[:-1]
    else:
        edges = np.unique(np.quantile(present, np.arange(1, BINS) / BINS, method="nearest"))
        edges = edges[edges < distinct[-1]]
    shortest = tuple(float(str(edge)) for edge in edges.astype(np.float32))
    return NumberBins(edges=shortest, counts=(0,) * (len(edges) + 2))


def _category(codes: Codes, feature: CategoryFeature) -> CategoryBins:
    """Give the most frequent values a bin of their own, in the order of the vocabulary."""
    values = len(feature.values)
    rows = np.bincount(codes, minlength=values)[:values]
    kept = np.sort(np.argsort(-rows, kind="stable")[:MOST_VALUES])
    return CategoryBins(values=values, codes=tuple(kept.tolist()), counts=(0,) * (len(kept) + 3))
