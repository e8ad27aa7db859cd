"""`tandem explain --url`: a running service's reasons are those of the file, and its refusals are told as they are."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import uvicorn
from pydantic_core import to_json
from typer.testing import CliRunner

from backends.explanations import Explanation
from backends.online_store import open_store
from backends.settings import Settings
from bento.client import ApiClient
from bento.failures import body_of
from bento.guard.refusals import OVERLOADED
from bento.lineage import Lineage
from bento.open_inference.inference import OpenInference
from bento.open_inference.rest import OpenInferenceRest
from bento.predictor import Predictor
from bento.rest import Rest
from models.contract import Contract
from models.encoding import encode_rows
from models.errors import (
    ContractError,
    EntityNotFoundError,
    ModelNotServedError,
    OverloadedError,
    ServiceUnreachableError,
    TandemError,
    ValueRejectedError,
)
from models.scoring import Scorer
from orchestration.cli import app
from orchestration.explaining import explained
from tests.lives import TINY, declare, promoted
from tests.serving import free_port
from tests.tiny_model import tiny_contract, tiny_onnx, tiny_onnx_with_reference, tiny_rows


@pytest.fixture
def declared(tmp_path) -> Settings:
    settings = Settings(home=tmp_path / "home", models=tmp_path / "models")
    declare(settings, TINY)
    return settings


@contextmanager
def service_of(contract: Contract, onnx: bytes, keys: list[Any], folder) -> Iterator[str]:
    """Serve a model in a thread of this process; give its address."""
    rows = encode_rows(contract, tiny_rows(contract, len(keys)))
    store = open_store(f"lmdb://{folder}", contract.model)
    store.load(contract, [(np.array(keys), rows, np.full(len(keys), np.datetime64("now", "ms")))], {})
    predictor = Predictor(Scorer(onnx), store, Lineage(model=contract.model, version="7", sha256=Scorer(onnx).sha256))
    pages = OpenInferenceRest(OpenInference(predictor), None)  # type: ignore[arg-type]  # nobody asks BentoML here
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(Rest(predictor, pages), port=port, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def same(one: Explanation, other: Explanation) -> bool:
    """Whether two explanations are the same, bit for bit, but for what they are of."""
    return (one.probability, one.base_probability, one.threshold, one.decision, one.reasons) == (
        other.probability,
        other.base_probability,
        other.threshold,
        other.decision,
        other.reasons,
    )


def test_a_service_and_the_champion_give_the_same_reasons_bit_for_bit(home, served, monkeypatch):
    declare(home, TINY)
    promoted(home, served.contract, onnx=served.onnx)
    features = json.dumps(served.rows[5])
    offline = explained(home, "tiny", None, None, features, None)
    assert len(offline.reasons) == len(served.contract.features)
    by_key = explained(home, "tiny", "5", None, None, served.url)
    assert same(by_key, offline)
    assert same(explained(home, "tiny", None, None, features, served.url), offline)
    assert by_key.what == f"tiny version 3 at {served.url}: customer_id 5"

    monkeypatch.setenv("TANDEM_MODELS", str(home.models))
    told = CliRunner().invoke(app, ["explain", "tiny", "5", "--url", served.url, "--most", "2"])
    assert told.exit_code == 0, told.output
    assert all(name in told.output for name, _, _ in offline.reasons[:2])
    assert "3 others" in told.output


def test_all_reasons_are_told_though_the_declaration_has_lost_a_feature(declared, served):
    features = {name: raw for name, raw in TINY["features"].items() if name != "balance"}
    declare(declared, {**TINY, "features": features})
    found = explained(declared, "tiny", "5", None, None, served.url)
    assert len(found.reasons) == len(served.contract.features)


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"key": "100000"}, EntityNotFoundError, "No online features for customer_id 100000"),
        ({"key": "1_7"}, ContractError, "customer_id '1_7' is no key: give a whole number"),
        ({"features": '{"tenure_months": -1}'}, ContractError, "out of bounds"),
        ({"features": '{"tenure_months": NaN}'}, ValueRejectedError, "is not JSON"),
        ({"features": '{"balance": 1e999}'}, ValueRejectedError, "is not JSON"),  # infinity, to Python
        ({"features": '{"balance": [-1e999]}'}, ValueRejectedError, "is not JSON"),
        ({"features": '{"plan": "\udcff"}'}, ValueRejectedError, "is not JSON"),  # what Python makes of other bytes
        ({"key": "5", "model": "other"}, ModelNotServedError, "is the service of tiny, not of other"),
    ],
)
def test_what_a_service_cannot_explain_says_why(declared, served, asked, error, said):
    declare(declared, TINY, name="other", predictions={"table": "gold.other"})
    asked = {"model": "tiny", "key": None, "day": None, "features": None} | asked
    with pytest.raises(error, match=said):
        explained(declared, url=served.url, **asked)


def test_a_refusal_is_told_as_it_is_and_not_that_of_another_try(declared, tmp_path):
    contract = tiny_contract()
    with (
        service_of(contract, tiny_onnx(contract), [1, 2], tmp_path) as url,
        pytest.raises(ContractError, match=r"reasons: cannot be given.*Train again"),
    ):
        explained(declared, "tiny", "1", None, None, url)


def test_a_text_of_digits_is_a_text_where_keys_are_texts(declared, tmp_path):
    contract = tiny_contract(entity_key_type="string")
    with service_of(contract, tiny_onnx_with_reference(contract), ["017", "17"], tmp_path) as url:
        found = [explained(declared, "tiny", key, None, None, url).probability for key in ("017", "17")]
    scores = Scorer(tiny_onnx_with_reference(contract)).score(encode_rows(contract, tiny_rows(contract, 2)))
    assert found == scores.tolist()


def test_a_service_that_is_none_of_ours_has_no_datatypes(served):
    with ApiClient(served.url) as client:
        assert client.datatypes("tiny")["customer_id"] == "INT64"
        with pytest.raises(TandemError, match="/v2/models/nobody was answered with status 404"):
            client.datatypes("nobody")
        with pytest.raises(ServiceUnreachableError, match="not by a Tandem service: it names no inputs"):
            client.datatypes("tiny/ready")


@pytest.mark.parametrize("body", [OVERLOADED.body, to_json(body_of(OverloadedError("100 rows wait")))])
def test_a_service_that_has_too_much_to_do_is_told_as_one(body):
    class Busy(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with (
            ApiClient(f"http://127.0.0.1:{server.server_port}") as client,
            pytest.raises(OverloadedError, match=r"too long|100 rows wait"),
        ):
            client.datatypes("tiny")
        server.shutdown()
