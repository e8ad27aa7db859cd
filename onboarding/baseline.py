"""A quick model on a sample of the examples: what gates may ask for, and where decisions are worth the most."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.declaration import Declaration
from models.encoding import encode_arrow

FOLDS = 2
BOUND = 2.5  # standard errors that a gate stays below what was reached


@dataclass(frozen=True)
class Baseline:
    """What boosted trees reach on rows that they have not seen."""

    auc: float
    rows: int
    threshold: float  # of the best F1
    precision: float
    recall: float


def measure(declaration: Declaration, examples: pa.Table) -> Baseline:
    """Fit small boosted trees and score each row by those that have not seen it; the rows are a sample."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from models.training.fit import contract_of
    from models.training.split import labels

    encoded = encode_arrow(contract_of(declaration, "string", ""), examples)
    y = labels(declaration, examples)
    codes = np.where(encoded.categories < 254, encoded.categories, -1).astype(np.float32)
    codes[codes < 0] = np.nan
    table = np.hstack([encoded.numbers, codes])
    first = encoded.numbers.shape[1]
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(table, y))
    kept = np.all([np.isfinite(table[rows]).any(axis=0) for rows, _ in folds], axis=0)  # trees refuse empty columns
    trees = HistGradientBoostingClassifier(
        max_iter=80,
        learning_rate=0.08,
        max_leaf_nodes=7,
        l2_regularization=1.0,  # without, rare outcomes that are easily told make the scores diverge
        max_features=0.7,
        categorical_features=np.flatnonzero(np.flatnonzero(kept) >= first),
        early_stopping=False,
        random_state=0,
    )
    with threadpool_limits(1, user_api="openmp"):  # on a busy machine several would wait for each other at every tree
        scores = cross_val_predict(trees, table[:, kept], y, cv=folds, method="predict_proba")[:, 1]
    threshold, precision, recall = best_f1(y, scores)
    return Baseline(float(roc_auc_score(y, scores)), len(y), threshold, precision, recall)


def best_f1(y: npt.NDArray[np.float32], scores: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the threshold (two digits) with the best F1, and precision and recall there."""
    from sklearn.metrics import precision_recall_curve, precision_score, recall_score

    precision, recall, thresholds = precision_recall_curve(y, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    rounded = float(f"{thresholds[int(np.argmax(f1[:-1]))]:.2g}")
    threshold = min(max(rounded, 0.001), 0.99)
    alarms = scores >= threshold
    return threshold, float(precision_score(y, alarms, zero_division=0)), float(recall_score(y, alarms))


def least_auc(auc: float, positives: int, negatives: int) -> float:
    """Return a gate that a model as good as the baseline passes: two digits, some standard errors below its AUC.

    The standard error is Hanley and McNeil's (1982), for that many test rows of each outcome.
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    error = math.sqrt(max(variance, 0) / (positives * negatives))
    return max(0.5, math.floor((auc - max(0.01, BOUND * error)) * 100) / 100)


def most_calibration_error(share: float, rows: int) -> float:
    """Return a gate that a calibrated model passes: what chance alone makes of it with so many test rows, and .02 more.

    The gaps of ten bins are each about a binomial's mean deviation.
    """
    by_chance = math.sqrt(2 / math.pi) * math.sqrt(share * (1 - share) * 10 / rows)
    return max(0.03, math.ceil((1.5 * by_chance + 0.02) * 100) / 100)
