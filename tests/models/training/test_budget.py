import numpy as np
import pytest

from models.declaration import Training
from models.training.budget import LARGE, LONG, MANY_ROWS, Budget, budget_of, size_of


def outcomes(rows, positives):
    return (np.arange(rows) < positives).astype(np.float32)


@pytest.mark.parametrize("rare", [30, 9970])
def test_a_table_is_as_large_as_its_rarer_outcome(rare):
    assert size_of(outcomes(10_000, rare)) == 300
    assert size_of(outcomes(10_000, 5000)) == 10_000


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (LARGE - 1, Budget(5, 60_000, 1_500_000)),
        (LARGE, Budget(5, 150_000, 3_000_000)),
        (MANY_ROWS, Budget(3, 150_000, 3_000_000)),
    ],
)
def test_large_tables_are_shown_more_and_folded_less(rows, expected):
    assert budget_of(Training(), outcomes(rows, rows // 3)) == expected


def test_what_is_declared_is_kept_and_none_of_it_too():
    declared = Training(teacher_folds=2, synthetic_rows=0, row_presentations=1000)
    assert budget_of(declared, outcomes(MANY_ROWS, 10_000)) == Budget(2, 0, 1000)


@pytest.mark.parametrize(("rows", "folds"), [(LONG - 1, 5), (LONG, 3)])
def test_very_many_rows_are_folded_less_however_rare_an_outcome_is(rows, folds):
    assert budget_of(Training(), outcomes(rows, LARGE // 10)).teacher_folds == folds
