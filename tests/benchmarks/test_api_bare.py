"""The floor of the API's benchmark answers what the service would."""

import asyncio

import httpx
import numpy as np

from backends.histories import open_histories
from backends.online_store import open_store
from backends.settings import Settings
from benchmarks.api_bare import bare_app
from bento.lineage import MODEL_FILE
from models.encoding import encode_rows
from models.scoring import Scorer
from tests.event_model import event_contract
from tests.event_replay import KEY, last_day, of_batch, requests_of, seed_store, some_days
from tests.tiny_model import tiny_contract, tiny_onnx, tiny_rows


def test_the_floor_of_a_model_of_events_counts_as_the_batch_does_and_remembers(tmp_path):
    contract, days = event_contract(), some_days()
    settings, onnx = Settings(home=tmp_path, model_folder=tmp_path), tiny_onnx(event_contract())
    (tmp_path / MODEL_FILE).write_bytes(onnx)
    seed_store(open_histories(settings.online, contract), contract, days)
    expected, asked = of_batch(Scorer(onnx), days), requests_of(last_day(days))

    async def ask() -> list[float]:
        transport = httpx.ASGITransport(bare_app(settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://bare") as client:
            assert (await client.get("/readyz")).status_code == 200
            return [(await client.post("/predict", json=one)).json()["probability"] for one in asked]

    right = [expected[one[KEY]][1] for one in asked]
    np.testing.assert_array_equal(np.float32(asyncio.run(ask())), np.float32(right))


def test_the_floor_looks_up_and_scores_to_the_last_bit(tmp_path):
    contract, onnx = tiny_contract(), tiny_onnx(tiny_contract())
    settings = Settings(home=tmp_path, model_folder=tmp_path)
    (tmp_path / MODEL_FILE).write_bytes(onnx)
    rows = encode_rows(contract, tiny_rows(contract, 20))
    open_store(settings.online, "tiny").load(contract, [(np.arange(20), rows, np.arange(20))], {})

    async def ask() -> list[float]:
        transport = httpx.ASGITransport(bare_app(settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://bare") as client:
            assert (await client.get("/readyz")).status_code == 200
            answers = [await client.post("/predict", json={"customer_id": i}) for i in range(20)]
        return [answer.json()["probability"] for answer in answers]

    np.testing.assert_array_equal(np.float32(asyncio.run(ask())), Scorer(onnx).score(rows))
