from pathlib import Path

import pytest

from models.contract import Contract
from models.declaration import load_declaration
from models.training.fit import contract_of


@pytest.fixture(scope="session")
def churn() -> Contract:
    return contract_of(load_declaration(Path(__file__).parents[2] / "models" / "churn.yaml"), "integer", "1")
