"""How much a training may cost, where the declaration does not say: more rows have more to tell, and take longer.

A table is as large as its rarer outcome lets it be: a hundred thousand rows with three hundred positives are few.
"""

from dataclasses import dataclass

from models.declaration import Training
from models.training.split import Labels

MANY_ROWS = 50_000  # from here on two thirds of them teach as well as four fifths
LONG = 150_000  # rows, whatever their outcomes: five folds of so many take too long
LARGE = 30_000  # rows, from here on the network keeps up with its teacher only if it is shown more
RARE = 10  # rows that one of the rarer outcome counts for at most


@dataclass(frozen=True)
class Budget:
    """Folds of the teacher, recombined rows that it labels, and rows that the network is shown in all."""

    teacher_folds: int
    synthetic_rows: int
    row_presentations: int


def size_of(y: Labels) -> int:
    """Return how many rows the outcomes, float32 [rows], are worth."""
    positives = int(y.sum())
    return min(len(y), RARE * positives, RARE * (len(y) - positives))


def budget_of(training: Training, y: Labels) -> Budget:
    """Return what is declared, and by need of the training rows with outcomes `y` what is not."""
    rows = size_of(y)
    synthetic, presentations = (150_000, 3_000_000) if rows >= LARGE else (60_000, 1_500_000)
    needs = (3 if rows >= MANY_ROWS or len(y) >= LONG else 5, synthetic, presentations)
    declared = (training.teacher_folds, training.synthetic_rows, training.row_presentations)
    return Budget(*(need if given is None else given for given, need in zip(declared, needs, strict=True)))
