import pytest

from models.declaration import Training
from models.training.budget import LARGE, Budget, budget_of


@pytest.mark.parametrize(
    ("rows", "expected"), [(LARGE - 1, Budget(60_000, 1_500_000)), (LARGE, Budget(150_000, 3_000_000))]
)
def test_large_tables_get_more(rows, expected):
    assert budget_of(Training(), rows) == expected


def test_what_is_declared_is_kept_and_none_of_it_too():
    assert budget_of(Training(synthetic_rows=0, row_presentations=1000), LARGE) == Budget(0, 1000)
