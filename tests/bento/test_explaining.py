"""Reasons in the answers that ask for them: which, for whom, at whose expense, and not at all in the others."""

import asyncio
import json
from threading import Event
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from backends.online_store import open_store
from bento.client import ApiClient
from bento.event_predictor import EventPredictor, predictor_of
from bento.explaining import MOST_ROWS, MOST_WAITING
from bento.failures import status_of
from bento.lineage import Lineage
from bento.predictor import Predictor
from models.contract import Api
from models.encoding import Encoded, encode_rows
from models.errors import ContractError, EntityNotFoundError, OnlineStoreError, OverloadedError, ValueRejectedError
from models.reasons import UNSEEN, Explainer, Reasons
from models.scoring import Scorer
from tests.event_model import event_contract
from tests.event_replay import NEW_CARD, lineage_of, seed_store, some_days
from tests.tiny_model import tiny_contract, tiny_onnx, tiny_onnx_with_reference, tiny_rows

CUSTOMERS = 40
ROWS = tiny_rows(tiny_contract(), CUSTOMERS)
SWIPE = {"card_id": NEW_CARD, "swipe_id": 1, "features": {"amount": 10.0, "country": "de"}}


def predictor_at(folder, onnx: bytes, hours_ago: int = 0) -> Predictor:
    scorer = Scorer(onnx)
    store = open_store(f"lmdb://{folder}", "tiny")
    times = np.full(CUSTOMERS, np.datetime64("now", "ms") - np.timedelta64(hours_ago, "h"))
    store.load(scorer.contract, [(np.arange(CUSTOMERS), encode_rows(scorer.contract, ROWS), times)], {})
    return Predictor(scorer, store, Lineage(model="tiny", version="7", sha256=scorer.sha256))


@pytest.fixture
def predictor(tmp_path) -> Predictor:
    return predictor_at(tmp_path, tiny_onnx_with_reference(tiny_contract()))


@pytest.fixture
def swipes(tmp_path) -> EventPredictor:
    onnx = tiny_onnx_with_reference(event_contract())
    predictor = predictor_of(Scorer(onnx), f"lmdb://{tmp_path}", lineage_of(onnx))
    assert isinstance(predictor, EventPredictor)
    seed_store(predictor.histories, event_contract(), some_days())
    return predictor


def explained(scorer: Scorer, row: Encoded) -> Reasons:
    (found,) = Explainer(scorer).explain(row, scorer.score(row))
    return found


def shown(answer: dict[str, Any]) -> list[tuple[str, float]]:
    return [(reason["feature"], reason["contribution"]) for reason in answer["reasons"]]


@pytest.mark.parametrize(("asked", "count"), [(1, 1), (2, 2), (True, 3), (5, 5), (1000, 5)])
def test_an_answer_names_as_many_reasons_as_are_asked_for(predictor, asked, count):
    answer = predictor.predict({"customer_id": 1, "reasons": asked})
    found = explained(predictor.scorer, encode_rows(predictor.contract, [ROWS[1]]))
    assert shown(answer) == list(found.most(count))
    assert answer["base_probability"] == found.base_probability
    without = predictor.predict({"customer_id": 1})
    assert {name: answer[name] for name in without} == without
    assert answer.keys() - without.keys() == {"reasons", "base_probability"}


@pytest.mark.parametrize("asked", [False, None])
def test_who_wants_none_gets_none(predictor, asked):
    assert predictor.predict({"customer_id": 1, "reasons": asked}) == predictor.predict({"customer_id": 1})


@pytest.mark.parametrize("asked", [0, -1, 2.0, "3", [], {}])
def test_what_is_no_number_of_reasons_is_refused(predictor, asked):
    with pytest.raises(ValueRejectedError, match=r"reasons: is not a number of reasons.*or true for 3"):
        predictor.predict({"customer_id": 1, "reasons": asked})


def test_the_values_are_those_that_were_scored_sent_or_stored(predictor):
    sent = {"balance": 0.1, "plan": "nobody's", "age_years": None}
    answer = predictor.predict({"customer_id": 1, "features": sent, "reasons": 5})
    values = {reason["feature"]: reason["value"] for reason in answer["reasons"]}
    assert (values["balance"], values["plan"], values["age_years"]) == (0.1, UNSEEN, None)
    assert np.float32(values["tenure_months"]) == np.float32(ROWS[1]["tenure_months"])
    whole = encode_rows(predictor.contract, [ROWS[1] | sent])
    assert shown(answer) == list(explained(predictor.scorer, whole).most(5))


def test_features_alone_are_explained_too(predictor):
    by_features = predictor.predict({"features": ROWS[2], "reasons": 5})
    assert by_features["reasons"] == predictor.predict({"customer_id": 2, "reasons": 5})["reasons"]


def test_each_of_many_rows_asks_for_itself(predictor):
    requests = [{"customer_id": 1, "reasons": 2}, {"customer_id": 2}, {"customer_id": 999, "reasons": 2}]
    requests += [{"features": ROWS[3], "reasons": 4}]
    some, none, unknown, other = predictor.predict_many(requests)
    assert isinstance(unknown, EntityNotFoundError)
    assert "reasons" not in none
    assert some == predictor.predict(requests[0])
    assert other == predictor.predict(requests[3])


def test_too_many_rows_with_reasons_are_refused_and_without_them_taken(predictor):
    requests = [{"customer_id": i % CUSTOMERS, "reasons": 1} for i in range(MOST_ROWS)]
    answers = predictor.predict_many([*requests, {"customer_id": 1}])
    assert ["reasons" in answer for answer in answers] == [True] * MOST_ROWS + [False]
    with pytest.raises(ValueRejectedError, match=f"too many rows.*21.*at most {MOST_ROWS} rows in one call"):
        predictor.predict_many([*requests, {"customer_id": 1, "reasons": 1}])


def test_a_model_without_reference_rows_says_what_to_do(tmp_path):
    predictor = predictor_at(tmp_path, tiny_onnx(tiny_contract()))
    with pytest.raises(ValueRejectedError, match=r"reasons: cannot be given.*Train again"):
        predictor.predict({"customer_id": 1, "reasons": 3})
    assert "probability" in predictor.predict({"customer_id": 1})


def test_features_that_are_too_old_are_refused_with_reasons_too(tmp_path):
    contract = tiny_contract(api=Api(stale_features="refuse"))
    predictor = predictor_at(tmp_path, tiny_onnx_with_reference(contract), hours_ago=100)
    with pytest.raises(OnlineStoreError, match="older than 48 hours"):
        predictor.predict({"customer_id": 1, "reasons": 3})


def test_others_are_answered_while_reasons_are_looked_for(predictor):
    finished = []

    async def ask(name: str, **more: Any) -> dict[str, Any]:
        answer = await predictor.predict_async({"customer_id": 1, **more})
        finished.append(name)
        return answer

    async def together() -> list[dict[str, Any]]:
        return await asyncio.gather(ask("explained", reasons=5), ask("plain"))

    explained_answer, _ = asyncio.run(together())
    assert finished == ["plain", "explained"]
    assert explained_answer == predictor.predict({"customer_id": 1, "reasons": 5})


def test_when_too_many_wait_for_reasons_more_are_refused_and_others_are_not(predictor):
    held, requests = Event(), [{"customer_id": i, "reasons": 1} for i in range(MOST_ROWS)]

    async def crowd() -> None:
        predictor._explaining._thread.submit(held.wait)
        waiting = [
            asyncio.create_task(predictor.predict_rows_async(requests)) for _ in range(MOST_WAITING // MOST_ROWS)
        ]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match=f"{MOST_WAITING} rows wait") as refused:
            await predictor.predict_async({"customer_id": 1, "reasons": 1})
        assert status_of(refused.value) == 503
        assert "probability" in await predictor.predict_async({"customer_id": 1})
        held.set()
        for answers in await asyncio.gather(*waiting):
            assert all("reasons" in answer for answer in answers)
        assert "reasons" in await predictor.predict_async({"customer_id": 1, "reasons": 1})

    asyncio.run(crowd())


def test_an_event_is_explained_with_the_history_that_it_was_scored_with(swipes):
    first = swipes.predict(SWIPE | {"reasons": 50})
    again = swipes.predict(SWIPE | {"swipe_id": 2, "reasons": 50})
    values = [{reason["feature"]: reason["value"] for reason in answer["reasons"]} for answer in (first, again)]
    assert [found["swipes_1h"] for found in values] == [0, 1]
    assert len(values[0]) == len(event_contract().features)
    assert (values[0]["amount"], values[0]["country"], values[0]["channel"]) == (10.0, "de", None)
    asked = asyncio.run(swipes.predict_async(SWIPE | {"swipe_id": 2, "reasons": 50}))
    assert (asked["reasons"], asked["probability"]) == (again["reasons"], again["probability"])


@pytest.mark.parametrize("wrong", [{"reasons": 0}, {"reasons": "all"}])
def test_an_event_whose_reasons_are_refused_leaves_no_trace(swipes, wrong):
    with pytest.raises(ValueRejectedError, match="is not a number of reasons"):
        swipes.predict(SWIPE | wrong)
    assert swipes.predict(SWIPE)["known_entity"] is False


def test_events_that_are_too_many_to_explain_leave_no_trace(swipes):
    with pytest.raises(ValueRejectedError, match="too many rows"):
        swipes.predict_many([SWIPE | {"swipe_id": i, "reasons": 1} for i in range(MOST_ROWS + 1)])
    assert swipes.predict(SWIPE)["known_entity"] is False


def test_an_event_for_whose_reasons_there_is_no_room_leaves_no_trace(swipes):
    calls = [dict.fromkeys(range(MOST_ROWS), 1)] * (MOST_WAITING // MOST_ROWS)
    for call in calls:
        swipes._explaining.reserve(call)
    with pytest.raises(OverloadedError, match=f"{MOST_WAITING} rows wait"):
        swipes.predict(SWIPE | {"reasons": 1})
    for call in calls:
        swipes._explaining.release(call)
    assert swipes.predict(SWIPE | {"reasons": 1})["known_entity"] is False


def test_over_rest_the_reasons_are_the_same_float32(served):
    scorer = Scorer(served.onnx)
    rows = encode_rows(served.contract, served.rows[:40])
    expected = [list(found.most(5)) for found in Explainer(scorer).explain(rows, scorer.score(rows))]
    with ApiClient(served.url) as client:
        by_key = [client.predict({"customer_id": i, "reasons": 5}) for i in range(40)]
        together = [
            client.predict_many([{"features": r, "reasons": 5} for r in served.rows[i : i + 20]]) for i in (0, 20)
        ]
        plain = client.predict({"customer_id": 1})
        with pytest.raises(ContractError, match="number of reasons"):
            client.predict({"customer_id": 1, "reasons": "many"})
    assert [shown(answer) for answer in by_key] == expected
    assert [shown(answer) for answers in together for answer in answers] == expected
    assert not {"reasons", "base_probability"} & plain.keys()


@pytest.mark.parametrize("way", ["grpc", "http"])
def test_the_open_inference_protocol_gives_them_by_parameter(served, way):
    scorer, rows = Scorer(served.onnx), encode_rows(served.contract, served.rows[:3])
    expected = Explainer(scorer).explain(rows, scorer.score(rows))
    triton, address = (tritonclient.grpc, served.grpc) if way == "grpc" else (tritonclient.http, served.url[7:])
    customers = triton.InferInput("customer_id", [3], "INT64")
    customers.set_data_from_numpy(np.arange(3))
    with triton.InferenceServerClient(address) as client:
        answer = client.infer("tiny", [customers], parameters={"reasons": 2})
        named = client.infer("tiny", [customers], outputs=[triton.InferRequestedOutput("decision")])
        with pytest.raises(InferenceServerException, match="not a number of reasons"):
            client.infer("tiny", [customers], parameters={"reasons": -2})
    found = [json.loads(text) for text in answer.as_numpy("reasons")]
    assert [[(one["feature"], one["contribution"]) for one in row] for row in found] == [
        list(reasons.most(2)) for reasons in expected
    ]
    assert answer.as_numpy("base_probability").tolist() == [reasons.base_probability for reasons in expected]
    assert np.array_equal(answer.as_numpy("tiny_probability"), scorer.score(rows))
    assert named.as_numpy("reasons") is None


@pytest.mark.parametrize("way", ["grpc", "http"])
def test_of_the_open_inference_protocol_who_names_outputs_gets_those(served, way):
    triton, address = (tritonclient.grpc, served.grpc) if way == "grpc" else (tritonclient.http, served.url[7:])
    customers = triton.InferInput("customer_id", [3], "INT64")
    customers.set_data_from_numpy(np.arange(3))

    def asked(*names: str, **parameters: Any) -> dict[str, list[Any]]:
        outputs = [triton.InferRequestedOutput(name) for name in names]
        answer = client.infer("tiny", [customers], outputs=outputs or None, parameters=parameters or None)
        found = answer.get_response()
        listed = [output.name for output in found.outputs] if way == "grpc" else [o["name"] for o in found["outputs"]]
        return {name: answer.as_numpy(name).tolist() for name in listed}

    with triton.InferenceServerClient(address) as client:
        everything = asked(reasons=2)
        for names in (["reasons"], ["base_probability", "decision"], ["decision", "reasons", "tiny_probability"]):
            found = asked(*names, reasons=2)
            assert list(found) == names
            assert found == {name: everything[name] for name in names}
        assert list(asked("decision", reasons=2)) == ["decision"]
        assert "reasons" not in asked(reasons=False)
        with pytest.raises(InferenceServerException, match="not a number of reasons"):
            asked("decision", reasons=-2)
        with pytest.raises(InferenceServerException, match="Send the parameter reasons too"):
            asked("reasons")
        with pytest.raises(InferenceServerException, match=r"Known: .*base_probability, reasons"):
            asked("reason", reasons=2)
