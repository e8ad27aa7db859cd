"""A real service whose features are in a real Redis: the same scores, and what becomes of requests when it is lost."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest

from backends.online_store import open_store
from models.encoding import encode_rows
from models.scoring import Scorer
from tests.lives import changed
from tests.redis_server import RedisServer, redis_server
from tests.serving import free_port, running
from tests.tiny_model import tiny_contract, tiny_rows

CONTRACT = tiny_contract()
ROWS = tiny_rows(CONTRACT, 300, seed=5)
NOW = np.datetime64(time.time_ns() // 1_000_000, "ms")
LIMIT = 60.0  # seconds that a recovery may take on a busy machine


@dataclass(frozen=True)
class Lane:
    """A service and the Redis that it reads."""

    client: httpx.Client
    redis: RedisServer


@pytest.fixture(scope="module")
def lane(bento, settings) -> Iterator[Lane]:
    with redis_server() as redis:
        batch = np.arange(len(ROWS)), encode_rows(CONTRACT, ROWS), np.full(len(ROWS), NOW)
        open_store(redis.uri(), "tiny").load(CONTRACT, [batch], {"source_snapshot": "4211"})
        with (
            running(bento, changed(settings, online_store=redis.uri()), free_port()) as url,
            httpx.Client(base_url=url, timeout=60) as client,
        ):
            yield Lane(client, redis)


def ask(lane: Lane, key: int) -> httpx.Response:
    return lane.client.post("/predict", json={"customer_id": key})


def test_scores_are_the_scorers_own_one_by_one_and_together(lane, onnx):
    expected = Scorer(onnx).score(encode_rows(CONTRACT, ROWS)).tolist()
    assert [ask(lane, key).json()["probability"] for key in range(len(ROWS))] == expected
    rows = [{"customer_id": key} for key in range(len(ROWS))]
    many = lane.client.post("/predict_many", json={"rows": rows}).json()
    assert [row["probability"] for row in many["predictions"]] == expected
    tensor = {"name": "customer_id", "shape": [20], "datatype": "INT64", "data": list(range(20))}
    inferred = lane.client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}).json()
    assert inferred["outputs"][0]["data"] == expected[:20]


def test_the_lineage_says_what_is_loaded(lane):
    lineage = lane.client.get("/lineage").json()
    assert lineage["online_features"]["source_snapshot"] == "4211"
    assert (lineage["online_store"], lineage["grpc_port"]) == ("redis", 0)


def test_a_lost_redis_is_a_503_that_says_when_to_come_back_and_passes(lane):
    with lane.redis.client() as client:
        client.save()
    before = ask(lane, 7).json()["probability"]
    lane.redis.server.kill()
    try:
        for _ in range(3):
            lost = ask(lane, 7)
            assert lost.status_code == 503
            assert int(lost.headers["retry-after"]) > 0
            assert lost.json()["error"]["type"] == "StoreUnavailableError"
            assert str(lane.redis.port) not in lost.text
        assert lane.client.get("/readyz").status_code == 503
        complete = {"tenure_months": 12, "age_years": 40, "balance": 5.5, "plan": "plus", "channel": "web"}
        assert lane.client.post("/predict", json={"features": complete}).status_code == 200  # needs no store
    finally:
        lane.redis.server.start()
    deadline = time.monotonic() + LIMIT
    while (answer := ask(lane, 7)).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert answer.json()["probability"] == before
    assert lane.client.get("/readyz").status_code == 200
