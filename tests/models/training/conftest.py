"""Small examples with a pattern worth learning, random contracts with rows that fit them, and one trained model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.contract import CategoryFeature, Contract, Feature, NumberFeature
from models.declaration import Declaration
from models.encoding import Encoded
from models.training.fit import Trained, train

FEATURES: dict[str, dict[str, Any]] = {
    "tenure": {"kind": "number", "min": 0},
    "charge": {"kind": "number", "missing": True},
    "installed_at": {"kind": "number"},  # seconds since 1970: large and far from zero
    "same_for_all": {"kind": "number"},
    "plan": {"kind": "category", "values": ["basic", "plus", "pro"]},
    "channel": {"kind": "category", "values": ["web", "shop"], "missing": True},
}
QUICK = {"teacher_folds": 2, "teacher_iterations": 40, "synthetic_rows": 1000, "row_presentations": 60_000}


def make_declaration(**changes: Any) -> Declaration:
    fields: dict[str, Any] = {
        "name": "leaver",
        "entity_key": "customer_id",
        "population": {"table": "silver.customers"},
        "examples": {"table": "silver.leaver_examples", "label": "left", "time": "observed_on"},
        "features": FEATURES,
        "network": {"hidden": [32, 8], "bins": 8},
        "training": QUICK,
    }
    return Declaration.model_validate(fields | changes)


def make_examples(rows: int, seed: int = 0, shift: float = -1.0) -> pa.Table:
    """Observed over 12 months of 2026; about a third leave at the default `shift` of the log-odds."""
    rng = np.random.default_rng(seed)
    tenure = np.where(rng.random(rows) < 0.3, 0, rng.exponential(20, rows))
    charge = np.where(rng.random(rows) < 0.1, np.nan, rng.normal(50, 15, rows))
    plan = rng.choice(["basic", "plus", "pro"], rows)
    channel = np.where(rng.random(rows) < 0.2, None, rng.choice(["web", "shop", "kiosk"], rows))
    log_odds = shift + 1.5 * (tenure == 0) + 0.05 * (np.nan_to_num(charge, nan=80) - 50) * np.where(plan == "pro", 2, 1)
    return pa.table(
        {
            "customer_id": np.arange(rows),
            "tenure": tenure,
            "charge": pa.array(charge, from_pandas=True),
            "installed_at": rng.integers(1_700_000_000, 1_800_000_000, rows),
            "same_for_all": np.full(rows, 7.5),
            "plan": pa.array(plan).dictionary_encode(),
            "channel": pa.array(channel),
            "observed_on": np.datetime64("2026-01-01") + rng.integers(0, 365, rows).astype("timedelta64[D]"),
            "left": rng.random(rows) < 1 / (1 + np.exp(-log_odds)),
        }
    )


def make_contract(features: dict[str, Feature]) -> Contract:
    return Contract(
        model="drawn",
        entity_key="id",
        entity_key_type="integer",
        features=features,
        decision_threshold=0.5,
        precision="float32",
        examples_table="silver.drawn",
        training_snapshot="1",
    )


def make_rows(contract: Contract, rows: int, seed: int = 0) -> Encoded:
    """Numbers of very different scales and shapes, missing values, unseen categories: all that a contract allows."""
    rng = np.random.default_rng(seed)
    numbers = np.empty((rows, len(contract.numbers)), np.float32)
    for j, number in enumerate(contract.numbers.values()):
        column = rng.normal(0, 10.0 ** rng.integers(-3, 9), rows) + rng.choice([0, 1e3, 1e9])
        column[rng.random(rows) < rng.choice([0, 0.5])] = 0
        column[rng.random(rows) < 0.2 * number.missing] = np.nan
        numbers[:, j] = column
    widths = [category.width for category in contract.categories.values()]
    categories = np.array([rng.integers(0, width, rows) for width in widths], np.int32).reshape(len(widths), rows).T
    return Encoded(numbers, np.ascontiguousarray(categories))


def draw_contract(seed: int) -> Contract:
    """A contract of 0 to 5 numbers and 0 to 4 categories, at least one feature in all."""
    rng = np.random.default_rng(seed)
    numbers, categories = int(rng.integers(0, 6)), int(rng.integers(0, 5))
    features: dict[str, Feature] = {
        f"category_{j}": CategoryFeature(
            kind="category",
            values=tuple(f"value {i}" for i in range(rng.integers(1, 9))),
            missing=bool(rng.integers(2)),
        )
        for j in range(categories)
    }
    for j in range(max(numbers, 1 - categories)):
        features[f"number_{j}"] = NumberFeature(kind="number", missing=bool(rng.integers(2)))
    return make_contract(features)


@pytest.fixture(scope="session")
def declaration() -> Callable[..., Declaration]:
    return make_declaration


@pytest.fixture(scope="session")
def examples() -> Callable[..., pa.Table]:
    return make_examples


@pytest.fixture(scope="session")
def contract_of() -> Callable[[dict[str, Feature]], Contract]:
    return make_contract


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., Encoded]:
    return make_rows


@pytest.fixture(scope="session", params=range(12))
def drawn(request: pytest.FixtureRequest) -> Contract:
    return draw_contract(request.param)


@pytest.fixture(scope="session")
def trained() -> Trained:
    return train(make_declaration(), make_examples(4000), entity_key_type="integer", training_snapshot="1")
