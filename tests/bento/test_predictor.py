"""From a request to an answer, without a server."""

import json
from typing import Any

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
    with pytest.raises(EntityNotFoundError, match="customer_id 99") as not_found:
        predictor.predict({"customer_id": 99})
    (problem,) = not_found.value.problems
    assert (problem.field, problem.value) == ("customer_id", 99)
    assert problem.remedy in str(not_found.value)


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


MIXED: list[Any] = [
    {"customer_id": 2},
    {"customer_id": 99},
    {"features": COMPLETE},
    {"customer_id": 1, "features": {"plan": "pro", "age_years": None}},
    {"customer_id": 1, "features": {"balance": 1e9, "plam": "pro"}},
    {"customer_id": 0, "features": COMPLETE},
    {"features": {"balance": 1}},
    "customer 7",
    {"customer_id": 2},
    {"customer_id": "7"},
]


def test_many_are_answered_as_each_would_be_alone_and_errors_stand_in_their_rows_place(predictor):
    outcomes = predictor.predict_many(MIXED)
    for row, (request, outcome) in enumerate(zip(MIXED, outcomes, strict=True)):
        if isinstance(outcome, dict):
            assert outcome == predictor.predict(request)
            continue
        with pytest.raises(type(outcome)) as alone:
            predictor.predict(request)
        placed = [(f"{p.field}[{row}]", p.value, p.message, p.remedy) for p in alone.value.problems]
        assert [(p.field, p.value, p.message, p.remedy) for p in outcome.problems] == placed
    assert [row for row, outcome in enumerate(outcomes) if not isinstance(outcome, dict)] == [1, 4, 6, 7, 9]
    assert outcomes[3]["probability"] == score_of(predictor, ROWS[1] | {"plan": "pro", "age_years": None})
    assert outcomes[0] == outcomes[8]


def test_what_all_rows_share_can_be_left_out(predictor):
    (row,), (answer,) = predictor.predict_rows([{"customer_id": 1}]), predictor.predict_many([{"customer_id": 1}])
    assert row.keys().isdisjoint(predictor.facts)
    assert row | predictor.facts == answer


def test_many_scores_are_the_scorers_own_float32(tmp_path):
    predictor, rows = predictor_of(tmp_path), tiny_rows(tiny_contract(), 1000)
    expected = predictor.scorer.score(encode_rows(predictor.contract, rows))
    outcomes = predictor.predict_many([{"features": row} for row in rows])
    np.testing.assert_array_equal(np.float32([outcome["probability"] for outcome in outcomes]), expected)
    assert [outcome["decision"] for outcome in outcomes] == predictor.scorer.decide(expected).tolist()


@pytest.mark.parametrize("rows", [0, 4])
def test_no_rows_and_too_many_are_refused_with_the_limit(tmp_path, rows):
    predictor = predictor_of(tmp_path, api=Api(batch_limit=3))
    assert len(predictor.predict_many([{"customer_id": 1}] * 3)) == 3
    with pytest.raises(ValueRejectedError, match=rf"rows: .* \(value: {rows}\)\. Send 1 to 3 rows\."):
        predictor.predict_many([{"customer_id": 1}] * rows)


def test_many_need_a_store_only_when_one_of_them_does(tmp_path):
    contract = tiny_contract()
    store = open_store(f"lmdb://{tmp_path}/nothing", "tiny")
    scorer = Scorer(tiny_onnx(contract))
    predictor = Predictor(scorer, store, Lineage(model="tiny", version="7", sha256=scorer.sha256))
    assert len(predictor.predict_many([{"features": COMPLETE}, {"customer_id": 4, "features": COMPLETE}])) == 2
    with pytest.raises(StoreUnavailableError):
        predictor.predict_many([{"features": COMPLETE}, {"customer_id": 4}])


def test_old_features_are_refused_row_by_row(tmp_path):
    predictor = predictor_of(tmp_path, NOW - np.timedelta64(49, "h"), api=Api(stale_features="refuse"))
    old, sent = predictor.predict_many([{"customer_id": 1}, {"features": COMPLETE}])
    assert isinstance(old, OnlineStoreError)
    assert sent["probability"] == score_of(predictor, COMPLETE)
    assert (sent["features_as_of"], sent["features_stale"]) == (None, False)


def test_a_change_of_one_row_does_not_touch_the_others(predictor):
    changed, same = predictor.predict_many([{"customer_id": 1, "features": {"plan": "pro"}}, {"customer_id": 1}])
    assert same["probability"] == score_of(predictor, ROWS[1])
    assert changed["probability"] == score_of(predictor, ROWS[1] | {"plan": "pro"})
    assert predictor.predict({"customer_id": 1}) == same | predictor.facts


def test_text_keys_are_asked_for_by_name(tmp_path):
    contract = tiny_contract(entity_key="iban", entity_key_type="string")
    scorer = Scorer(tiny_onnx(contract))
    store = open_store(f"lmdb://{tmp_path}", "tiny")
    store.load(contract, [(["DE1", "FR2", "ñ3"], encode_rows(contract, ROWS), np.full(3, NOW))], {})
    predictor = Predictor(scorer, store, Lineage(model="tiny", version="7", sha256=scorer.sha256))
    assert predictor.predict({"iban": "ñ3"})["probability"] == score_of(predictor, ROWS[2])
    predictor.rehearse()


def test_a_rehearsal_tells_whether_keys_can_be_answered(tmp_path, predictor):
    predictor.rehearse()
    contract = tiny_contract(entity_key="client_id")
    scorer = Scorer(tiny_onnx(contract))
    lineage = Lineage(model="tiny", version="8", sha256=scorer.sha256)
    with pytest.raises(StoreMismatchError, match="Materialize tiny/online_features"):
        Predictor(scorer, predictor.store, lineage).rehearse()
    with pytest.raises(StoreUnavailableError):
        Predictor(scorer, open_store(f"lmdb://{tmp_path}/nothing", "tiny"), lineage).rehearse()


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
    assert set(body) == {"status", "type", "message", "fields"}
    assert body["status"] == status
    assert body["type"] == ("ServiceError" if status == 500 else type(error).__name__)
    assert "/secret" not in json.dumps(body)
    if status == 422:
        assert body["fields"] == [{"field": "plan", "value": 3, "message": "is not a text", "remedy": "Give a text."}]


def test_of_very_many_problems_the_first_are_named_and_all_are_counted():
    few, many = ([Problem(f"a{i}", i, "is not known here", "Leave it out.") for i in range(n)] for n in (100, 100_000))
    assert len(body_of(ValueRejectedError(few))["error"]["fields"]) == 100
    error = body_of(ValueRejectedError(many))["error"]
    assert [field["field"] for field in error["fields"]] == [f"a{i}" for i in range(100)]
    assert error["message"].endswith(
        "a99: is not known here (value: 99). Leave it out. (100000 problems, the first 100.)"
    )
