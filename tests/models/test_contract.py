import json
from typing import Any

import pytest
from pydantic import ValidationError

from models.contract import METADATA_KEY, Api, CategoryFeature, Contract, NumberFeature
from models.errors import ModelFileError
from tests.tiny_model import FEATURES, tiny_contract


def with_feature(name: str, **changes: Any) -> dict[str, Any]:
    return FEATURES | {name: FEATURES[name].model_copy(update=changes)}


def test_a_contract_survives_its_trip_through_metadata():
    contract = tiny_contract(
        features=with_feature("plan", values=("Straße", "日本", 'a "quote"', "")),
        api=Api(port=4000, stale_features="refuse"),
    )
    metadata = contract.to_metadata()
    assert list(metadata) == [METADATA_KEY]
    back = Contract.from_metadata(metadata | {"producer": "somebody else"})
    assert back == contract
    assert list(back.features) == list(contract.features)
    assert back.fingerprint == contract.fingerprint
    assert isinstance(back.training_snapshot, str)


def test_numbers_and_categories_are_the_graphs_columns_in_order():
    contract = tiny_contract()
    assert list(contract.numbers) == ["tenure_months", "age_years", "balance"]
    assert list(contract.categories) == ["plan", "channel"]
    assert contract.output == "tiny_probability"


def test_category_codes_are_values_then_other_then_missing():
    open_to_missing = CategoryFeature(kind="category", values=("a", "b", "c"), missing=True)
    assert (open_to_missing.other_code, open_to_missing.missing_code, open_to_missing.width) == (3, 4, 5)
    assert CategoryFeature(kind="category", values=("a", "b", "c")).width == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"features": with_feature("age_years", description="Age in full years.")},
        {"decision_threshold": 0.1},
        {"api": Api(port=9999, batch_limit=5)},
        {"precision": "int8"},
        {"training_snapshot": "42"},
        {"dagster_run_id": ""},
        {"model": "another"},
        {"examples_table": "silver.others"},
    ],
)
def test_the_fingerprint_ignores_what_packed_vectors_do_not_depend_on(changes: dict[str, Any]):
    assert tiny_contract(**changes).fingerprint == tiny_contract().fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"entity_key": "account_id"},
        {"entity_key_type": "string"},
        {"features": with_feature("age_years", min=17)},
        {"features": with_feature("age_years", max=None)},
        {"features": with_feature("age_years", missing=False)},
        {"features": with_feature("plan", missing=True)},
        {"features": with_feature("plan", values=("basic", "pro", "plus"))},  # the codes change
        {"features": with_feature("plan", values=("basic", "plus"))},
        {"features": dict(reversed(FEATURES.items()))},
        {"features": {("tariff" if name == "plan" else name): f for name, f in FEATURES.items()}},
        {"features": FEATURES | {"balance": CategoryFeature(kind="category", values=("low",))}},
        {"features": FEATURES | {"late": NumberFeature(kind="number")}},
    ],
)
def test_the_fingerprint_changes_with_key_and_features(changes: dict[str, Any]):
    fingerprint = tiny_contract(**changes).fingerprint
    assert len(fingerprint) == 8
    assert fingerprint != tiny_contract().fingerprint


def test_the_fingerprint_is_the_same_in_every_process():
    assert tiny_contract().fingerprint.hex() == "f88604c39f4a1f9d"


def _broken(**changes: Any) -> str:
    return json.dumps(json.loads(tiny_contract().model_dump_json()) | changes)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "has no metadata entry 'tandem.contract' \\(it has: none\\)"),
        ({"author": "somebody"}, "it has: \\['author'\\]"),
        ({METADATA_KEY: ""}, "cannot be read"),
        ({METADATA_KEY: "{not json"}, "cannot be read"),
        ({METADATA_KEY: "[]"}, "cannot be read"),
        ({METADATA_KEY: _broken(format=2)}, "format"),
        ({METADATA_KEY: _broken(from_the_future=True)}, "from_the_future"),
        ({METADATA_KEY: _broken(features={"age": {"kind": "text"}})}, "features.age"),
    ],
)
def test_foreign_metadata_is_refused(metadata: dict[str, str], message: str):
    with pytest.raises(ModelFileError, match=message):
        Contract.from_metadata(metadata)


def test_a_contract_does_not_change():
    with pytest.raises(ValidationError):
        tiny_contract().decision_threshold = 0.9
