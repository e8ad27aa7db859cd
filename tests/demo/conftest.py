from pathlib import Path

import pytest

from models.contract import Contract
from models.declaration import load_declaration


@pytest.fixture(scope="session")
def churn() -> Contract:
    declaration = load_declaration(Path(__file__).parents[2] / "models" / "churn.yaml")
    return Contract(
        model=declaration.name,
        entity_key=declaration.entity_key,
        entity_key_type="integer",
        features=declaration.features,
        decision_threshold=declaration.decision_threshold,
        precision="float32",
        examples_table=declaration.examples.table,
        training_snapshot="1",
    )
