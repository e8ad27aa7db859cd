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
class Known:
    """What trees learn to read: the numbers that had a value, and of each category the most frequent codes."""

    numbers: npt.NDArray[np.bool_]
    codes: list[npt.NDArray[np.int32]]

    @classmethod
    def of(cls, rows: Encoded, without: tuple[int, ...] = ()) -> "Known":
        """Look at the rows that trees learn from; of the categories in `without` no code is known."""
        codes = []
        for j, column in enumerate(rows.categories.T):
            distinct, counts = np.unique(column, return_counts=True)
            codes.append(distinct[np.argsort(-counts, kind="stable")[: MOST_CODES * (j not in without)]])
        return cls(np.asarray(~np.isnan(rows.numbers).all(0)), codes)

    @property
    def categorical(self) -> list[int]:
        """Which columns of `table` are categories."""
        return list(range(len(self.numbers), len(self.numbers) + len(self.codes)))

    def table(self, rows: Encoded) -> Table:
        """Put numbers and known codes side by side, float32 [rows, features]; NaN is missing.

        A number that never had a value is 0: scikit-learn takes no column without one.
        """
        table = np.empty((len(rows), len(self.numbers) + len(self.codes)), np.float32)
        table[:, : len(self.numbers)] = np.where(self.numbers, rows.numbers, 0)
        for j, codes in zip(self.categorical, self.codes, strict=True):
            column = rows.categories[:, j - len(self.numbers)]
            table[:, j] = np.where(np.isin(column, codes), column, np.nan)
        return table


@dataclass(frozen=True)
class Trees:
    """Fitted boosted trees, and what they know of the rows."""

    ensemble: HistGradientBoostingClassifier
    known: Known

    def __call__(self, rows: Encoded) -> Scores:
        """Return probabilities, float32 [rows]."""
        return self.ensemble.predict_proba(self.known.table(rows))[:, 1].astype(np.float32)  # type: ignore[no-any-return]


def fit_trees(fold: Fold, growth: Growth, iterations: int, seed: int) -> Trees:
    """Boost trees with early stopping on the rows outside.

    Shallow ones read categories of many values by their rates alone; deep ones find what a value means where.
    """
    rows, y = fold.inside
    shallow = growth.leaves <= SHALLOW.leaves
    known = Known.of(rows, fold.rates.categories if shallow else ())
    trees = HistGradientBoostingClassifier(
        learning_rate=(2 if size_of(y) >= MANY_ROWS else 1) * (0.1 if shallow else 0.05),
        max_leaf_nodes=growth.leaves,
        min_samples_leaf=20,
        l2_regularization=1.0,
        max_features=growth.features,
        max_iter=iterations,
        early_stopping=True,
        categorical_features=known.categorical,
        random_state=seed,
    )
    outside = known.table(fold.outside.rows)
    return Trees(trees.fit(known.table(rows), y, X_val=outside, y_val=fold.outside.y), known)


def fit_plain_trees(rows: Encoded, y: Labels, seed: int) -> Trees:
    """Fit scikit-learn's boosted trees with its defaults: the yardstick beside which every network is reported."""
    known = Known.of(rows)
    trees = HistGradientBoostingClassifier(categorical_features=known.categorical, random_state=seed)
    with threadpool_limits(None if len(rows) >= MANY_ROWS else 1, user_api="openmp"):
        return Trees(trees.fit(known.table(rows), y), known)
