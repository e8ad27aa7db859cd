"""Which learners a teacher has, by how many rows there are and what the categories are like."""

import numpy as np
import pytest

from models.contract import CategoryFeature, NumberFeature
from models.declaration import Training
from models.encoding import Encoded
from models.training.budget import MANY_ROWS
from models.training.kinds import kinds_of_learners

FEW = 4000
OF_FEW = {"deep trees": 6, "line": 5, "straight line": 3, "network": 3, "shallow trees": 1}
OF_MANY = {"deep trees": 2, "line": 1, "network": 1}


@pytest.mark.parametrize(
    ("rows", "values", "expected", "every"),
    [
        (FEW, [], OF_FEW, 2),
        (FEW, [3], OF_FEW, 2),
        (FEW, [3, 3], OF_FEW, 2),
        (FEW, [200], OF_FEW, 2),
        (FEW, [200, 3], OF_FEW | {"pairs of values": 3}, 2),
        (MANY_ROWS, [], OF_MANY, 2),
        (MANY_ROWS, [3, 3], OF_MANY, 2),
        (MANY_ROWS, [200], OF_MANY | {"shallow trees": 1}, 2),
        (MANY_ROWS, [200, 3], OF_MANY | {"shallow trees": 1, "pairs of values": 1}, 2),
        (MANY_ROWS, [200, 3], OF_FEW | {"deep trees": 2, "pairs of values": 1}, 50),  # few have one of the outcomes
    ],
)
def test_learners_and_what_each_is_tried_with(
    contract_of, rows: int, values: list[int], expected: dict[str, int], every: int
):
    rng = np.random.default_rng(0)
    codes = np.column_stack([rng.integers(0, count, rows) for count in values] or [np.empty((rows, 0))])
    categories = {
        f"c{j}": CategoryFeature(kind="category", values=tuple(f"v{i}" for i in range(count)))
        for j, count in enumerate(values)
    }
    contract = contract_of({"x": NumberFeature(kind="number"), **categories})
    table = Encoded(np.zeros((rows, 1), np.float32), codes.astype(np.int32))
    y = (np.arange(rows) % every == 0).astype(np.float32)
    kinds = kinds_of_learners(contract, table, y, Training())
    assert {kind.name: len(kind.choices) for kind in kinds} == expected
