"""Boosted trees: those that the teacher blends with other learners, and plain ones as the yardstick.

Trees read numbers as they are (NaN is missing) and category codes as categories.
"""

from dataclasses import dataclass
from typing import NamedTuple

import joblib  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.ensemble._hist_gradient_boosting import binning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from models.encoding import Encoded
from models.scoring import Scores
from models.training.budget import MANY_ROWS, size_of
from models.training.learners import Fold
from models.training.split import Labels

MOST_CODES = 254  # that scikit-learn's trees can tell apart in one category; rarer ones read as missing

Table = npt.NDArray[np.float32]

# scikit-learn's own put the process's warning filters aside and back around each job: not safe between our threads.
binning.Parallel, binning.delayed = joblib.Parallel, joblib.delayed


class Growth(NamedTuple):
    """How trees grow: to so many leaves, and from which share of the features each split is drawn."""

    leaves: int
    features: float


SHALLOW = Growth(4, 1.0)


@dataclass(frozen=True)
class Trees:
    """Fitted boosted trees, and of each category the codes that they know."""

    ensemble: HistGradientBoostingClassifier
    codes: list[npt.NDArray[np.int32]]

    def __call__(self, rows: Encoded) -> Scores:
        """Return probabilities, float32 [rows]."""
        return self.ensemble.predict_proba(tree_table(rows, self.codes))[:, 1].astype(np.float32)  # type: ignore[no-any-return]


def fit_trees(fold: Fold, growth: Growth, iterations: int, seed: int) -> Trees:
    """Boost trees with early stopping on the rows outside.

    Shallow ones read categories of many values by their rates alone; deep ones find what a value means where.
    """
    rows, y = fold.inside
    shallow = growth.leaves <= SHALLOW.leaves
    codes = known_codes(rows, fold.rates.categories if shallow else ())
    trees = HistGradientBoostingClassifier(
        learning_rate=(2 if size_of(y) >= MANY_ROWS else 1) * (0.1 if shallow else 0.05),
        max_leaf_nodes=growth.leaves,
        min_samples_leaf=20,
        l2_regularization=1.0,
        max_features=growth.features,
        max_iter=iterations,
        early_stopping=True,
        categorical_features=categorical(rows),
        random_state=seed,
    )
    outside = tree_table(fold.outside.rows, codes)
    return Trees(trees.fit(tree_table(rows, codes), y, X_val=outside, y_val=fold.outside.y), codes)


def categorical(rows: Encoded) -> list[int]:
    """Return which columns of `tree_table` are categories."""
    numbers, categories = rows.numbers.shape[1], rows.categories.shape[1]
    return list(range(numbers, numbers + categories))


def known_codes(rows: Encoded, without: tuple[int, ...] = ()) -> list[npt.NDArray[np.int32]]:
    """Return the most frequent codes of each category; none of those left out."""
    known = []
    for j, codes in enumerate(rows.categories.T):
        distinct, counts = np.unique(codes, return_counts=True)
        known.append(distinct[np.argsort(-counts, kind="stable")[: MOST_CODES * (j not in without)]])
    return known


def tree_table(rows: Encoded, known: list[npt.NDArray[np.int32]]) -> Table:
    """Put numbers and known codes side by side, float32 [rows, features]; NaN is missing."""
    numbers = rows.numbers.shape[1]
    table = np.empty((len(rows), numbers + len(known)), np.float32)
    table[:, :numbers] = rows.numbers
    for j, codes in enumerate(known):
        column = rows.categories[:, j]
        table[:, numbers + j] = np.where(np.isin(column, codes), column, np.nan)
    return table


@dataclass(frozen=True)
class PlainTrees:
    """Boosted trees with scikit-learn's defaults."""

    trees: Trees

    def score(self, rows: Encoded) -> Scores:
        """Return probabilities, float32 [rows]."""
        return self.trees(rows)


def fit_plain_trees(rows: Encoded, y: Labels, seed: int) -> PlainTrees:
    """Fit scikit-learn's boosted trees with its defaults: the yardstick beside which every network is reported."""
    codes = known_codes(rows)
    trees = HistGradientBoostingClassifier(categorical_features=categorical(rows), random_state=seed)
    with threadpool_limits(None if len(rows) >= MANY_ROWS else 1, user_api="openmp"):
        return PlainTrees(Trees(trees.fit(tree_table(rows, codes), y), codes))
