"""From a request about an event to an answer, without a server, by a store on a real folder and by a real Redis."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from signal import SIGCONT, SIGSTOP
from typing import Any

import numpy as np
import pytest

from backends.histories import HistoryStore, open_histories
from backends.settings import ROOT
from bento.event_predictor import EventPredictor, predictor_of
from bento.guard.admission import until_it_waits
from bento.observing.watch import Watch
from bento.predictor import Predictor
from models.contract import Api
from models.errors import OnlineStoreError, StoreMismatchError, StoreUnavailableError, TandemError, ValueRejectedError
from models.scoring import Scorer
from tests.event_model import DAY, HOUR, SECOND, event_contract
from tests.event_replay import (
    CARD,
    KEY,
    NEW_CARD,
    SPAN,
    TIME,
    UNTIL,
    bytes_of,
    last_day,
    lineage_of,
    of_batch,
    request_of,
    requests_of,
    seed_store,
    some_days,
)
from tests.redis_server import RedisServer, redis_server
from tests.tiny_model import tiny_contract, tiny_onnx

CONTRACT = event_contract()
ONNX = tiny_onnx(CONTRACT)
DAYS = some_days()
FEATURES = {"amount": 10.0, "country": "de"}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def online(request, tmp_path) -> str:
    return f"lmdb://{tmp_path}" if request.param == "lmdb" else request.getfixturevalue("redis").emptied().uri()


@pytest.fixture
def predictor(online) -> EventPredictor:
    return made(online)


def made(online: str, **changes: Any) -> EventPredictor:
    """Make a predictor whose store knows the days before the last one."""
    contract = event_contract(**changes)
    onnx = tiny_onnx(contract)
    predictor = predictor_of(Scorer(onnx), online, lineage_of(onnx))
    assert isinstance(predictor, EventPredictor)
    seed_store(predictor.histories, contract, DAYS)
    return predictor


def swipe(card: int = 1, key: int | None = None, at: int | None = None, **features: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {CARD: card, "features": {**FEATURES, **features}}
    return asked | ({KEY: key} if key is not None else {}) | ({TIME: at} if at is not None else {})


def recorded(store: HistoryStore, card: int) -> list[int]:
    event = np.zeros(1, store.history.dtype)
    return store.fetch_and_append([card], event, [False])[0].events["key"].tolist()


def features_of(predictor: EventPredictor, request: Any) -> tuple[bytes, dict[str, Any]]:
    """Return the features that were scored, and the answer."""
    watch = Watch()
    answer = predictor.predict(request, watch)
    assert watch.scored is not None
    return bytes_of(watch.scored.rows), answer


# --- as in batch ----------------------------------------------------------------------------------------------------


def test_a_day_that_is_replayed_has_the_features_and_scores_of_the_batch_bit_for_bit(predictor):
    """Swipes of the same moment, nulls, unseen countries and a card that nobody knows are among them."""
    day, expected = last_day(DAYS), of_batch(predictor.scorer, DAYS)
    assert len(day) == len(expected) > 120
    assert NEW_CARD in day[CARD].to_pylist()
    for request in requests_of(day):
        features, answer = features_of(predictor, request)
        assert (features, np.float32(answer["probability"])) == expected[request[KEY]]
        assert answer["history_complete"]
    for request in requests_of(day, record=False):  # and as of its time, when all is over
        features, answer = features_of(predictor, request)
        assert (features, np.float32(answer["probability"])) == expected[request[KEY]]


def test_many_rows_at_once_are_the_same_bit_for_bit(predictor):
    day, expected = last_day(DAYS), of_batch(predictor.scorer, DAYS)
    for batch in (day.slice(0, 100), day.slice(100)):
        for answer in predictor.predict_many(requests_of(batch)):
            assert not isinstance(answer, TandemError)
            assert np.float32(answer["probability"]) == expected[answer[KEY]][1]


def test_an_event_loop_gets_the_same_bit_for_bit(predictor):
    async def replay() -> list[dict[str, Any]]:
        answers = [await predictor.predict_async(request) for request in requests_of(last_day(DAYS))]
        await predictor.histories.aclose()
        return answers

    expected = of_batch(predictor.scorer, DAYS)
    assert all(np.float32(answer["probability"]) == expected[answer[KEY]][1] for answer in asyncio.run(replay()))


def test_swipes_from_many_threads_in_any_order_leave_the_history_that_batch_has(predictor):
    """Asked again as of their times, they have the features of the batch; until then each saw what was there."""
    requests, expected = requests_of(last_day(DAYS)), of_batch(predictor.scorer, DAYS)
    np.random.default_rng(5).shuffle(requests)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(predictor.predict, requests))
    for request in requests:
        assert features_of(predictor, request)[0] == expected[request[KEY]][0]


# --- what is answered -----------------------------------------------------------------------------------------------


def test_the_answer_names_the_event_and_what_of_the_past_it_is_from(predictor):
    row = last_day(DAYS).filter(np.array(last_day(DAYS)[CARD]) == 1).to_pylist()[0]
    answer = predictor.predict(request_of(row))
    assert (answer[CARD], answer[KEY]) == (1, row[KEY])
    assert answer[TIME] == row[TIME].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert answer["history_events"] > 10
    assert (answer["history_complete"], answer["known_entity"]) == (True, True)
    assert answer["features_as_of"] == f"{np.datetime64(UNTIL // 1000, 'ms')}Z"
    assert answer["decision"] is (answer["probability"] >= answer["threshold"] == 0.5)
    assert (answer["model"], answer["model_version"], answer["model_sha256"]) == (
        "swipes",
        "7",
        predictor.scorer.sha256,
    )


def test_the_page_for_users_shows_an_answer_as_it_is(predictor):
    page = (ROOT / "docs" / "api.md").read_text()
    _, _, shown = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    names = {KEY: "transaction_id", TIME: "occurred_at"}
    answer = predictor.predict(swipe(1, 5, UNTIL))
    assert [names.get(name, name) for name in answer] + ["request_id"] == list(shown)


def test_an_unknown_entity_gets_the_declared_defaults_and_says_so(predictor):
    answer = predictor.predict(swipe(404, at=UNTIL))
    assert (answer["known_entity"], answer["history_events"], answer["history_complete"]) == (False, 0, True)
    answer = predictor.predict(swipe(404, at=UNTIL + 1))
    assert (answer["known_entity"], answer["history_events"]) == (True, 1)


def test_without_a_time_it_happens_now_and_without_a_key_it_is_a_new_event(predictor):
    before = time.time_ns() // 1000
    first, second = predictor.predict(swipe(5)), predictor.predict(swipe(5))
    at = np.datetime64(first[TIME].removesuffix("Z"), "us").astype(np.int64)
    assert before <= at <= time.time_ns() // 1000
    assert KEY not in first
    assert first["history_events"] + 1 == second["history_events"]


@pytest.mark.parametrize(
    "at",
    [
        "2026-09-25T00:00:00.000001Z",
        "2026-09-25T02:00:00.000001+02:00",
        "2026-09-25 00:00:00.000001",  # UTC, as in the lake
        1_790_294_400_000_001,
    ],
)
def test_times_are_read_as_what_they_say(predictor, at):
    assert predictor.predict(swipe(at=at))[TIME] == "2026-09-25T00:00:00.000001Z"


def test_features_that_may_be_missing_may_be_left_out(predictor):
    left_out, null = swipe(7, 1, UNTIL), swipe(7, 1, UNTIL, tip=None, channel=None)
    assert predictor.predict(left_out)["probability"] == predictor.predict(null)["probability"]


def test_only_asking_leaves_no_trace(predictor):
    before = recorded(predictor.histories, 1)
    first = predictor.predict(swipe(at=UNTIL, key=8) | {"record": False})
    assert predictor.predict(swipe(at=UNTIL, key=8) | {"record": False}) == first
    assert recorded(predictor.histories, 1) == before


@pytest.mark.parametrize("again", [{}, {"at": UNTIL + HOUR}], ids=["without a time", "at another time"])
def test_the_same_event_again_gets_the_same_answer_and_is_recorded_once(predictor, again):
    first = predictor.predict(swipe(1, 77, UNTIL + SECOND))
    predictor.predict(swipe(1, 78, UNTIL + 2 * SECOND))
    assert predictor.predict(swipe(1, 77, **again)) == first
    assert recorded(predictor.histories, 1)[-2:] == [77, 78]


def test_rows_of_the_same_entity_see_each_other_in_their_order(predictor):
    answers = predictor.predict_many([swipe(404, i) for i in range(3)] + [swipe(405, 9)])
    assert [answer["history_events"] for answer in answers if isinstance(answer, dict)] == [0, 1, 2, 0]
    later = np.datetime64(answers[2][TIME].removesuffix("Z")) - np.datetime64(answers[0][TIME].removesuffix("Z"))
    assert later >= np.timedelta64(2, "us")


def test_what_the_history_no_longer_reaches_is_said(predictor):
    answer = predictor.predict(swipe(1, at=SPAN.since + DAY) | {"record": False})
    assert answer["history_complete"] is False


def test_histories_of_long_ago_are_stale_which_is_said_or_refused(online):
    assert made(online).predict(swipe())["features_stale"] is True
    lenient = made(online, api=Api(max_feature_age_hours=10**6))
    assert lenient.predict(swipe())["features_stale"] is False
    strict = made(online, api=Api(stale_features="refuse"))
    with pytest.raises(OnlineStoreError, match="features of card_id 1 are as of 2026-09-24"):
        strict.predict(swipe())


def test_what_was_scored_is_noted_for_the_log(predictor):
    watch = Watch()
    predictor.predict_many([swipe(1, 5, UNTIL), {CARD: 1}, swipe(2, None, UNTIL + 1)], watch)
    scored = watch.scored
    assert scored is not None
    assert (scored.positions, scored.keys, scored.events) == ([0, 2], [1, 2], [5, None])
    assert scored.happened == [UNTIL, UNTIL + 1]
    assert [stage for stage, _ in watch.marks] == ["parse", "lookup", "score"]


# --- what is refused ------------------------------------------------------------------------------------------------

REFUSED = {
    "no object": ([], "request", "is not a JSON object"),
    "no entity": ({"features": FEATURES}, CARD, "is missing"),
    "a wrong entity": (swipe("one"), CARD, "is not a 64-bit integer"),
    "a wrong event": (swipe(key="x"), KEY, "is not a 64-bit integer"),
    "a true event": (swipe(key=True), KEY, "is not a 64-bit integer"),
    "an unknown field": (swipe() | {"swiped": 1}, "swiped", "is not known here"),
    "a history": (swipe(swipes_1h=3), "swipes_1h", "is not a feature"),
    "no features": ({CARD: 1}, "amount", "is missing"),
    "features that are none": ({CARD: 1, "features": [1]}, "features", "is not a JSON object"),
    "a value out of bounds": (swipe(amount=-1), "amount", "is out of bounds"),
    "a wrong value": (swipe(amount="1"), "amount", "is not a number"),
    "a wrong record": (swipe() | {"record": 1}, "record", "is not true or false"),
    "no time": (swipe(at="yesterday"), TIME, "is not a time"),
    "a date": (swipe(at="2026-10-01"), TIME, "is not a time"),
    "nanoseconds": (swipe(at="2026-10-01T00:00:00.1234567Z"), TIME, "is not a time of at most microseconds"),
    "a fraction": (swipe(at=1.5), TIME, "is not a time"),
    "a true time": (swipe(at=True), TIME, "is not a time"),
    "seconds": (swipe(at=1_790_294_400), TIME, "is too long ago"),
    "the future": (swipe(at=time.time_ns() // 1000 + DAY), TIME, "is in the future"),
    "a year beyond": (swipe(at="9999-12-31T23:59:59-23:59"), TIME, "is in the future"),
}


@pytest.mark.parametrize(("request_", "field", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_named_with_a_remedy_and_leaves_no_trace(predictor, request_, field, said):
    before = recorded(predictor.histories, 1)
    with pytest.raises(ValueRejectedError) as refused:
        predictor.predict(request_)
    problem = refused.value.problems[0]
    assert (problem.field, problem.message[: len(said)]) == (field, said)
    assert problem.remedy
    assert recorded(predictor.histories, 1) == before


def test_every_problem_is_named_at_once(predictor):
    with pytest.raises(ValueRejectedError) as refused:
        predictor.predict({KEY: "x", TIME: "y", "record": 2})
    assert [problem.field for problem in refused.value.problems] == [CARD, KEY, TIME, "record"]


def test_a_bad_row_stands_in_its_place_and_the_others_are_recorded(predictor):
    good, bad, worse = swipe(404, 1), swipe(404, 2, amount=-1), swipe(404, 3, at="x")
    first, second, third, fourth = predictor.predict_many([good, bad, worse, swipe(404, 4)])
    assert (first["history_events"], fourth["history_events"]) == (0, 1)
    assert isinstance(second, ValueRejectedError)
    assert isinstance(third, ValueRejectedError)
    assert [second.problems[0].field, third.problems[0].field] == ["amount[1]", "swiped_at[2]"]
    assert recorded(predictor.histories, 404) == [1, 4]


def test_as_a_whole_a_bad_row_keeps_the_others_from_the_history(predictor):
    outcomes = predictor.predict_many([swipe(404, 1), swipe(404, 2, amount=-1)], whole=True)
    assert isinstance(outcomes[1], ValueRejectedError)
    assert recorded(predictor.histories, 404) == []


def test_a_large_call_that_waits_for_redis_holds_no_thread_and_is_no_queue(redis):
    predictor, seen = made(redis.emptied().uri()), list[str]()

    async def ask() -> list[Any]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        asked = predictor.predict_rows_async([swipe(NEW_CARD), swipe(NEW_CARD)], aside=True)
        return await until_it_waits(asked, lambda: seen.append("done"))

    async def meanwhile() -> list[Any]:
        redis.server.process.send_signal(SIGSTOP)
        try:
            task = asyncio.create_task(ask())
            async with asyncio.timeout(20):
                while not seen:
                    await asyncio.sleep(0.001)
                await asyncio.to_thread(int)  # the one thread is free
            assert not task.done()
        finally:
            redis.server.process.send_signal(SIGCONT)
        answers = await task
        await predictor.histories.aclose()
        return answers

    assert [answer["history_events"] for answer in asyncio.run(meanwhile())] == [0, 1]


# --- whether it can be asked ----------------------------------------------------------------------------------------


def test_before_a_load_nothing_can_be_asked(online):
    predictor = predictor_of(Scorer(ONNX), online, lineage_of(ONNX))
    for question in (predictor.rehearse, lambda: predictor.predict(swipe())):
        with pytest.raises(StoreUnavailableError, match="Materialize swipes/online_features"):
            question()


def test_a_rehearsal_leaves_no_trace(predictor):
    before = recorded(predictor.histories, 0)
    predictor.rehearse()
    assert recorded(predictor.histories, 0) == before
    assert predictor.online_facts()["source_snapshot"] == "7"


def test_histories_of_another_layout_are_an_error(online):
    made(online)
    other = tiny_onnx(event_contract(max_events=5))
    with pytest.raises(StoreMismatchError, match="but the model needs"):
        predictor_of(Scorer(other), online, lineage_of(other)).predict(swipe())


def test_a_model_of_entities_has_the_store_of_vectors(tmp_path):
    onnx = tiny_onnx(tiny_contract())
    predictor = predictor_of(Scorer(onnx), f"lmdb://{tmp_path}", lineage_of(onnx))
    assert type(predictor) is Predictor
    assert predictor.store.model == "tiny"


def test_texts_are_keys_of_entities_and_events(online):
    contract = event_contract(entity_key_type="string", key_type="string")
    onnx = tiny_onnx(contract)
    store = open_histories(online, contract)
    store.load([], SPAN, {})
    predictor = predictor_of(Scorer(onnx), online, lineage_of(onnx))
    for events, key in enumerate(("t-1", "t-2", "t-2")):
        answer = predictor.predict({CARD: "card a", KEY: key, "features": FEATURES})
        assert (answer[CARD], answer[KEY]) == ("card a", key)
        assert answer["history_events"] == min(events, 1)
    for key in ("", "x" * 512, "\ud800", 7):
        with pytest.raises(ValueRejectedError, match="is not such a text as keys are"):
            predictor.predict({CARD: "card a", KEY: key, "features": FEATURES})
