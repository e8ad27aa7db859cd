"""The real service over HTTP: what an application sees."""

import json
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest

from bento.client import ApiClient
from models.encoding import encode_rows
from models.errors import ContractError, EntityNotFoundError, OnlineStoreError, ServiceUnreachableError
from models.scoring import Scorer
from tests.bento.conftest import STALE, STALE_KEY
from tests.serving import free_port


@pytest.fixture
def client(served):
    with ApiClient(served.url) as client:
        yield client


def test_two_hundred_scores_through_json_are_the_scorers_own_float32(served, client):
    scorer = Scorer(served.onnx)
    expected = scorer.score(encode_rows(served.contract, served.rows))
    by_key = [client.predict({"customer_id": i}) for i in range(200)]
    by_features = [client.predict({"features": row}) for row in served.rows]
    for answers in (by_key, by_features):
        np.testing.assert_array_equal(np.float32([answer["probability"] for answer in answers]), expected)
        assert [answer["decision"] for answer in answers] == scorer.decide(expected).tolist()
    assert len(set(expected.tolist())) == 200


def test_an_answer_says_which_model_scored_which_features(served, client):
    answer = client.predict({"customer_id": STALE_KEY})
    assert answer["customer_id"] == STALE_KEY
    assert answer["model_sha256"] == served.lineage.sha256
    assert answer["model_version"] == "3"
    assert (answer["features_as_of"], answer["features_stale"]) == (f"{STALE}Z", True)
    assert client.predict({"customer_id": 0})["features_stale"] is False


def test_lineage_names_every_run_and_snapshot(served, client):
    lineage = client.lineage()
    online = lineage.pop("online_features")
    assert lineage == served.lineage.model_dump()
    assert (online["source_snapshot"], online["rows"]) == ("4211", "200")


@pytest.mark.parametrize(
    ("body", "status", "kind", "field"),
    [
        (b'{"customer_id": 999}', 404, "EntityNotFoundError", None),
        (b'{"customer_id": 1.5}', 422, "ValueRejectedError", "customer_id"),
        (b'{"customer_id": 1, "features": {"balance": 1e400}}', 422, "ValueRejectedError", "balance"),
        (b'{"customer_id": 1, "features": {"age_years": 3}}', 422, "ValueRejectedError", "age_years"),
        (b'{"customer_id": 1, "features": {"balance": NaN}}', 422, "ValueRejectedError", "request"),
        (b'{"customer_id": 1', 422, "ValueRejectedError", "request"),
        (b"\xff\xfe", 422, "ValueRejectedError", "request"),
        (b"", 422, "ValueRejectedError", "request"),
        (b"[" * 10_000, 422, "ValueRejectedError", "request"),
    ],
)
def test_errors_have_one_form_and_name_the_field(served, body, status, kind, field):
    response = httpx.post(f"{served.url}/predict", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    error = json.loads(response.content, parse_constant=pytest.fail)["error"]
    assert error["type"] == kind
    assert [problem["field"] for problem in error["fields"]] == ([field] if field else [])
    assert "Traceback" not in response.text
    assert str(served.settings.home) not in response.text


def test_without_a_store_keys_answer_503_and_features_still_score(served, client):
    store = served.settings.home / "online"
    store.rename(store.with_name("gone"))
    try:
        deadline = time.monotonic() + 10
        while httpx.post(f"{served.url}/predict", json={"customer_id": 1}).status_code == 200:
            assert time.monotonic() < deadline
        with pytest.raises(OnlineStoreError, match="Materialize tiny/online_features"):
            client.predict({"customer_id": 1})
        assert client.predict({"features": served.rows[1]})["probability"] > 0
        assert client.lineage()["online_features"] is None
        assert httpx.get(f"{served.url}/readyz").status_code == 200
    finally:
        store.with_name("gone").rename(store)
    assert client.predict({"customer_id": 1})["customer_id"] == 1


def test_the_openapi_document_names_the_features_and_their_bounds(served):
    document = httpx.get(f"{served.url}/docs.json").json()
    assert document["info"]["title"] == "tiny"
    features = document["components"]["schemas"]["Features"]["properties"]
    assert list(features) == list(served.contract.features)
    assert (features["balance"]["minimum"], features["balance"]["maximum"]) == (-10_000, 10_000)
    answer = document["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert {"probability", "model_sha256", "features_as_of"} <= set(answer["properties"])


BENTOML_CLIENT = """
import json, sys, bentoml

with bentoml.SyncHTTPClient(sys.argv[1]) as client:
    print(json.dumps(client.predict({"customer_id": 1, "features": {"plan": "pro"}})))
"""


def test_bentomls_own_routes_and_client_work(served, client):
    for route in ("/livez", "/readyz", "/healthz", "/metrics", "/"):
        assert httpx.get(f"{served.url}{route}").status_code == 200, route
    assert 'le="0.001"' in httpx.get(f"{served.url}/metrics").text
    answer = subprocess.check_output([sys.executable, "-c", BENTOML_CLIENT, served.url], text=True)
    assert json.loads(answer) == client.predict({"customer_id": 1, "features": {"plan": "pro"}})


def test_the_client_raises_the_domains_errors(client):
    with pytest.raises(EntityNotFoundError, match="customer_id 999"):
        client.predict({"customer_id": 999})
    with pytest.raises(ContractError, match="plan: is missing"):
        client.predict({"features": {"balance": 1, "tenure_months": 1}})
    with (
        ApiClient(f"http://127.0.0.1:{free_port()}") as nobody,
        pytest.raises(ServiceUnreachableError, match="make ser"),
    ):
        nobody.lineage()
    with ApiClient(f"{client.url}/metrics") as stranger, pytest.raises(ServiceUnreachableError, match="status 404"):
        stranger.lineage()


def test_json_of_another_service_is_no_lineage(tmp_path):
    (tmp_path / "lineage").write_text('{"status": "ok"}')
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        with (
            ApiClient(f"http://127.0.0.1:{server.server_port}") as stranger,
            pytest.raises(ServiceUnreachableError, match="not by a Tandem service"),
        ):
            stranger.lineage()
        server.shutdown()


SERVE_WITHOUT_THE_PLATFORM = """
import asyncio, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"dagster", "mlflow", "pyiceberg", "sklearn", "pandas", "onnx", "pyarrow"}:
            raise ImportError(f"{name} is not in the image")

sys.meta_path.insert(0, Blocker())
from bento.app import service

answer = asyncio.run(service.inner().predict(b'{"customer_id": 1}'))
print(answer.status_code, answer.body.decode())
"""


def test_the_service_needs_nothing_of_the_platform(served, tmp_path):
    environment = {
        "PYTHONPATH": str(served.bento.path / "src"),
        "TANDEM_HOME": str(served.settings.home),
        "BENTOML_HOME": str(tmp_path),
    }
    command = [sys.executable, "-c", SERVE_WITHOUT_THE_PLATFORM]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    status, body = done.stdout.split(" ", 1)
    assert status == "200"
    expected = Scorer(served.onnx).score(encode_rows(served.contract, [served.rows[1]]))
    assert np.float32(json.loads(body)["probability"]) == expected[0]
