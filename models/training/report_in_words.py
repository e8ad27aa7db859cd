"""What a trained model is worth, in plain words and with figures of its test rows: what a person wants to know first.

Every figure is counted here or comes from `evaluation`. How the words are shown is not known here.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from models.contract import Contract
from models.declaration import Declaration
from models.encoding import Encoded
from models.scoring import Scorer, Scores
from models.training.evaluation import candidate_verdict
from models.training.split import Labels

TOP = 100  # rows whose scores are looked at; fewer where a tenth of all is fewer
IMPORTANCE_ROWS = 4000  # that are scored again with a feature shuffled
SHUFFLES = 3
NAMED = 5  # features
LEAST_IMPORTANCE = 0.001  # of an AUC, to be named
AS_WELL = 0.005  # difference of two AUCs that is none to speak of
FEW_POSITIVES = 50  # test rows, below which the figures are rough

Importance = dict[str, float]
Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True)
class Top:
    """The rows with the highest scores."""

    rows: int
    positives: int
    by_chance: float  # positives among as many rows taken at random


@dataclass(frozen=True)
class Alarms:
    """What the threshold does."""

    alarms: int
    found: float  # share of the positives that reach it
    right: float  # share of the alarms that are positive; NaN without any


def top_of(y: Labels, scores: Scores, rows: int = TOP) -> Top:
    """Count the positives among the highest scores: of `rows` rows, or of a tenth of all where that is fewer."""
    rows = max(1, min(rows, len(y) // 10))
    highest = np.argsort(-scores, kind="stable")[:rows]
    return Top(rows, int(y[highest].sum()), float(y.mean()) * rows)


def alarms_of(y: Labels, scores: Scores, threshold: float) -> Alarms:
    """Count what reaches the threshold: recall is `found`, precision `right`."""
    alarms, positive = scores >= np.float32(threshold), y == 1
    hits, count = int((alarms & positive).sum()), int(alarms.sum())
    return Alarms(count, hits / int(positive.sum()), hits / count if count else float("nan"))


def importance_of(scorer: Scorer, rows: Encoded, y: Labels, seed: int = 0) -> Importance:
    """Return by how much the AUC falls when a feature's values are shuffled among the rows, the most first.

    Breiman, "Random Forests" (2001), with the mean of three shuffles. Of many rows some are drawn, from each outcome as
    many where that is possible: an AUC does not depend on their shares.
    """
    picked = _some_of_each(y, np.random.default_rng(seed))
    rows, y = rows[picked], y[picked]
    before = float(roc_auc_score(y, scorer.score(rows)))
    found = {name: before - after for name, after in _aucs_without(scorer, rows, y, seed)}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def report_in_words(
    declaration: Declaration,
    contract: Contract,
    y: Labels,
    scores: Scores,
    metrics: Mapping[str, Mapping[str, float]],
    importance: Importance,
) -> list[str]:
    """Return sentences about the network's scores, float32 [rows], on test rows with outcomes `y`.

    `metrics` are `evaluate`'s, of `network` and `boosted_trees`.
    """
    network = metrics["network"]
    outcome = f"{declaration.examples.label} = {declaration.examples.positive or 'true'}"
    return [
        _about_top(top_of(y, scores), outcome),
        _about_alarms(alarms_of(y, scores, contract.decision_threshold), contract.decision_threshold, len(y)),
        _beside_trees(network["auc"], metrics["boosted_trees"]["auc"]),
        f"Probabilities are within {_points(network['calibration_error'])} of what happens, on average.",
        _about_importance(importance),
        *_warnings(declaration, y, network, importance),
    ]


# --- sentences ------------------------------------------------------------------------------------------------------


def _about_top(top: Top, outcome: str) -> str:
    chance = f"{top.by_chance:.0f}" if top.by_chance >= 1 else f"{top.by_chance:.1g}"
    return (
        f"Of the {top.rows} test rows with the highest scores, {top.positives} have {outcome}; of {top.rows} taken at "
        f"random, {chance} would."
    )


def _about_alarms(alarms: Alarms, threshold: float, rows: int) -> str:
    at = f"At the threshold {threshold:.3g}"
    if not alarms.alarms:
        return f"{at} it raises no alarm in {rows:,} test rows: lower decision_threshold."
    return f"{at} it finds {alarms.found:.0%} of them and is right in {alarms.right:.0%} of its alarms."


def _beside_trees(network: float, trees: float) -> str:
    ahead = network - trees
    how = "as well as" if abs(ahead) <= AS_WELL else "better than" if ahead > 0 else "worse than"
    return f"It ranks {how} boosted trees (AUC {network:.3f} against {trees:.3f})."


def _about_importance(importance: Importance) -> str:
    named = [f"{name} ({fall:.3f})" for name, fall in importance.items() if fall >= LEAST_IMPORTANCE][:NAMED]
    if not named:
        return "No feature alone matters: shuffling any changes the AUC by less than .001."
    return f"What matters most, by how much the AUC falls when it is shuffled: {', '.join(named)}."


def _warnings(
    declaration: Declaration, y: Labels, network: Mapping[str, float], importance: Importance
) -> Iterator[str]:
    positives = int(y.sum())
    if positives < FEW_POSITIVES:
        yield f"Warning: only {positives} of {len(y):,} test rows are positive, so every figure here is a rough one."
    for problem in candidate_verdict(declaration.gates, network):
        yield f"Warning: a gate does not hold, so it will not be served. {problem}"
    first = next(iter(importance.items()), ("", 0.0))
    if network["auc"] > 0.98:
        yield (
            f"Warning: an AUC of {network['auc']:.3f} is too good for most things that are worth predicting. Is "
            f"{first[0]} known when the prediction is made?"
        )


def _points(share: float) -> str:
    return f"{100 * share:.1f} percentage points"


# --- shuffling ------------------------------------------------------------------------------------------------------


def _some_of_each(y: Labels, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw rows, as many of each outcome where there are; what one has too few of, the other has more of."""
    if len(y) <= IMPORTANCE_ROWS:
        return np.arange(len(y))
    rarer, other = sorted((np.flatnonzero(y == outcome) for outcome in (0, 1)), key=len)
    few = rng.permutation(rarer)[: IMPORTANCE_ROWS // 2]
    return np.sort(np.concatenate([few, rng.permutation(other)[: IMPORTANCE_ROWS - len(few)]]))


def _aucs_without(scorer: Scorer, rows: Encoded, y: Labels, seed: int) -> Iterator[tuple[str, float]]:
    contract, rng = scorer.contract, np.random.default_rng(seed)
    orders = [rng.permutation(len(y)) for _ in range(SHUFFLES)]
    for j, name in enumerate(contract.numbers):
        yield name, _mean_auc(scorer, (Encoded(_shuffled(rows.numbers, j, o), rows.categories) for o in orders), y)
    for j, name in enumerate(contract.categories):
        yield name, _mean_auc(scorer, (Encoded(rows.numbers, _shuffled(rows.categories, j, o)) for o in orders), y)


def _mean_auc(scorer: Scorer, shuffled: Iterable[Encoded], y: Labels) -> float:
    return float(np.mean([roc_auc_score(y, scorer.score(rows)) for rows in shuffled]))


def _shuffled(table: npt.NDArray[Value], column: int, order: npt.NDArray[np.int64]) -> npt.NDArray[Value]:
    table = table.copy()
    table[:, column] = table[order, column]
    return table
