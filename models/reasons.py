"""Why a row has its score: what each feature adds to the log-odds, from the model's own bytes.

These are interventional Shapley values (Lundberg and Lee, 2017; Janzing et al., 2020): to know some features is worth
the mean log-odds of the reference rows when the row's own values of them are put in. For each reference row they are
put in one after the other, in an order that stands in the file, and once more in its reverse: exact where features
interact in pairs, unbiased where more of them do (antithetic sampling, Mitchell et al., 2022). How near that comes to
the exact values is in docs/reasons.md.

A pure function of the file and the row: the other rows of a batch, the lane and the time make no difference.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from models.encoding import Encoded
from models.reference import Reference, reference_in
from models.scoring import Scorer, Scores

STEP = 2.0**-18  # of log-odds: float32 holds each multiple up to 64 exactly, and float64 their sums
UNSEEN = "(unseen)"  # in place of a text that the vocabulary has not: which one it was is not encoded
CLOSEST = 2.0**-24  # to 0 or 1 that a probability is read: nearer to 1, float32 has nothing else than 1

Mask = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]
LogOdds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reasons:
    """What moved one score: `base + contributions.sum()` is `log_odds`, exactly, in float64."""

    features: tuple[str, ...]  # the one that moved it most first
    contributions: npt.NDArray[np.float32]  # log-odds, in the order of `features`, whole multiples of `STEP`
    base: float  # mean log-odds of the reference rows
    log_odds: float  # of the score

    @property
    def base_probability(self) -> float:
        """The probability whose log-odds are the base."""
        return float(1 / (1 + np.exp(-self.base)))

    def most(self, count: int) -> Iterator[tuple[str, float]]:
        """Yield the features that moved the score most, and what each adds."""
        return zip(self.features[:count], self.contributions[:count].tolist(), strict=True)


class Explainer:
    """Gives reasons for the scores of one model. Safe to share between threads, and can be sent to processes.

    `ModelFileError` when its file has no reference rows.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._names = (*scorer.contract.numbers, *scorer.contract.categories)
        self._reference = reference_in(scorer.metadata, scorer.contract)

    def explain(self, rows: Encoded, scores: Scores) -> list[Reasons]:
        """Return the reasons of each row, whose score is known. For each, up to some thousand rows are scored."""
        return [self._explained(rows[i : i + 1], scores[i : i + 1]) for i in range(len(rows))]

    def values(self, row: Encoded) -> dict[str, float | str | None]:
        """Return the first row's values as they were scored: None is missing, `UNSEEN` a text without its own code."""
        numbers = [None if np.isnan(value) else float(str(value)) for value in row.numbers[0]]
        codes = zip(self._texts, row.categories[0].tolist(), strict=True)
        return dict(zip(self._names, (*numbers, *(texts.get(code) for texts, code in codes)), strict=True))

    @cached_property
    def _texts(self) -> list[dict[int, str]]:
        """What each category's codes stand for; the code of a missing value stands for nothing."""
        return [dict(enumerate((*known.values, UNSEEN))) for known in self.scorer.contract.categories.values()]

    @cached_property
    def _walks(self) -> "_Walks":
        return _Walks.of(self._reference, self.scorer)

    def _explained(self, row: Encoded, score: Scores) -> Reasons:
        walks, log_odds = self._walks, log_odds_of(score)
        walk, step = np.nonzero(walks.differs(row))  # walk by walk, in the order of its steps
        ends = np.append(walk[1:] != walk[:-1], [True])[: len(walk)]
        after = np.repeat(log_odds, len(walk))
        after[~ends] = log_odds_of(self._score(walks.rows(row, walk[~ends], step[~ends])))
        before = np.roll(after, 1)
        begins = np.roll(ends, 1)
        before[begins] = walks.log_odds[walk[begins]]
        moved = np.bincount(walks.orders[walk, step], after - before, len(self._names)) / len(walks.orders)
        return self._reasons(moved, float(walks.log_odds.mean()), float(log_odds[0]))

    def _score(self, rows: Encoded) -> Scores:
        return self.scorer.score(rows) if len(rows) else np.empty(0, np.float32)

    def _reasons(self, contributions: LogOdds, base: float, log_odds: float) -> Reasons:
        """Round to whole steps; what that leaves over goes to the feature that moved the score most."""
        begin, end, steps = np.rint(base / STEP), np.rint(log_odds / STEP), np.rint(contributions / STEP)
        steps[np.abs(contributions).argmax()] += end - begin - steps.sum()
        order = np.argsort(-np.abs(steps), kind="stable")
        features = tuple(self._names[i] for i in order)
        return Reasons(features, (steps[order] * STEP).astype(np.float32), float(begin * STEP), float(end * STEP))


@dataclass(frozen=True)
class _Walks:
    """Ways from reference rows to a row, one feature after the other: each order, and each in its reverse."""

    begins: Encoded  # where each walk begins
    log_odds: LogOdds  # float64 [walks], there
    orders: Positions  # int64 [walks, features], of numbers and then categories
    turns: Positions  # int64 [walks, features]: when it is each feature's turn

    @classmethod
    def of(cls, reference: Reference, scorer: Scorer) -> "_Walks":
        one_way = np.array(reference.orders, np.int64)
        orders = np.concatenate([one_way, one_way[:, ::-1]])
        begins = reference.encoded[np.tile(np.arange(len(one_way)) % reference.rows, 2)]
        return cls(begins, log_odds_of(scorer.score(begins)), orders, np.argsort(orders, axis=1))

    def differs(self, row: Encoded) -> Mask:
        """Return bool [walks, features], in the order of the steps: whether a step changes anything."""
        numbers = (self.begins.numbers != row.numbers) & ~(np.isnan(self.begins.numbers) & np.isnan(row.numbers))
        features = np.concatenate([numbers, self.begins.categories != row.categories], axis=1)
        return np.take_along_axis(features, self.orders, axis=1)

    def rows(self, row: Encoded, walk: Positions, step: Positions) -> Encoded:
        """Return the rows that some walks have made after a step."""
        own = self.turns[walk] <= step[:, None]
        split = row.numbers.shape[1]
        numbers = np.where(own[:, :split], row.numbers, self.begins.numbers[walk])
        return Encoded(numbers, np.where(own[:, split:], row.categories, self.begins.categories[walk]))


def log_odds_of(scores: Scores) -> LogOdds:
    """Return float64 [rows]; those of probabilities nearer to 0 or 1 than float32 can tell from 1 are as if there."""
    probabilities = np.clip(scores.astype(np.float64), CLOSEST, 1 - CLOSEST)
    return np.log(probabilities) - np.log1p(-probabilities)
