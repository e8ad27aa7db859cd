"""What the API's benchmark asks of a model of events: swipes that are new each time, and what is right for each."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from benchmarks import api_requests
from benchmarks.api_bodies import in_grpc, in_rest, swipe_in_json, tensors_of_swipe
from benchmarks.api_home import LMDB
from benchmarks.api_load import _bodies
from benchmarks.api_requests import FIRST_KEY, HOT_CARD, NEW_CARD, AskedOnce, Swipes
from benchmarks.api_swipes import SwipeHome
from benchmarks.api_systems import SYSTEMS, requests_of
from bento.event_predictor import EventPredictor
from bento.lineage import Lineage
from bento.open_inference.bodies import read_request
from bento.open_inference.contents import tensors_in
from bento.open_inference.messages import ModelInferRequest
from bento.open_inference.tensors import requests_of as requests_in
from models.errors import TandemError
from tests.event_model import event_contract

CONTRACT = event_contract()
POOL = [
    {"card_id": 1 + i % 7, "amount": 10.5 + i, "tip": None if i % 3 else 0.25, "country": "fr", "channel": "web"}
    for i in range(40)
]
BEGIN, STEP = 1_782_000_000_000_000, 4_000_000
SWIPES = Swipes(CONTRACT, POOL, BEGIN, STEP)


def test_every_swipe_is_new_and_later_and_some_are_of_new_and_some_of_hot_cards():
    asked = [SWIPES[number] for number in range(1000)]
    assert [swipe.key for swipe in asked] == list(range(FIRST_KEY, FIRST_KEY + 1000))
    assert all(later.at - earlier.at == STEP for earlier, later in pairwise(asked))
    cards = [swipe.entity for swipe in asked]
    assert sum(card >= NEW_CARD for card in cards) == 10 == len({card for card in cards if card >= NEW_CARD})
    hot = [card for card in cards if HOT_CARD <= card < NEW_CARD]
    assert (len(hot), len(set(hot))) == (20, 4)
    assert {card for card in cards if card < HOT_CARD} == set(range(1, 8))
    assert set(asked[0].features) == set(CONTRACT.asked.features)


def test_all_protocols_say_the_same_of_a_swipe():
    for number in range(50):
        plain = json.loads(swipe_in_json(CONTRACT, SWIPES[number]))
        tensors = tensors_of_swipe(CONTRACT, SWIPES[number])
        over_rest = read_request(in_rest(tensors), None).tensors
        over_grpc = tensors_in(ModelInferRequest.FromString(in_grpc("swipes", tensors)))
        said = plain | {"features": {name: value for name, value in plain["features"].items() if value is not None}}
        assert requests_in(CONTRACT, over_rest) == requests_in(CONTRACT, over_grpc) == [said]


# --- a home, without a training -------------------------------------------------------------------------------------


@dataclass
class Lane:
    """Requests, and a service that answers them."""

    requests: AskedOnce
    answer: Callable[[bytes], float]
    home: SwipeHome
    swipes: Swipes


@pytest.fixture
def lane(swipe_home) -> Lane:
    requests = requests_of(swipe_home, "tandem-rest", LMDB)
    assert isinstance(requests, AskedOnce)
    lineage = Lineage(model="fraud", version="1", sha256=swipe_home.scorer.sha256)
    predictor = EventPredictor(swipe_home.scorer, swipe_home.histories(LMDB), lineage)
    return Lane(
        requests, lambda body: predictor.predict(json.loads(body))["probability"], swipe_home, swipe_home.swipes(LMDB)
    )


def bodies_of(lane: Lane, first: int, count: int) -> list[bytes]:
    path, place = lane.requests.bodies(first, count)
    assert place == 0
    return _bodies(path)


def test_what_is_answered_is_right_to_the_last_bit(lane, monkeypatch):
    monkeypatch.setattr(api_requests, "IN_FLIGHT", 0)  # one after the other
    answers = [lane.answer(body) for body in bodies_of(lane, 0, 400)]
    for place, answer in enumerate(answers):
        assert np.float32(lane.requests.right(place)).tolist() == [np.float32(answer)]
    assert len(set(answers)) > 50


def test_hot_cards_have_more_events_than_are_looked_at(lane):
    asked = lane.swipes[1025]
    assert asked.entity >= HOT_CARD
    (past,) = lane.home.histories(LMDB).fetch_and_append([asked.entity], lane.swipes.remembered(asked), [False])
    assert len(past.events) > lane.swipes.history.limits.max_events


def test_a_swipe_may_or_may_not_have_seen_others_of_its_card_that_were_in_flight(lane):
    home, histories = lane.home, lane.home.histories(LMDB)
    pool = [value | {"card_id": 77, "amount": 20.0 * (i + 1)} for i, value in enumerate(home.sample.values[:3])]
    swipes = Swipes(home.contract, pool, lane.swipes.begin, 10_000_000)
    write = partial(swipe_in_json, home.contract)
    requests = AskedOnce(swipes, histories, home.scorer, write, home.folder / "in_flight")
    first, second, third = _bodies(requests.bodies(3001, 3)[0])
    answers = {body: lane.answer(body) for body in (second, third, first)}
    right = np.float32(requests.right(2)).tolist()
    assert len(right) == len(set(right)) == 4
    assert right[1] == answers[third]  # it saw the second, not the first
    assert requests.right(0) == [answers[first]]


def test_an_answer_to_many_swipes_of_a_card_in_flight_cannot_be_known(lane, monkeypatch):
    monkeypatch.setattr(api_requests, "MOST_UNSURE", 1)
    bodies = bodies_of(lane, 9025, 401)
    for place in (0, 200, 400):  # of one hot card
        lane.answer(bodies[place])
    assert [len(lane.requests.right(place)) for place in (0, 200, 400)] == [1, 2, 0]


def test_an_answer_that_was_not_recorded_is_an_error(lane):
    bodies_of(lane, 5000, 3)
    with pytest.raises(TandemError, match=r"Event 8000005002 of \d+ was answered, but its history does not have it"):
        lane.requests.right(2)


def test_the_bodies_of_the_point_before_are_removed(swipe_home):
    requests = requests_of(swipe_home, "bare", LMDB)
    for first in (0, 7, 9):
        requests.bodies(first, 2)
    assert [file.name for file in swipe_home.folder.glob("bare-*")] == ["bare-lmdb.requests.9"]


def test_a_load_forgets_what_an_earlier_run_has_recorded(swipe_home):
    asked = swipe_home.swipes(LMDB)[7777]
    event = swipe_home.swipes(LMDB).remembered(asked)

    def recorded() -> bool:
        (past,) = swipe_home.histories(LMDB).fetch_and_append([asked.entity], event, [False])
        return asked.key in past.events["key"]

    swipe_home.histories(LMDB).fetch_and_append([asked.entity], event, [True])
    assert recorded()
    swipe_home.load([LMDB])
    assert not recorded()


def test_systems_that_look_nothing_up_get_ready_made_features(swipe_home):
    path, _ = requests_of(swipe_home, "mlflow", "none").bodies(0, 1)
    asked = json.loads(_bodies(path)[0])["dataframe_split"]
    assert asked["columns"] == list(swipe_home.contract.features)
    assert SYSTEMS["mlflow"].body_of_swipe is None
