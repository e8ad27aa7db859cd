"""From a request to an answer, without a server."""

import json

import numpy as np
import pytest

from backends.online_store import open_store
from bento.failures import body_of, status_of
from bento.lineage import Lineage
from bento.predictor import Predictor
from models.contract import Api
from models.encoding import encode_rows
from models.errors import (
    EntityNotFoundError,
    ModelFileError,
    OnlineStoreError,
    Problem,
    StoreMismatchError,
    StoreUnavailableError,
    ValueRejectedError,
)
from models.scoring import Scorer
from tests.tiny_model import tiny_contract, tiny_onnx, tiny_rows

NOW = np.datetime64("now", "ms")
ROWS = tiny_rows(tiny_contract(), 3)
COMPLETE = {"tenure_months": 12, "age_years": 40, "balance": 5.5, "plan": "plus", "channel": "web"}


def predictor_of(folder, event_time=NOW, **changes) -> Predictor:
    """Make a predictor whose store knows the customers 0, 1 and 2."""
    contract = tiny_contract(**changes)
    onnx = tiny_onnx(contract)
    store = open_store(f"lmdb://{folder}", contract.model)
    store.load(contract, [(np.arange(3), encode_rows(contract, ROWS), np.full(3, event_time))], {})
    return Predictor(Scorer(onnx), store, Lineage(model="tiny", version="7", sha256=Scorer(onnx).sha256))


@pytest.fixture
def predictor(tmp_path) -> Predictor:
    return predictor_of(tmp_path)


def score_of(predictor: Predictor, features) -> float:
    return float(predictor.scorer.score(encode_rows(predictor.contract, [features]))[0])


def test_a_key_alone_scores_the_stored_features(predictor):
    answer = predictor.predict({"customer_id": 1})
    assert answer["customer_id"] == 1
    assert answer["probability"] == score_of(predictor, ROWS[1])
    assert answer["decision"] is (answer["probability"] >= 0.5)
    assert answer["threshold"] == 0.5
    assert (answer["model"], answer["model_version"]) == ("tiny", "7")
    assert answer["model_sha256"] == predictor.scorer.sha256
    assert answer["features_as_of"] == f"{NOW}Z"
    assert answer["features_stale"] is False


def test_features_alone_need_neither_key_nor_store(tmp_path):
    contract = tiny_contract()
    onnx = tiny_onnx(contract)
    store = open_store(f"lmdb://{tmp_path}/nothing", "tiny")
    predictor = Predictor(Scorer(onnx), store, Lineage(model="tiny", version="7", sha256=Scorer(onnx).sha256))
    answer = predictor.predict({"features": COMPLETE})
    assert answer["probability"] == score_of(predictor, COMPLETE)
    assert "customer_id" not in answer
    assert answer["features_as_of"] is None
    assert answer["features_stale"] is False
    assert predictor.predict({"customer_id": 1, "features": COMPLETE})["customer_id"] == 1
    with pytest.raises(StoreUnavailableError):
        predictor.predict({"customer_id": 1})


def test_features_without_a_key_may_leave_out_what_may_be_missing(predictor):
    given = {name: COMPLETE[name] for name in ("tenure_months", "balance", "plan")}
    answer = predictor.predict({"features": given})
    assert answer["probability"] == score_of(predictor, given)


@pytest.mark.parametrize("given", [{"plan": "pro"}, {"age_years": None}, {"balance": -3, "channel": "never seen"}])
def test_features_with_a_key_take_the_place_of_the_stored_ones(predictor, given):
    answer = predictor.predict({"customer_id": 2, "features": given})
    assert answer["probability"] == score_of(predictor, ROWS[2] | given)
    assert answer["features_as_of"] == f"{NOW}Z"


def test_every_feature_changes_the_score(predictor):
    changed = {"tenure_months": 500, "age_years": 99, "balance": -9000, "plan": "pro", "channel": None}
    before = score_of(predictor, COMPLETE)
    for name, value in changed.items():
        assert predictor.predict({"features": COMPLETE | {name: value}})["probability"] != before, name


@pytest.mark.parametrize(
    ("request_body", "fields"),
    [
        ([1], ["request"]),
        (None, ["request"]),
        ({}, ["customer_id"]),
        ({"customer_id": None}, ["customer_id"]),
        ({"customer_id": "1"}, ["customer_id"]),
        ({"customer_id": True}, ["customer_id"]),
        ({"customer": 1}, ["customer"]),
        ({"customer_id": 1, "feature": {}, "x": 2}, ["feature", "x"]),
        ({"customer_id": 1, "features": [1]}, ["features"]),
        ({"customer_id": "x", "features": COMPLETE}, ["customer_id"]),
        ({"features": {}}, ["tenure_months", "balance", "plan"]),
        ({"features": COMPLETE | {"balance": 1e9, "plan": None}}, ["balance", "plan"]),
        ({"features": COMPLETE | {"plam": "pro"}}, ["plam"]),
        ({"customer_id": 1, "features": {"plam": "pro"}}, ["plam"]),
        ({"customer_id": 1, "features": {"age_years": 5}}, ["age_years"]),
        ({"customer_id": 1, "features": {"plan": None}}, ["plan"]),
    ],
)
def test_what_does_not_fit_is_named(predictor, request_body, fields):
    with pytest.raises(ValueRejectedError) as refused:
        predictor.predict(request_body)
    assert [problem.field for problem in refused.value.problems] == fields
    assert all(problem.remedy for problem in refused.value.problems)


def test_an_unknown_entity_is_not_scored(predictor):
    with pytest.raises(EntityNotFoundError, match="customer_id 99"):
        predictor.predict({"customer_id": 99})


@pytest.mark.parametrize("age_hours", [48.1, None])
def test_old_features_and_those_of_unknown_age_are_stale(tmp_path, age_hours):
    event_time = np.datetime64("NaT", "ms") if age_hours is None else NOW - np.timedelta64(int(age_hours * 3600), "s")
    assert predictor_of(tmp_path / "flag", event_time).predict({"customer_id": 0})["features_stale"] is True
    strict = predictor_of(tmp_path / "refuse", event_time, api=Api(stale_features="refuse"))
    with pytest.raises(OnlineStoreError, match=r"older than 48 hours\. Materialize tiny/online_features"):
        strict.predict({"customer_id": 0})


def test_features_just_within_the_limit_are_not_stale(tmp_path):
    predictor = predictor_of(tmp_path, NOW - np.timedelta64(47, "h"), api=Api(stale_features="refuse"))
    assert predictor.predict({"customer_id": 0})["features_stale"] is False


def test_a_model_of_another_contract_does_not_read_the_vectors(tmp_path, predictor):
    contract = tiny_contract(entity_key="client_id")
    onnx = tiny_onnx(contract)
    other = Predictor(Scorer(onnx), predictor.store, Lineage(model="tiny", version="8", sha256=Scorer(onnx).sha256))
    with pytest.raises(StoreMismatchError):
        other.predict({"client_id": 1})


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueRejectedError([Problem("plan", 3, "is not a text", "Give a text.")]), 422),
        (EntityNotFoundError("no such"), 404),
        (StoreUnavailableError("none"), 503),
        (StoreMismatchError("other"), 503),
        (OnlineStoreError("stale"), 503),
        (ModelFileError("/secret/path"), 500),
    ],
)
def test_errors_have_a_status_and_one_form(error, status):
    assert status_of(error) == status
    body = body_of(error)["error"]
    assert set(body) == {"type", "message", "fields"}
    assert body["type"] == type(error).__name__
    assert "/secret" not in json.dumps(body)
    if status == 422:
        assert body["fields"] == [{"field": "plan", "value": 3, "message": "is not a text", "remedy": "Give a text."}]
