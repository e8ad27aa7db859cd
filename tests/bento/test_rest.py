"""The model's routes without a server: what a running one cannot be brought to do, and what the pages say of it."""

import asyncio
import json
import logging
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread, current_thread, main_thread

import httpx
import numpy as np
import pytest

from backends.online_store import OnlineStore, open_store
from backends.settings import ROOT
from bento.client import ApiClient
from bento.failures import body_of
from bento.lineage import Lineage
from bento.predictor import Predictor
from bento.rest import Rest
from models.contract import Api
from models.encoding import encode_rows
from models.errors import ServiceUnreachableError
from models.scoring import Scorer
from tests.tiny_model import tiny_contract, tiny_onnx, tiny_rows


class BrokenStore(OnlineStore):
    """A store with a fault that nobody foresaw."""

    def get_many(self, contract, keys):
        raise RuntimeError("/secret/path is broken")

    def load(self, contract, batches, properties):
        raise RuntimeError

    def describe(self):
        raise RuntimeError("/secret/path is broken")


async def nobody(scope, receive, send):
    raise AssertionError(f"{scope['path']} is not BentoML's")


def rest_of(store: OnlineStore) -> Rest:
    scorer = Scorer(tiny_onnx(tiny_contract()))
    return Rest(Predictor(scorer, store, Lineage(model="tiny", version="7", sha256=scorer.sha256)), nobody, "tiny:7")


@pytest.fixture
def rest(tmp_path) -> Rest:
    contract = tiny_contract()
    store = open_store(f"lmdb://{tmp_path}", "tiny")
    rows = encode_rows(contract, tiny_rows(contract, 3))
    store.load(contract, [(np.arange(3), rows, np.full(3, np.datetime64("now", "ms")))], {})
    return rest_of(store)


def ask(rest: Rest, method: str, path: str, **content) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(rest), base_url="http://test") as client:
            return await client.request(method, path, **content)

    return asyncio.run(asked())


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/predict", {"customer_id": 1}),
        ("POST", "/predict_many", {"rows": [{"customer_id": 1}]}),
        ("POST", "/predict_many", {"rows": [{"customer_id": 1}] * 2000}),
        ("GET", "/readyz", None),
        ("GET", "/lineage", None),
    ],
)
def test_a_fault_is_in_the_log_and_not_in_the_answer(caplog, method, path, body):
    scorer = Scorer(tiny_onnx(tiny_contract(api=Api(batch_limit=5000))))
    lineage = Lineage(model="tiny", version="7", sha256=scorer.sha256)
    with caplog.at_level(logging.ERROR):
        response = ask(Rest(Predictor(scorer, BrokenStore("tiny"), lineage), nobody), method, path, json=body)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "ServiceError"
    assert "secret" not in response.text
    assert "/secret/path is broken" in caplog.text


def test_a_body_may_come_in_pieces_and_a_caller_may_leave(rest):
    async def pieces():
        yield b'{"customer_id"'
        yield b": 1}"

    assert ask(rest, "POST", "/predict", content=pieces()).json()["customer_id"] == 1

    sent: list[object] = []

    async def left() -> None:
        messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

        async def receive():
            return next(messages)

        async def send(message):
            sent.append(message)

        await rest({"type": "http", "method": "POST", "path": "/predict", "headers": []}, receive, send)

    asyncio.run(left())
    assert sent == []


@pytest.mark.parametrize("rows", [3, 1000])
def test_few_rows_and_many_have_the_same_answers(rest, rows):
    """Many are answered in a thread of their own."""
    answer = ask(rest, "POST", "/predict_many", json={"rows": [{"customer_id": i % 3} for i in range(rows)]}).json()
    alone = [ask(rest, "POST", "/predict", json={"customer_id": i}).json()["probability"] for i in range(3)]
    assert [one["probability"] for one in answer["predictions"]] == [alone[i % 3] for i in range(rows)]


def test_the_errors_of_a_large_call_are_written_in_a_thread(rest, monkeypatch):
    wrote = set()

    def written(error: BaseException) -> dict[str, object]:
        wrote.add(current_thread() is main_thread())
        return body_of(error)

    monkeypatch.setattr("bento.rest.body_of", written)
    few, many = ([{"customer_id": "nobody"}] * rows for rows in (3, 1000))
    assert ask(rest, "POST", "/predict_many", json={"rows": few}).json()["errors"] == 3
    assert wrote == {True}
    wrote.clear()
    assert ask(rest, "POST", "/predict_many", json={"rows": many}).json()["errors"] == 1000
    assert wrote == {False}


def test_of_very_many_unknown_names_all_are_counted(rest):
    body = {"rows": []} | {f"a{i}": i for i in range(150)}
    error = ask(rest, "POST", "/predict_many", json=body).json()["error"]
    assert len(error["fields"]) == 100
    assert error["message"].endswith("(150 problems, the first 100.)")


def test_pages_may_be_asked_for_their_heads_alone(rest):
    for path in ("/lineage", "/readyz"):
        assert ask(rest, "HEAD", path).status_code == 200


def test_the_client_sends_the_key_of_its_settings(monkeypatch):
    seen = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers.get("Authorization"))
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b'{"error": {"type": "KeyRefused", "message": "no key of this service"}}')

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        Thread(target=server.serve_forever).start()
        for key in ("", "s3cret"):
            monkeypatch.setenv("TANDEM_API_KEY", key)
            with (
                ApiClient(f"http://127.0.0.1:{server.server_port}") as client,
                pytest.raises(ServiceUnreachableError, match="no key"),
            ):
                client.lineage()
            assert "s3cret" not in repr(vars(client))
        server.shutdown()
    assert seen == [None, "Bearer s3cret"]


def test_the_page_for_users_shows_answers_as_they_are(rest):
    page = (ROOT / "docs" / "api.md").read_text()
    one, many, *_of_events = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    answer = ask(rest, "POST", "/predict", json={"customer_id": 1}).json()
    answers = ask(rest, "POST", "/predict_many", json={"rows": [{"customer_id": 1}, {"customer_id": 7}]}).json()
    assert list(answer) == list(one)
    assert list(answers) == list(many)
    assert [list(row) for row in answers["predictions"]] == [list(row) for row in many["predictions"]]
    shown, real = (each["predictions"][1]["error"] for each in (many, answers))
    assert (list(shown), shown["fields"][0]["field"]) == (list(real), real["fields"][0]["field"])
    assert real["message"].startswith(shown["message"].removesuffix(" ..."))
