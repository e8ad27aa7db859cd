"""The real service over HTTP: what an application sees."""

import json
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import httpx
import jsonschema
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


def test_a_client_names_its_requests(served):
    with ApiClient(served.url, request_id="tandem-replay") as client:
        assert client.predict({"customer_id": 0})["request_id"] == "tandem-replay"


def test_lineage_names_every_run_and_snapshot(served, client):
    lineage = client.lineage()
    online = lineage.pop("online_features")
    assert lineage.pop("bento") == served.bento.tag
    assert lineage.pop("request_id")
    assert lineage.pop("online_store") == "lmdb"
    assert f"127.0.0.1:{lineage.pop('grpc_port')}" == served.grpc
    assert lineage == served.lineage.model_dump()
    assert (online["source_snapshot"], online["rows"]) == ("4211", "200")


@pytest.mark.parametrize(
    ("body", "status", "kind", "field"),
    [
        (b'{"customer_id": 999}', 404, "EntityNotFoundError", "customer_id"),
        (b'{"customer_id": 1.5}', 422, "ValueRejectedError", "customer_id"),
        (b'{"customer_id": 1, "features": {"balance": 1e400}}', 422, "ValueRejectedError", "balance"),
        (b'{"customer_id": 1, "features": {"age_years": 3}}', 422, "ValueRejectedError", "age_years"),
        (b'{"customer_id": 1, "features": {"balance": NaN}}', 422, "ValueRejectedError", "request"),
        (b'{"customer_id": 1', 422, "ValueRejectedError", "request"),
        (b"\xff\xfe", 422, "ValueRejectedError", "request"),
        (b"", 422, "ValueRejectedError", "request"),
        (b"[" * 10_000, 422, "ValueRejectedError", "request"),
        (b"9" * 10_000, 422, "ValueRejectedError", "request"),
        (b'{"customer_id": ' + b"9" * 4_000 + b"}", 422, "ValueRejectedError", "customer_id"),
        (b'{"customer_id": "\\ud800"}', 422, "ValueRejectedError", "request"),
    ],
)
def test_errors_have_one_form_and_name_the_field(served, body, status, kind, field):
    response = httpx.post(f"{served.url}/predict", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    error = json.loads(response.content, parse_constant=pytest.fail)["error"]
    assert error["type"] == kind
    assert error["status"] == status
    assert [problem["field"] for problem in error["fields"]] == [field]
    assert all(problem["remedy"] in error["message"] for problem in error["fields"])
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
        with pytest.raises(OnlineStoreError):
            client.predict_many([{"features": served.rows[1]}, {"customer_id": 1}])
        assert client.lineage()["online_features"] is None
        ready = httpx.get(f"{served.url}/readyz")
        assert (ready.status_code, ready.headers["Retry-After"]) == (503, "1")
        assert ready.json()["error"]["type"] == "StoreUnavailableError"
        assert httpx.get(f"{served.url}/livez").status_code == 200
    finally:
        store.with_name("gone").rename(store)
    assert client.predict({"customer_id": 1})["customer_id"] == 1
    assert httpx.get(f"{served.url}/readyz").json()["ready"] is True


def test_many_are_scored_like_one_and_errors_stand_in_their_rows_place(served, client):
    expected = Scorer(served.onnx).score(encode_rows(served.contract, served.rows))
    by_key = client.predict_many([{"customer_id": i} for i in range(200)])
    by_features = client.predict_many([{"features": row} for row in served.rows])
    for answers in (by_key, by_features):
        np.testing.assert_array_equal(np.float32([answer["probability"] for answer in answers]), expected)
    rows = [{"customer_id": 1}, {"customer_id": 999}, {"features": {"plan": 3.5}}, {"customer_id": 2}]
    first, unknown, wrong, last = client.predict_many(rows)
    assert (first, last) == (
        by_key[1] | {"request_id": first["request_id"]},
        by_key[2] | {"request_id": first["request_id"]},
    )
    assert isinstance(unknown, EntityNotFoundError)
    assert isinstance(wrong, ContractError)
    answer = httpx.post(f"{served.url}/predict_many", json={"rows": rows}).json()
    assert (answer["errors"], answer["model_sha256"]) == (2, served.lineage.sha256)
    fields = [problem["field"] for row in (1, 2) for problem in answer["predictions"][row]["error"]["fields"]]
    assert fields == ["customer_id[1]", "tenure_months[2]", "balance[2]", "plan[2]"]


@pytest.mark.parametrize(
    ("body", "field", "remedy"),
    [
        ({"rows": []}, "rows", "Send 1 to 1000 rows."),
        ({"rows": [{}] * 1001}, "rows", "Send 1 to 1000 rows."),
        ({"rows": {"customer_id": 1}}, "rows", "each row like a request"),
        ({"customer_id": 1}, "customer_id", "each row like a request"),
        ([{"customer_id": 1}], "request", "each row like a request"),
    ],
)
def test_many_rows_of_a_wrong_form_or_number_are_refused(served, body, field, remedy):
    response = httpx.post(f"{served.url}/predict_many", json=body)
    assert response.status_code == 422
    (problem,) = response.json()["error"]["fields"]
    assert problem["field"] == field
    assert remedy in problem["remedy"]


def test_every_answer_has_the_requests_id_and_says_which_model_answered(served):
    sent = {"X-Request-ID": "order 66/a"}
    for method, path, body in (
        ("POST", "/predict", b'{"customer_id": 1}'),
        ("POST", "/predict_many", b'{"rows": [{"customer_id": 1}]}'),
        ("POST", "/predict", b"{}"),
        ("GET", "/predict", b""),
        ("GET", "/lineage", b""),
        ("GET", "/readyz", b""),
    ):
        response = httpx.request(method, served.url + path, content=body, headers=sent)
        assert response.headers["X-Request-ID"] == response.json()["request_id"] == "order 66/a"
        shown = [response.headers[name] for name in ("X-Model", "X-Model-Version", "X-Model-Sha256")]
        assert shown == ["tiny", "3", served.lineage.sha256]


@pytest.mark.parametrize("sent", ["", "a" * 129, "tab\there", b"\xc3\xa9"])
def test_an_id_that_cannot_be_shown_is_replaced(served, sent):
    ids = {httpx.get(f"{served.url}/lineage", headers={"X-Request-ID": sent}).headers["X-Request-ID"] for _ in range(2)}
    assert len(ids) == 2
    assert all(len(made) == 32 and made.isalnum() for made in ids)


@pytest.mark.parametrize(
    ("method", "path", "content_type", "status", "kind", "field"),
    [
        ("GET", "/nothing", "application/json", 404, "NotFound", "path"),
        ("POST", "/", "application/json", 405, "MethodNotAllowed", "method"),
        ("GET", "/predict", "application/json", 405, "MethodNotAllowed", "method"),
        ("DELETE", "/lineage", "application/json", 405, "MethodNotAllowed", "method"),
        ("POST", "/readyz", "application/json", 405, "MethodNotAllowed", "method"),
        ("POST", "/predict", "text/csv", 415, "UnsupportedMediaType", "Content-Type"),
        ("POST", "/predict", "application/vnd.bentoml+pickle", 415, "UnsupportedMediaType", "Content-Type"),
        ("POST", "/predict_many", "application/x-www-form-urlencoded", 415, "UnsupportedMediaType", "Content-Type"),
    ],
)
def test_a_wrong_path_method_or_media_type_is_refused_in_the_same_form(
    served, method, path, content_type, status, kind, field
):
    response = httpx.request(
        method, served.url + path, content=b'{"customer_id": 1}', headers={"Content-Type": content_type}
    )
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["status"], error["type"]) == (status, kind)
    assert [problem["field"] for problem in error["fields"]] == [field]
    assert error["fields"][0]["remedy"]
    if status == 405:
        assert response.headers["Allow"]


@pytest.mark.parametrize("content_type", [None, "application/json; charset=utf-8", "Application/LD+JSON"])
def test_json_by_any_of_its_names_is_taken(served, content_type):
    headers = {"Content-Type": content_type} if content_type else {}
    response = httpx.post(f"{served.url}/predict", content=b'{"customer_id": 1}', headers=headers)
    assert response.status_code == 200


def test_the_openapi_document_describes_requests_answers_and_errors(served):
    document = httpx.get(f"{served.url}/docs.json").json()
    assert (document["openapi"], document["info"]["title"]) == ("3.1.0", "tiny")
    assert document["info"]["version"] == served.bento.tag.partition(":")[2]
    schemas = document["components"]["schemas"]
    features = schemas["Features"]["properties"]
    assert list(features) == list(served.contract.features)
    assert (features["balance"]["minimum"], features["balance"]["maximum"]) == (-10_000, 10_000)
    assert {"type": "null"} in features["age_years"]["anyOf"]
    for path in ("/predict", "/predict_many"):
        assert set(document["paths"][path]["post"]["responses"]) >= {"200", "401", "405", "413", "415", "422", "503"}
    written = (served.bento.path / "apis/openapi.yaml").read_text()
    assert "/predict_many" in written


@pytest.mark.parametrize(
    ("path", "name", "body"),
    [
        ("/predict", "Prediction", {"customer_id": 1}),
        ("/predict", "Prediction", {"features": {"tenure_months": 1, "balance": 2, "plan": "pro"}}),
        ("/predict", "Failure", {"customer_id": 1, "features": {"plam": None}}),
        ("/predict_many", "Predictions", {"rows": [{"customer_id": 1}, {"customer_id": 999}, 7]}),
        ("/predict_many", "Failure", {"rows": 1}),
        ("/lineage", "Failure", {}),  # a wrong method
    ],
)
def test_answers_are_as_the_openapi_document_says(served, path, name, body):
    components = httpx.get(f"{served.url}/docs.json").json()["components"]
    schema = {"$ref": f"#/components/schemas/{name}", "components": components}
    answer = httpx.post(served.url + path, json=body).json()
    jsonschema.validate(answer, schema)


def test_the_openapi_page_loads_nothing_from_elsewhere(served):
    page = httpx.get(f"{served.url}/")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert httpx.get(f"{served.url}/static_content/swagger-ui-bundle.js").status_code == 200


BENTOML_CLIENT = """
import json, sys, bentoml

with bentoml.SyncHTTPClient(sys.argv[1]) as client:
    one = client.predict({"customer_id": 1, "features": {"plan": "pro"}})
    many = client.predict_many({"rows": [{"customer_id": 1}, {"customer_id": 999}]})
    print(json.dumps([one, many]))
"""


def test_bentomls_own_routes_and_client_work(served, client):
    for route in ("/livez", "/readyz", "/healthz", "/metrics", "/"):
        assert httpx.get(f"{served.url}{route}").status_code == 200, route
    assert 'le="0.001"' in httpx.get(f"{served.url}/metrics").text
    one, many = json.loads(subprocess.check_output([sys.executable, "-c", BENTOML_CLIENT, served.url], text=True))
    assert one == client.predict({"customer_id": 1, "features": {"plan": "pro"}}) | {"request_id": one["request_id"]}
    assert many["predictions"][0]["probability"] == client.predict({"customer_id": 1})["probability"]
    assert many["predictions"][1]["error"]["type"] == "EntityNotFoundError"


def test_a_client_reads_what_the_service_has_counted(client):
    before = client.counters()
    client.predict({"customer_id": 0})
    client.predict_many([{"customer_id": 1}, {"customer_id": 2}])
    after = client.counters()
    assert after["tandem_score_count"] - before["tandem_score_count"] == 3
    assert after["tandem_requests_total"] - before["tandem_requests_total"] == 2
    assert after["tandem_cpu_seconds_total"] > before["tandem_cpu_seconds_total"] > 0


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
    with ApiClient(f"{client.url}/metrics") as astray, pytest.raises(ServiceUnreachableError, match="/metrics/lin"):
        astray.lineage()


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
        with (
            ApiClient(stranger.url) as stranger,
            pytest.raises(ServiceUnreachableError, match="status 501 and no JSON"),
        ):
            stranger.predict({})
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
