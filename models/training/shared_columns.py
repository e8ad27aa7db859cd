"""Columns that the values of a category share: those to which the teacher answers alike, whatever else a row holds.

Every code stands in some rows in place of their own, and codes with like answers are brought together (k-means). That
also knows what a value means in one context and not in another. Codes that mean more or less of one thing need few
columns; those that mean several things, each by itself, need more.
"""

import warnings

import numpy as np
import numpy.typing as npt

from models.contract import Contract
from models.encoding import Encoded
from models.training.blend import log_odds
from models.training.grouping import MOST_VALUES, Grouping, ungrouped
from models.training.teacher import Teacher

CONTEXTS = 24  # rows that every code is put into, to see what the teacher answers
NEAR = 0.05  # log-odds: answers that are on average this near to their column's are alike
MOST_SHARED = 4 * MOST_VALUES  # columns of one category, where fewer are not near

Answers = npt.NDArray[np.float64]  # [codes, contexts], log-odds


def learn_groupings(contract: Contract, rows: Encoded, teacher: Teacher, seed: int) -> list[Grouping]:
    """Group the codes of every category; those of many values by what the teacher answers to them."""
    return [
        _grouped(rows, j, width, teacher, seed)
        if len(np.unique(rows.categories[:, j])) > MOST_VALUES
        else ungrouped(rows.categories[:, j], width)
        for j, width in enumerate(contract.code_counts)
    ]


def _grouped(rows: Encoded, j: int, width: int, teacher: Teacher, seed: int) -> Grouping:
    answers = _answers(rows, j, width, teacher, seed)
    weights = np.bincount(rows.categories[:, j], minlength=width) + 1e-3  # one that never came belongs somewhere too
    together: Answers = np.mean(answers, axis=0)
    centres = _centres(together, weights, seed)
    found, columns = np.unique(_nearest(together, centres), return_inverse=True)
    by_fold = np.stack([_nearest(one, centres[found]) for one in answers])
    return Grouping(columns.astype(np.int32), by_fold.astype(np.int32))


def _centres(answers: Answers, weights: npt.NDArray[np.floating], seed: int) -> Answers:
    """Return the answers that columns stand for, in the order of their means; as few columns as are near to all."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    columns, far = MOST_VALUES // 2, np.inf
    while far > NEAR and columns < min(MOST_SHARED, len(answers)):
        columns *= 2
        with threadpool_limits(1), warnings.catch_warnings():  # the same bits for any number of cores
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different answers than columns are no harm
            means = KMeans(min(columns, len(answers)), n_init=1, random_state=seed).fit(answers, sample_weight=weights)
        far = float(np.sqrt(means.inertia_ / weights.sum() / answers.shape[1]))
    centres: Answers = means.cluster_centers_
    return centres[np.argsort(centres.mean(1), kind="stable")]  # neighbours are alike, which int8 likes


def _answers(rows: Encoded, j: int, width: int, teacher: Teacher, seed: int) -> list[Answers]:
    """Return the answers of each fold's learners when each code stands in some rows in place of their own."""
    contexts = rows[np.random.default_rng(seed).integers(0, len(rows), CONTEXTS)]
    asked = contexts[np.tile(np.arange(CONTEXTS), width)]
    asked.categories[:, j] = np.repeat(np.arange(width, dtype=np.int32), CONTEXTS)
    return [log_odds([scores]).reshape(width, CONTEXTS) for scores in teacher.scores_by_fold(asked)]


def _nearest(answers: Answers, centres: Answers) -> npt.NDArray[np.int64]:
    distance = (centres**2).sum(1) - 2 * answers @ centres.T
    nearest: npt.NDArray[np.int64] = distance.argmin(1)
    return nearest
