"""The kinds of learners that the teacher blends, and what each is tried with. How they learn is in other modules."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from models.contract import Contract
from models.declaration import Training
from models.encoding import Encoded
from models.training.budget import MANY_ROWS, budget_of, size_of
from models.training.learners import Fold, Schooling, Score, fit_line, fit_network, fit_straight_line
from models.training.pairs import fit_pairs
from models.training.rates import many_valued
from models.training.split import Labels
from models.training.trees import SHALLOW, Growth, fit_trees

# What each kind of learner is tried with on the first fold; the best goes on.
DEEP = tuple(Growth(leaves, features) for leaves in (7, 15, 31) for features in (0.7, 1.0))
DEEP_OF_MANY = (Growth(15, 0.7), Growth(31, 0.7))
DEEP_OF_RARE = (Growth(7, 0.7), Growth(15, 0.7))  # of many rows too, which take long, but few have one of the outcomes
STRENGTHS, STRENGTHS_OF_MANY = (0.003, 0.01, 0.03, 0.1, 0.3), (0.1,)
STRAIGHT_STRENGTHS = (1.0, 10.0, 100.0)  # each number is one column, 0 to 1
SCHOOLINGS = (Schooling(8, 0, 0.1, 0.01), Schooling(30, 0, 0.3, 0.01), Schooling(0, 300_000, 0, 2.0))
SCHOOLINGS_OF_MANY = (Schooling(4, 0, 0.1, 0.01),)
PENALTIES, PENALTIES_OF_MANY = (5.0, 10.0, 20.0), (10.0,)
SHARE, MOST_PRESENTATIONS = 5, 400_000  # a network of the teacher is shown a fifth of what the taught one is, at most


class Kind(NamedTuple):
    """A kind of learner and what it is tried with."""

    name: str
    fit: Callable[[Fold, Any], Score]
    choices: Sequence[Any]


def kinds_of_learners(contract: Contract, rows: Encoded, y: Labels, training: Training) -> list[Kind]:
    """Return the kinds that suit the training rows: many rows get fewer, and of each fewer choices."""
    many, long, seed = size_of(y) >= MANY_ROWS, len(y) >= MANY_ROWS, training.seed
    presentations = min(budget_of(training, y).row_presentations // SHARE, MOST_PRESENTATIONS)

    def trees(fold: Fold, growth: Growth) -> Score:
        return fit_trees(fold, growth, training.teacher_iterations, seed)

    def line(fold: Fold, strength: float) -> Score:
        return fit_line(fold, strength, seed)

    def straight_line(fold: Fold, strength: float) -> Score:
        return fit_straight_line(fold, strength, seed)

    def network(fold: Fold, schooling: Schooling) -> Score:
        return fit_network(fold, schooling, presentations, seed)

    def pairs(fold: Fold, penalty: float) -> Score:
        return fit_pairs(fold, penalty, contract.code_counts, seed)

    many_values = bool(many_valued(rows))
    shallow = [Kind("shallow trees", trees, (SHALLOW,))]
    of_pairs = [Kind("pairs of values", pairs, PENALTIES_OF_MANY if long else PENALTIES)]
    return [
        *(shallow if many_values or not many else []),  # of many rows without rates deep ones know as much
        *(of_pairs if many_values and len(contract.categories) > 1 else []),  # trees find those of few values
        Kind("deep trees", trees, DEEP_OF_MANY if many else DEEP_OF_RARE if long else DEEP),
        Kind("line", line, STRENGTHS_OF_MANY if many else STRENGTHS),
        *([] if many else [Kind("straight line", straight_line, STRAIGHT_STRENGTHS)]),
        Kind("network", network, SCHOOLINGS_OF_MANY if many else SCHOOLINGS),
    ]
