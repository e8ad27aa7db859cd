"""The types that the OpenAPI page shows, for contracts with awkward names too."""

import pytest
from pydantic import ValidationError

from bento.schema import answer_model, answers_model, request_model, requests_model
from models.contract import Api, CategoryFeature, NumberFeature
from tests.tiny_model import tiny_contract


def test_the_request_has_each_feature_with_its_bounds():
    schema = request_model(tiny_contract()).model_json_schema()
    assert set(schema["properties"]) == {"customer_id", "features", "reasons"}
    features = schema["$defs"]["Features"]["properties"]
    assert list(features) == ["tenure_months", "age_years", "balance", "plan", "channel"]
    assert (features["tenure_months"]["minimum"], features["tenure_months"]["maximum"]) == (0, 600)
    assert features["tenure_months"]["description"] == "Months since the first contract. Needed without a key."
    assert {"type": "null"} in features["age_years"]["anyOf"]
    assert "anyOf" not in features["balance"]
    assert [kind["type"] for kind in features["plan"]["anyOf"]] == ["string", "integer", "boolean"]
    assert "basic, plus, pro" in features["plan"]["description"]


@pytest.mark.parametrize("name", ["json", "model_config", "_hidden", "schema", "with space", "class"])
def test_a_feature_may_be_called_anything(name):
    contract = tiny_contract(features={name: NumberFeature(kind="number", max=5)})
    assert request_model(contract).model_validate({"features": {name: 5}})
    with pytest.raises(ValidationError):
        request_model(contract).model_validate({"features": {name: 6}})


def test_keys_are_typed_as_the_contract_says():
    contract = tiny_contract(
        entity_key="iban", entity_key_type="string", features={"a": CategoryFeature(kind="category", values=("x",))}
    )
    for model in (request_model(contract), answer_model(contract)):
        assert "string" in str(model.model_json_schema()["properties"]["iban"])


def test_many_rows_are_described_with_their_limit():
    contract = tiny_contract(api=Api(batch_limit=7))
    rows = requests_model(contract).model_json_schema()["properties"]["rows"]
    assert (rows["minItems"], rows["maxItems"]) == (1, 7)
    row = answers_model(contract).model_json_schema()["properties"]["predictions"]["items"]
    assert len(row["anyOf"]) == 2  # a score or an error
