"""Real services of a model of events, two on one folder and one on Redis: what a day of swipes is answered with."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from assets.resources import Backends
from backends.histories import HistoryStore, Span, open_histories
from backends.request_logs import carry_requests
from backends.settings import Settings
from bento.building.build import BuiltBento, build_bento
from bento.open_inference.client import GrpcInferenceClient, OpenInferenceClient, RestInferenceClient
from models.contract import Api
from models.errors import ContractError
from models.scoring import Scorer
from tests.bento.test_openapi import CHECKS
from tests.event_model import SECOND, event_contract
from tests.event_replay import (
    CARD,
    KEY,
    TIME,
    UNTIL,
    last_day,
    lineage_of,
    of_batch,
    requests_of,
    seed_store,
    some_days,
)
from tests.lives import changed
from tests.redis_server import redis_server
from tests.serving import free_port, running
from tests.tiny_model import tiny_onnx

CONTRACT = event_contract(api=Api(log_sample=1.0))
ONNX = tiny_onnx(CONTRACT)
SCORER = Scorer(ONNX)
DAYS = some_days()
DAY = last_day(DAYS)
ALL = Span(0, 2**52, 2)  # as if the lake had everything, of nobody
NOW = {"amount": 10.0, "country": "de"}


@dataclass(frozen=True)
class Lane:
    """Services of one store: their URLs, an address of gRPC, and the store itself."""

    urls: list[str]
    grpc: str
    store: HistoryStore
    settings: Settings

    def reset(self) -> "Lane":
        """Forget what was recorded: a later load takes the place of all that has happened."""
        self.store.load([], ALL, {})
        seed_store(self.store, CONTRACT, DAYS)
        return self

    def recorded(self, card: int) -> list[int]:
        event = np.zeros(1, self.store.history.dtype)
        return self.store.fetch_and_append([card], event, [False])[0].events["key"].tolist()


@pytest.fixture(scope="module")
def bento(tmp_path_factory) -> BuiltBento:
    return build_bento(ONNX, lineage_of(ONNX), tmp_path_factory.mktemp("bento"), {})


@pytest.fixture(scope="module")
def on_lmdb(bento, tmp_path_factory) -> Iterator[Lane]:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    store, grpc = open_histories(settings.online, CONTRACT), free_port()
    seed_store(store, CONTRACT, DAYS)
    with (
        running(bento, changed(settings, grpc_port=grpc), free_port()) as one,
        running(bento, settings, free_port()) as other,
    ):
        yield Lane([one, other], f"127.0.0.1:{grpc}", store, settings)


@pytest.fixture(scope="module")
def on_redis(bento, tmp_path_factory) -> Iterator[Lane]:
    with redis_server() as redis:
        settings = Settings(home=tmp_path_factory.mktemp("home"), online_store=redis.uri())
        store, grpc = open_histories(redis.uri(), CONTRACT), free_port()
        seed_store(store, CONTRACT, DAYS)
        with running(bento, changed(settings, grpc_port=grpc), free_port()) as url:
            yield Lane([url], f"127.0.0.1:{grpc}", store, settings)


@pytest.fixture(params=["lmdb", "redis"])
def lane(request) -> Lane:
    return request.getfixturevalue(f"on_{request.param}").reset()


@pytest.fixture
def clients(lane) -> Iterator[list[httpx.Client]]:
    """One client for each service."""
    with ExitStack() as opened:
        yield [opened.enter_context(httpx.Client(base_url=url, timeout=60)) for url in lane.urls]


def post(client: httpx.Client, request: dict[str, Any]) -> dict[str, Any]:
    response = client.post("/predict", json=request)
    assert response.status_code == 200, response.text
    return response.json()


def agrees(answer: dict[str, Any], expected: dict[Any, tuple[bytes, np.float32]]) -> bool:
    return np.float32(answer["probability"]).tobytes() == expected[answer[KEY]][1].tobytes()


def test_a_day_over_the_api_has_the_scores_of_the_batch_bit_for_bit(clients):
    """In the order of time, each swipe to another of the services, which share their histories."""
    expected = of_batch(SCORER, DAYS)
    for i, request in enumerate(requests_of(DAY)):
        assert agrees(post(clients[i % len(clients)], request), expected)


def test_swipes_of_one_card_from_many_callers_to_two_services_are_each_recorded_once(lane, clients):

    def swipe(i: int) -> int:
        request = {CARD: 404, KEY: i, TIME: UNTIL + i * SECOND, "features": NOW}
        first, again = (post(clients[(i + j) % len(clients)], request) for j in range(2))
        assert first["history_events"] <= again["history_events"]
        return first["history_events"]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(swipe, range(200)))
    assert lane.recorded(404) == list(range(200))


def test_many_rows_and_both_transports_of_open_inference_are_the_same_bit_for_bit(lane, clients):
    expected, client = of_batch(SCORER, DAYS), clients[0]
    rest, grpc = RestInferenceClient("swipes", lane.urls[0]), GrpcInferenceClient("swipes", lane.grpc)
    for start in range(0, len(DAY), 45):
        some = DAY.slice(start, 15)
        answer = client.post("/predict_many", json={"rows": requests_of(some)}).json()
        assert all(agrees(one, expected) for one in answer["predictions"])
        for ours, offset in ((rest, 15), (grpc, 30)):
            more = DAY.slice(start + offset, 15)
            scores = infer(ours, more.to_pylist())["swipes_probability"]
            assert [np.float32(score) for score in scores] == [expected[key][1] for key in more[KEY].to_pylist()]
    for ours in (rest, grpc):
        ours.close()


def infer(ours: OpenInferenceClient, rows: list[dict[str, Any]], **more: list[Any]) -> dict[str, list[Any]]:
    if not rows:
        return {"swipes_probability": []}
    columns = {name: [row[name] for row in rows] for name in (CARD, KEY, "amount", "tip", "country", "channel")}
    return ours.infer(columns | {TIME: [row[TIME].isoformat() for row in rows]} | more).outputs


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_open_inference_takes_an_event_by_named_tensors_and_refuses_all_or_nothing(lane, way):
    with (
        RestInferenceClient("swipes", lane.urls[0])
        if way == "rest"
        else GrpcInferenceClient("swipes", lane.grpc) as ours
    ):
        row = {
            CARD: 404,
            KEY: 1,
            TIME: DAY[TIME][0].as_py(),
            "amount": 1.0,
            "tip": None,
            "country": "de",
            "channel": None,
        }
        only_asked = infer(ours, [row], record=[False])
        assert (only_asked["history_events"], only_asked["known_entity"]) == ([0], [False])
        assert lane.recorded(404) == []
        with pytest.raises(ContractError, match=r"amount\[1\]: is out of bounds"):
            infer(ours, [row, {**row, KEY: 2, "amount": -5.0}])
        assert lane.recorded(404) == []
        assert infer(ours, [row])["history_complete"] == [True]
        assert lane.recorded(404) == [1]
        with pytest.raises(ContractError, match="swipes_1h"):
            infer(ours, [row], swipes_1h=[3.0])


def test_the_service_says_what_it_asks_for_and_what_it_knows(clients):
    client = clients[0]
    described = client.get("/v2/models/swipes").json()
    asked = ["card_id", "swipe_id", "swiped_at", "record", "amount", "tip", "country", "channel"]
    assert [one["name"] for one in described["inputs"]] == asked
    assert [one["name"] for one in described["outputs"]][-3:] == ["history_events", "history_complete", "known_entity"]
    online = client.get("/lineage").json()["online_features"]
    assert (online["source_snapshot"], online["history_until"]) == ("7", "2026-09-24T00:00:00.000000Z")
    assert client.get("/readyz").json()["ready"] is True
    schema = client.get("/docs.json").json()["components"]["schemas"]["PredictRequest"]
    assert list(schema["properties"]) == [CARD, KEY, TIME, "features", "record", "reasons"]
    assert schema["required"] == [CARD, "features"]


def test_what_is_refused_is_a_422_and_leaves_no_trace(lane, clients):
    refused = clients[0].post("/predict", json={CARD: 404, "features": {"amount": -1, "country": "de"}})
    assert refused.status_code == 422
    assert refused.json()["error"]["fields"][0]["field"] == "amount"
    assert lane.recorded(404) == []


def test_a_store_that_is_lost_is_a_503_that_names_no_place(bento, tmp_path):
    with running(bento, Settings(home=tmp_path), free_port()) as url, httpx.Client(base_url=url) as client:
        lost = client.post("/predict", json={CARD: 404, "features": NOW})
        assert (lost.status_code, lost.json()["error"]["type"]) == (503, "StoreUnavailableError")
        assert str(tmp_path) not in lost.text
        assert client.get("/readyz").status_code == 503


def test_the_request_log_has_the_event_and_its_time(lane, home, bento):
    settings = changed(home, online_store=lane.settings.online)
    with running(bento, settings, free_port()) as url, httpx.Client(base_url=url) as client:
        for key in (5, None):
            post(client, {CARD: 404, KEY: key, TIME: UNTIL, "features": NOW})
    with Backends(settings).lakehouse() as lake:
        carry_requests(lake, "silver.swipes_requests", settings.request_log_of("swipes"))
        rows = lake.read("silver.swipes_requests").to_pylist()
    assert sorted(str(row[KEY]) for row in rows) == ["5", "None"]
    assert {row[TIME].isoformat() for row in rows} == {"2026-09-24T00:00:00+00:00"}
    assert {(row[CARD], row["swipes_1h"], row["since_last"]) for row in rows} == {(404, 0.0, None)}


def test_every_answer_is_as_the_openapi_page_says(on_lmdb, tmp_path):
    (tmp_path / "schemathesis.toml").write_text(CHECKS)
    program = Path(sys.executable).with_name("schemathesis")
    how = ["--max-examples", "15", "--phases", "examples,coverage,fuzzing", "--generation-deterministic"]
    command = [program, "--config-file", "schemathesis.toml", "run", f"{on_lmdb.urls[0]}/docs.json", *how]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
