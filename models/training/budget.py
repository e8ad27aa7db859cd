"""How much a training may cost, where the declaration does not say: more rows have more to tell, and take longer."""

from dataclasses import dataclass

from models.declaration import Training

MANY_ROWS = 50_000  # training rows, from here on two thirds of them teach as well as four fifths
LARGE = 30_000  # training rows, from here on the network keeps up with its teacher only if it is shown more


@dataclass(frozen=True)
class Budget:
    """Folds of the teacher, recombined rows that it labels, and rows that the network is shown in all."""

    teacher_folds: int
    synthetic_rows: int
    row_presentations: int


def budget_of(training: Training, rows: int) -> Budget:
    """Return what is declared, and by need what is not; `rows` are the training rows."""
    synthetic, presentations = (150_000, 3_000_000) if rows >= LARGE else (60_000, 1_500_000)
    needs = (3 if rows >= MANY_ROWS else 5, synthetic, presentations)
    declared = (training.teacher_folds, training.synthetic_rows, training.row_presentations)
    return Budget(*(need if given is None else given for given, need in zip(declared, needs, strict=True)))
