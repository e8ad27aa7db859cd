"""How good scores are, how far int8 is from float, how fast scorers are, and the verdicts on all of it."""

import time
from collections.abc import Mapping
from statistics import median

import numpy as np
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score, roc_curve

from models.declaration import Gates, Int8Limits
from models.encoding import Encoded
from models.errors import Problem
from models.scoring import Scorer, Scores
from models.training.split import Labels

BINS = 10  # of the calibration error
ROUNDS, ROWS_IN_ROUND = 61, 4096  # of a comparison of speeds


def evaluate(y: Labels, scores: Scores, threshold: float) -> dict[str, float]:
    """Return the metrics of `scores`, float32 [rows], on outcomes `y`, float32 [rows] of 0 and 1 (both must occur).

    auc, pr_auc (average precision), log_loss (nats) and brier are scikit-learn's. positive_rate is the share of rows
    whose score reaches the threshold. top_decile_lift is the positive rate of the tenth with the highest scores over
    that of all rows. calibration_error is `expected_calibration_error`.
    """
    top = np.argsort(-scores, kind="stable")[: max(len(y) // 10, 1)]
    return {
        "auc": float(roc_auc_score(y, scores)),
        "pr_auc": float(average_precision_score(y, scores)),
        "log_loss": float(log_loss(y, scores.astype(np.float64))),
        "calibration_error": expected_calibration_error(y, scores),
        "brier": float(brier_score_loss(y, scores)),
        "positive_rate": float((scores >= np.float32(threshold)).mean()),
        "top_decile_lift": float(y[top].mean() / y.mean()),
    }


def expected_calibration_error(y: Labels, scores: Scores) -> float:
    """Return `sum over 10 bins of n_bin / n * |mean(y) - mean(score)|`, rows sorted by score into bins of equal count.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (2015), with equal-count bins, so
    that rare outcomes do not fall into a single one.
    """
    gaps = (y.astype(np.float64) - scores)[np.argsort(scores, kind="stable")]
    return float(sum(abs(part.sum()) for part in np.array_split(gaps, BINS)) / len(y))


def recall_at(y: Labels, scores: Scores, false_positive_rate: float) -> float:
    """Return the largest share of positives that any threshold finds without stopping more of the negatives than that.

    A point of the ROC curve, not between two.
    """
    false_alarms, found, _ = roc_curve(y, scores, drop_intermediate=False)
    return float(found[np.searchsorted(false_alarms, false_positive_rate, "right") - 1])


def compare_int8(y: Labels, float_scores: Scores, int8_scores: Scores, threshold: float) -> dict[str, float]:
    """Return how far int8 scores are from float ones on the same rows; positive means worse.

    mean_change and p99_change are of the absolute difference of a row's two scores; decision_flips is the share of
    rows on the other side of the threshold.
    """
    floating, int8 = evaluate(y, float_scores, threshold), evaluate(y, int8_scores, threshold)
    change = np.abs(float_scores.astype(np.float64) - int8_scores)
    flipped = (float_scores >= np.float32(threshold)) != (int8_scores >= np.float32(threshold))
    return {
        "auc_drop": floating["auc"] - int8["auc"],
        "log_loss_rise": int8["log_loss"] - floating["log_loss"],
        "mean_change": float(change.mean()),
        "p99_change": float(np.quantile(change, 0.99)),
        "calibration_error_rise": int8["calibration_error"] - floating["calibration_error"],
        "decision_flips": float(flipped.mean()),
    }


def int8_verdict(
    limits: Int8Limits, changes: Mapping[str, float], *, speedup: float, quantized: int, size_ratio: float
) -> list[Problem]:
    """Return what speaks against int8; empty when it is good. `changes` is `compare_int8`'s.

    Beyond the limits, int8 must be at least as fast as float, have int8 nodes (`quantized_nodes`) at all, and be a
    smaller file: `size_ratio` is its bytes over those of the float file.
    """
    problems = []
    for name, change in changes.items():
        limit = getattr(limits, f"max_{name}")
        if not change <= limit:
            remedy = f"The float graph is served; raise gates.int8.max_{name} if this is acceptable."
            problems.append(Problem(name, change, f"is above its limit {limit:g}", remedy))
    if not speedup >= 1:
        remedy = "The float graph is served, which is faster on this CPU."
        problems.append(Problem("speedup", speedup, "is below 1: int8 is slower than float", remedy))
    if quantized < 1:
        remedy = "The float graph is served; use the onnxruntime version that Tandem pins."
        problems.append(Problem("quantized_nodes", quantized, "is no int8 node: onnxruntime fused none", remedy))
    if not size_ratio < 1:
        remedy = "The float graph is served; so small a network gains nothing from int8."
        problems.append(Problem("size_ratio", size_ratio, "is not below 1: int8 is no smaller than float", remedy))
    return problems


def candidate_verdict(gates: Gates, candidate: Mapping[str, float]) -> list[Problem]:
    """Return what keeps a candidate from being good enough by itself, each under its gate's name; empty when nothing.

    `candidate` is `evaluate`'s. Whether it is as good as the champion is said by `comparison`.
    """
    problems = []
    auc, error = candidate["auc"], candidate["calibration_error"]
    if not auc >= gates.min_auc:
        remedy = "Add features or examples, or lower gates.min_auc."
        problems.append(Problem("min_auc", round(auc, 4), f"ROC-AUC is below {gates.min_auc:g}", remedy))
    if not error <= gates.max_calibration_error:
        message = f"the calibration error is above {gates.max_calibration_error:g}"
        remedy = "Look for a shift between the months of training and test, or add calibration rows."
        problems.append(Problem("max_calibration_error", round(error, 4), message, remedy))
    return problems


def rows_per_second(scorer: Scorer, rows: Encoded, seconds: float) -> float:
    """Score `rows` again and again for about `seconds`, and return the mean throughput."""
    begin, scored = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begin) < seconds or not scored:
        scorer.score(rows)
        scored += len(rows)
    return scored / elapsed


def speedup(fast: Scorer, slow: Scorer, rows: Encoded) -> float:
    """Return how many times faster `fast` scores `rows` (4,096 of them at most): the median of many short rounds.

    In each round both are measured in turn, so that a busy machine hurts both.
    """
    rows = rows[:ROWS_IN_ROUND]
    _seconds(fast, rows)
    _seconds(slow, rows)
    return median(_seconds(slow, rows) / _seconds(fast, rows) for _ in range(ROUNDS))


def _seconds(scorer: Scorer, rows: Encoded) -> float:
    begin = time.perf_counter()
    scorer.score(rows)
    return time.perf_counter() - begin
