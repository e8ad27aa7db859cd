"""The teacher: learners of several kinds, cross-fitted and blended, whose scores the network learns."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from models.contract import Contract
from models.declaration import Training
from models.encoding import Encoded
from models.errors import TrainingDataError
from models.scoring import Scores
from models.training.blend import Blend, fit_blend
from models.training.budget import budget_of
from models.training.kinds import Kind, kinds_of_learners
from models.training.learners import Fold, Part, Score
from models.training.split import Labels
from models.training.trees import Trees

Progress = Callable[[str], None]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pupil:
    """What the learners of one fold have learnt, by kind."""

    fold: Fold
    scores: list[Score]

    def score(self, rows: Encoded) -> list[Scores]:
        """Return each learner's probabilities."""
        wider = self.fold.rates.added_to(rows)
        return [score(wider) for score in self.scores]


@dataclass(frozen=True)
class Teacher:
    """Learners for each fold, how they are blended, and the scores that each fold gave to the rows it had not seen."""

    pupils: list[Pupil]
    blend: Blend
    out_of_fold: Scores
    folds: list[Positions]  # the rows that each fold has not seen
    chosen: dict[str, Any]  # of each kind of learner, what did best

    @property
    def trees(self) -> list[HistGradientBoostingClassifier]:
        """All boosted trees, of all folds."""
        learnt = (score for pupil in self.pupils for score in pupil.scores)
        return [score.ensemble for score in learnt if isinstance(score, Trees)]

    def score(self, rows: Encoded) -> Scores:
        """Return the blend of each kind's mean probability, float32 [rows]."""
        by_kind = zip(*self._scores(rows), strict=True)
        return self.blend.mix([np.mean(scores, axis=0, dtype=np.float32) for scores in by_kind])

    def scores_by_fold(self, rows: Encoded) -> list[Scores]:
        """Return the blend of each fold's learners, float32 [rows] each."""
        return [self.blend.mix(scores) for scores in self._scores(rows)]

    def _scores(self, rows: Encoded) -> list[list[Scores]]:
        """Return each fold's and kind's probabilities."""
        with _pool(len(self.pupils)) as pool, threadpool_limits(1, user_api="blas"):
            return list(pool.map(lambda pupil: pupil.score(rows), self.pupils))


def fit_teacher(
    contract: Contract, rows: Encoded, y: Labels, training: Training, progress: Progress = lambda _: None
) -> Teacher:
    """Cross-fit every kind of learner on the training rows, and blend them by their scores of rows they have not seen.

    What a learner is tried with is chosen on the first fold. Rare outcomes get fewer folds, so that each has some;
    `TrainingDataError` when not even two do.
    """
    splits = _splits(rows, y, budget_of(training, y).teacher_folds, training.seed)
    kinds = kinds_of_learners(contract, rows, y, training)
    with _pool(len(splits)) as pool, threadpool_limits(1, user_api="blas"):

        def fold_of(split: tuple[Positions, Positions]) -> Fold:
            inside, outside = (Part(rows[part], y[part]) for part in split)
            return Fold.of(contract, inside, outside, training.seed)

        folds = list(pool.map(fold_of, splits))
        first = _best_of_each(kinds, folds[0], pool)
        chosen = {name: choice for name, (choice, _) in first.items()}
        progress(f"teacher: {', '.join(f'{name} {choice}' for name, choice in chosen.items())} are best on fold 1")
        wanted = [(kind.fit, fold, chosen[kind.name]) for fold in folds[1:] for kind in kinds]
        others = list(pool.map(lambda one: one[0](*one[1:]), wanted))
    learnt = [[score for _, score in first.values()]]
    learnt += [others[start : start + len(kinds)] for start in range(0, len(others), len(kinds))]
    pupils = [Pupil(fold, scores) for fold, scores in zip(folds, learnt, strict=True)]
    return _blended(pupils, y, [outside for _, outside in splits], chosen, progress)


def _splits(rows: Encoded, y: Labels, folds: int, seed: int) -> list[tuple[Positions, Positions]]:
    rarest = int(min(y.sum(), len(y) - y.sum()))
    if rarest < 2:
        raise TrainingDataError(f"The rarer outcome has {rarest} training rows, but needs at least 2: add examples.")
    stratified = StratifiedKFold(min(folds, rarest), shuffle=True, random_state=seed)
    return list(stratified.split(rows.numbers, y))


def _best_of_each(kinds: Sequence[Kind], fold: Fold, pool: ThreadPoolExecutor) -> dict[str, tuple[Any, Score]]:
    """Return, for each kind, the choice with the least log-loss on the rows outside, and the learner."""
    tried = [(kind, choice) for kind in kinds for choice in kind.choices]
    fitted = list(pool.map(lambda one: one[0].fit(fold, one[1]), tried))
    rows, y = fold.outside
    losses = [float(log_loss(y, score(rows).astype(np.float64))) for score in fitted]
    best: dict[str, tuple[Any, Score]] = {}
    for at in sorted(range(len(tried)), key=losses.__getitem__):
        kind, choice = tried[at]
        best.setdefault(kind.name, (choice, fitted[at]))
    return {kind.name: best[kind.name] for kind in kinds}


def _blended(
    pupils: list[Pupil], y: Labels, unseen: list[Positions], chosen: dict[str, Any], progress: Progress
) -> Teacher:
    with threadpool_limits(1, user_api="blas"):
        out_of_fold = _out_of_fold(pupils, unseen, len(y))
    blend = fit_blend(out_of_fold, y)
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(chosen, blend.weights, strict=True))
    progress(f"teacher: weights of the learners on {len(pupils)} folds: {weights}")
    return Teacher(pupils, blend, blend.mix(out_of_fold), unseen, chosen)


def _out_of_fold(pupils: list[Pupil], unseen: list[Positions], rows: int) -> list[Scores]:
    """Return the scores of each kind, float32 [rows], that the fold gave which had not seen the row."""
    together = [np.empty(rows, np.float32) for _ in pupils[0].scores]
    for pupil, outside in zip(pupils, unseen, strict=True):
        for scores, score in zip(together, pupil.scores, strict=True):
            scores[outside] = score(pupil.fold.outside.rows)
    return together


def _pool(jobs: int) -> ThreadPoolExecutor:
    """Return as many workers as there are jobs and cores, with one OpenMP thread each.

    scikit-learn's own threads wait for each other at every tree, which on a busy machine takes twice as long or more.
    """
    return ThreadPoolExecutor(min(os.cpu_count() or 1, jobs), initializer=_one_thread)


def _one_thread() -> None:
    threadpool_limits(1, user_api="openmp")
