"""The teacher: boosted trees, cross-fitted, whose scores the network learns; and plain ones as the yardstick.

Trees read numbers as they are (NaN is missing) and category codes as categories.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from models.declaration import Training
from models.encoding import Encoded
from models.errors import TrainingDataError
from models.scoring import Scores
from models.training.split import Labels

LEAVES, LEAVES_OF_MANY = (7, 15, 31), (15, 31)
MANY_ROWS = 50_000  # from here on twice the learning rate loses nothing and takes half the time
MOST_CODES = 254  # that scikit-learn's trees can tell apart in one category; rarer ones read as missing

Table = npt.NDArray[np.float32]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Trees:
    """Fitted boosted trees, one ensemble or several whose probabilities are averaged."""

    ensembles: list[HistGradientBoostingClassifier]
    codes: list[npt.NDArray[np.int32]]  # of each category, those that the trees know

    def score(self, rows: Encoded) -> Scores:
        """Return the mean probability, float32 [rows]."""
        table = _table(rows, self.codes)
        with _pool(len(self.ensembles)) as pool:
            scores = list(pool.map(_probability, self.ensembles, repeat(table)))
        mean: Scores = np.mean(scores, axis=0, dtype=np.float32)
        return mean


@dataclass(frozen=True)
class Teacher(Trees):
    """One ensemble for each fold, and the scores that each gave to the rows it had not seen."""

    out_of_fold: Scores
    leaves: int

    @property
    def iterations(self) -> list[int]:
        """Boosting rounds of each fold, as early stopping chose them."""
        return [trees.n_iter_ for trees in self.ensembles]


class _Fold(NamedTuple):
    trees: HistGradientBoostingClassifier
    leaves: int
    outside: npt.NDArray[np.int64]  # the rows that the trees have not seen
    scores: Scores  # of those rows
    loss: float  # on those rows


def fit_teacher(rows: Encoded, y: Labels, training: Training, progress: Progress = lambda _: None) -> Teacher:
    """Cross-fit boosted trees on the training rows, with early stopping on the held-out fold.

    The number of leaves is the best on the first fold. Rare outcomes get fewer folds, so that each has some;
    `TrainingDataError` when not even two do.
    """
    rarest = int(min(y.sum(), len(y) - y.sum()))
    count = min(training.teacher_folds, rarest)
    if count < 2:
        raise TrainingDataError(f"The rarer outcome has {rarest} training rows, but needs at least 2: add examples.")
    known = _known_codes(rows)
    table = _table(rows, known)
    folds = list(StratifiedKFold(count, shuffle=True, random_state=training.seed).split(table, y))

    def fit(leaves: int, fold: int) -> _Fold:
        inside, outside = folds[fold]
        trees = _boosted_trees(rows, len(inside), leaves, training)
        trees.fit(table[inside], y[inside], X_val=table[outside], y_val=y[outside])
        scores = _probability(trees, table[outside])
        return _Fold(trees, leaves, outside, scores, float(log_loss(y[outside], scores.astype(np.float64))))

    many = len(rows) >= MANY_ROWS
    with _pool(count if many else 1) as pool:
        candidates = list(pool.map(fit, LEAVES_OF_MANY if many else LEAVES, repeat(0)))
        first = min(candidates, key=lambda candidate: candidate.loss)
        progress(f"teacher: {first.leaves} leaves are best, log-loss {first.loss:.4f} on fold 1 of {count}")
        fitted = [first, *pool.map(fit, repeat(first.leaves), range(1, count))]
    out_of_fold = np.empty(len(y), np.float32)
    for fold in fitted:
        out_of_fold[fold.outside] = fold.scores
    return Teacher([fold.trees for fold in fitted], known, out_of_fold, first.leaves)


def fit_plain_trees(rows: Encoded, y: Labels, seed: int) -> Trees:
    """Fit scikit-learn's boosted trees with its defaults: the yardstick beside which every network is reported."""
    codes = _known_codes(rows)
    trees = HistGradientBoostingClassifier(categorical_features=_categorical(rows), random_state=seed)
    with threadpool_limits(None if len(rows) >= MANY_ROWS else 1, user_api="openmp"):
        return Trees([trees.fit(_table(rows, codes), y)], codes)


def _pool(jobs: int) -> ThreadPoolExecutor:
    """Return as many workers as there are jobs and cores, with one OpenMP thread each.

    scikit-learn's own threads wait for each other at every tree, which on a busy machine takes twice as long or more.
    """
    return ThreadPoolExecutor(min(os.cpu_count() or 1, jobs), initializer=_one_thread)


def _one_thread() -> None:
    threadpool_limits(1, user_api="openmp")


def _boosted_trees(rows: Encoded, inside: int, leaves: int, training: Training) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        learning_rate=0.1 if inside >= MANY_ROWS else 0.05,
        max_leaf_nodes=leaves,
        min_samples_leaf=20,
        l2_regularization=1.0,
        max_features=0.7,
        max_iter=training.teacher_iterations,
        early_stopping=True,
        categorical_features=_categorical(rows),
        random_state=training.seed,
    )


def _categorical(rows: Encoded) -> list[int]:
    numbers, categories = rows.numbers.shape[1], rows.categories.shape[1]
    return list(range(numbers, numbers + categories))


def _known_codes(rows: Encoded) -> list[npt.NDArray[np.int32]]:
    """Return the most frequent codes of each category."""
    known = []
    for codes in rows.categories.T:
        distinct, counts = np.unique(codes, return_counts=True)
        known.append(distinct[np.argsort(-counts, kind="stable")[:MOST_CODES]])
    return known


def _table(rows: Encoded, known: list[npt.NDArray[np.int32]]) -> Table:
    """Put numbers and known codes side by side, float32 [rows, features]; NaN is missing."""
    numbers = rows.numbers.shape[1]
    table = np.empty((len(rows), numbers + len(known)), np.float32)
    table[:, :numbers] = rows.numbers
    for j, codes in enumerate(known):
        column = rows.categories[:, j]
        table[:, numbers + j] = np.where(np.isin(column, codes), column, np.nan)
    return table


def _probability(trees: HistGradientBoostingClassifier, table: Table) -> Scores:
    return trees.predict_proba(table)[:, 1].astype(np.float32)  # type: ignore[no-any-return]
