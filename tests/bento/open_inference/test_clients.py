"""The Open Inference Protocol on a running service, as Triton's own clients and others see it."""

import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException

from bento.open_inference.client import GrpcInferenceClient, OpenInferenceClient, RestInferenceClient
from bento.open_inference.messages import SERVICE
from bento.serve import serve_command
from models.contract import NumberFeature
from models.encoding import encode_rows
from models.errors import (
    ContractError,
    EntityNotFoundError,
    ModelNotServedError,
    OnlineStoreError,
    ServiceUnreachableError,
)
from models.scoring import Scorer
from tests.bento.conftest import STALE, STALE_KEY, Served
from tests.serving import free_port, running

WAYS = ("grpc", "http")


@dataclass(frozen=True)
class Lane:
    """A service that speaks both protocols: `rest` is its URL, `grpc` its address."""

    rest: str
    grpc: str
    served: Served

    def triton(self, way: str) -> tuple[ModuleType, Any]:
        if way == "grpc":
            return tritonclient.grpc, tritonclient.grpc.InferenceServerClient(self.grpc)
        return tritonclient.http, tritonclient.http.InferenceServerClient(self.rest.removeprefix("http://"))

    def ours(self, way: str, model: str = "tiny", request_id: str = "") -> OpenInferenceClient:
        kind, address = (GrpcInferenceClient, self.grpc) if way == "grpc" else (RestInferenceClient, self.rest)
        return kind(model, address, request_id=request_id)


@pytest.fixture
def lane(served) -> Lane:
    return Lane(served.url, served.grpc, served)


@pytest.fixture(params=WAYS)
def triton(lane, request) -> Iterator[tuple[ModuleType, Any]]:
    module, client = lane.triton(request.param)
    yield module, client
    client.close()


@pytest.fixture(params=WAYS)
def ours(lane, request) -> Iterator[OpenInferenceClient]:
    with lane.ours(request.param) as client:
        yield client


def tensor(module: ModuleType, name: str, datatype: str, values: Any) -> Any:
    dtypes = {"INT64": np.int64, "FP32": np.float32, "FP64": np.float64, "BYTES": object}
    array = np.array(values, dtypes[datatype])
    made = module.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def features(module: ModuleType, served: Served, rows: list[dict[str, Any]]) -> list[Any]:
    """All features of some rows, as a user of Triton's client would write them."""
    tensors = []
    for name, feature in served.contract.features.items():
        values = [row[name] for row in rows]
        if isinstance(feature, NumberFeature):
            tensors.append(tensor(module, name, "FP64", [np.nan if value is None else value for value in values]))
        else:
            tensors.append(tensor(module, name, "BYTES", [[value or ""] for value in values]))
    return tensors


def expected(served: Served) -> np.ndarray:
    return Scorer(served.onnx).score(encode_rows(served.contract, served.rows))


@pytest.mark.parametrize("way", WAYS)
def test_our_clients_name_their_requests(lane, way):
    with lane.ours(way, request_id="tandem-replay") as client:
        assert client.infer({"customer_id": [1]}).id == "tandem-replay"


def test_tritons_client_finds_the_service_live_and_ready(triton):
    _, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "3")
    assert not client.is_model_ready("tiny", "4")
    assert not client.is_model_ready("other")


def test_tritons_client_reads_the_metadata(lane, triton):
    module, client = triton
    as_json = {"as_json": True} if module is tritonclient.grpc else {}
    server, model = client.get_server_metadata(**as_json), client.get_model_metadata("tiny", **as_json)
    assert server == {"name": "tandem", "version": lane.served.bento.path.name, "extensions": ["binary_tensor_data"]}
    assert (model["name"], model["versions"], model["platform"]) == ("tiny", ["3"], "onnx_onnxv1")
    assert {one["name"]: one["datatype"] for one in model["inputs"]} == {
        "customer_id": "INT64",
        "tenure_months": "FP32",
        "age_years": "FP32",
        "balance": "FP32",
        "plan": "BYTES",
        "channel": "BYTES",
    }
    assert [one["name"] for one in model["outputs"]] == [
        "tiny_probability",
        "decision",
        "features_as_of",
        "features_stale",
    ]


def test_two_hundred_scores_through_tritons_client_are_the_scorers_own_float32(lane, triton):
    module, client = triton
    by_key = client.infer("tiny", [tensor(module, "customer_id", "INT64", range(200))])
    by_features = client.infer("tiny", features(module, lane.served, lane.served.rows), model_version="3")
    singly = [client.infer("tiny", features(module, lane.served, [row])) for row in lane.served.rows[:20]]
    scores = expected(lane.served)
    for answer in (by_key, by_features):
        assert answer.as_numpy("tiny_probability").dtype == np.float32
        np.testing.assert_array_equal(answer.as_numpy("tiny_probability"), scores)
        np.testing.assert_array_equal(answer.as_numpy("decision"), Scorer(lane.served.onnx).decide(scores))
    np.testing.assert_array_equal(np.concatenate([one.as_numpy("tiny_probability") for one in singly]), scores[:20])


def test_an_answer_says_which_model_scored_which_features(lane, triton):
    module, client = triton
    answer = client.infer("tiny", [tensor(module, "customer_id", "INT64", [0, STALE_KEY])], request_id="mine")
    said = answer.get_response(as_json=True) if module is tritonclient.grpc else answer.get_response()
    assert (said["model_name"], said["model_version"], said["id"]) == ("tiny", "3", "mine")
    assert said["parameters"]["model_sha256"] in (
        lane.served.lineage.sha256,
        {"string_param": lane.served.lineage.sha256},
    )
    assert answer.as_numpy("features_stale").tolist() == [False, True]
    assert answer.as_numpy("features_as_of")[1] == f"{STALE}Z".encode()


def test_a_key_and_some_features_override_the_stored_ones(lane, triton):
    module, client = triton
    changed = [row | {"plan": "pro", "age_years": None} for row in lane.served.rows[:9]]
    inputs = [
        tensor(module, "customer_id", "INT64", range(9)),
        tensor(module, "plan", "BYTES", ["pro"] * 9),
        tensor(module, "age_years", "FP32", [np.nan] * 9),
    ]
    answer = client.infer("tiny", inputs, outputs=[module.InferRequestedOutput("tiny_probability")])
    scores = Scorer(lane.served.onnx).score(encode_rows(lane.served.contract, changed))
    np.testing.assert_array_equal(answer.as_numpy("tiny_probability"), scores)
    assert answer.as_numpy("decision") is None


@pytest.mark.parametrize(
    ("inputs", "options", "codes", "said"),
    [
        ({"customer_id": ("INT64", [1, 999, 998])}, {}, ("NOT_FOUND", 404), r"Row 1: .*customer_id 999.*2 of 3 rows"),
        ({"customer_id": ("INT64", [1])}, {"model_name": "other"}, ("NOT_FOUND", 404), "no model other here, but tiny"),
        ({"customer_id": ("INT64", [1])}, {"model_version": "7"}, ("NOT_FOUND", 404), "tiny in version 7.*version 3"),
        ({"customer_id": ("FP32", [1])}, {}, ("INVALID_ARGUMENT", 422), r"customer_id\[0\]: is not a 64-bit integer"),
        ({"nobody": ("FP32", [1])}, {}, ("INVALID_ARGUMENT", 422), r"'nobody'\). Known: customer_id, tenure_months"),
        (
            {"customer_id": ("INT64", [1, 2]), "age_years": ("FP32", [30, 3])},
            {},
            ("INVALID_ARGUMENT", 422),
            r"age_years\[1\]: is out of bounds \(value: 3.0\). Give a finite number from 16 to 110",
        ),
        ({"customer_id": ("INT64", [])}, {}, ("INVALID_ARGUMENT", 422), "Send 1 to 1000 rows"),
        ({"customer_id": ("INT64", range(1001))}, {}, ("INVALID_ARGUMENT", 422), "Send 1 to 1000 rows"),
    ],
)
def test_an_error_fails_the_request_and_names_row_and_remedy(triton, inputs, options, codes, said):
    module, client = triton
    tensors = [tensor(module, name, datatype, values) for name, (datatype, values) in inputs.items()]
    with pytest.raises(InferenceServerException, match=said) as caught:
        client.infer(**({"model_name": "tiny", "inputs": tensors} | options))
    assert caught.value.status() in (f"StatusCode.{codes[0]}", str(codes[1]))


def test_both_protocols_are_in_one_worker(lane):
    ports = {int(address.rpartition(":")[2]) for address in (lane.rest, lane.grpc)}
    workers = [
        process
        for process in psutil.Process().children(recursive=True)
        if ports <= {one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    ]
    assert len(workers) == 1


# --- plain HTTP -----------------------------------------------------------------------------------------------------


def test_plain_json_in_plain_json_out(lane):
    inputs = [
        {"name": "tenure_months", "datatype": "INT32", "shape": [2], "data": [12, 24]},
        {"name": "age_years", "datatype": "FP32", "shape": [2, 1], "data": [[40.5], [None]]},
        {"name": "balance", "datatype": "FP64", "shape": [2], "data": [0.1, -3]},
        {"name": "plan", "datatype": "BYTES", "shape": [2], "data": ["pro", "unseen"]},
    ]
    response = httpx.post(f"{lane.rest}/v2/models/tiny/versions/3/infer", json={"id": "7", "inputs": inputs})
    answer = response.json()
    assert (response.status_code, answer["id"], answer["model_version"]) == (200, "7", "3")
    rows = [
        {"tenure_months": 12, "age_years": 40.5, "balance": 0.1, "plan": "pro"},
        {"tenure_months": 24, "balance": -3, "plan": "unseen"},
    ]
    scores = Scorer(lane.served.onnx).score(encode_rows(lane.served.contract, rows))
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["tiny_probability"] | {"data": None} == {
        "name": "tiny_probability",
        "datatype": "FP32",
        "shape": [2],
        "data": None,
    }
    np.testing.assert_array_equal(np.float32(outputs["tiny_probability"]["data"]), scores)
    assert outputs["features_as_of"]["data"] == ["", ""]


def test_a_request_without_an_id_gets_one(lane):
    body = {"inputs": [{"name": "customer_id", "datatype": "INT64", "shape": [1], "data": [1]}]}
    response = httpx.post(f"{lane.rest}/v2/models/tiny/infer", json=body, headers={"X-Request-ID": "from-the-proxy"})
    assert (response.json()["id"], response.headers["x-request-id"]) == ("from-the-proxy", "from-the-proxy")
    ids = {httpx.post(f"{lane.rest}/v2/models/tiny/infer", json=body).json()["id"] for _ in range(2)}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/v2/models/other", 404, "no model other here"),
        ("GET", "/v2/models/tiny/versions/9/ready", 404, "version 9"),
        ("GET", "/v2/models/tiny/config", 404, "Known: /v2, /v2/health/live"),
        ("GET", "/v2/repository/index", 404, "Known: /v2"),
        ("GET", "/v2/models/tiny/infer", 405, "Use POST"),
        ("POST", "/v2/models/tiny", 405, "Use GET"),
        ("POST", "/v2/models/tiny/infer", 422, "request: is not JSON"),
    ],
)
def test_a_rest_error_is_the_protocols_object_with_one_text(lane, method, path, status, said):
    response = httpx.request(method, f"{lane.rest}{path}")
    assert response.status_code == status
    assert said in response.json()["error"]
    assert list(response.json()) == ["error"]
    assert "Traceback" not in response.text


def test_a_compressed_body_is_refused(lane):
    response = httpx.post(f"{lane.rest}/v2/models/tiny/infer", content=b"x", headers={"Content-Encoding": "gzip"})
    assert (response.status_code, "uncompressed" in response.json()["error"]) == (415, True)


def test_health_and_metadata_are_read_with_get_and_head(lane):
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny", "/v2/models/tiny/versions/3/ready"):
        assert httpx.get(f"{lane.rest}{path}").status_code == 200, path
        assert httpx.head(f"{lane.rest}{path}").status_code == 200, path
    assert httpx.get(f"{lane.rest}/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}


# --- plain gRPC -----------------------------------------------------------------------------------------------------


def test_reflection_and_health_answer_as_their_tools_expect(lane):
    with grpc.insecure_channel(lane.grpc) as channel:
        described = ProtoReflectionDescriptorDatabase(channel)
        assert set(described.get_services()) >= {SERVICE, "grpc.health.v1.Health"}
        for symbol in (SERVICE, "grpc.health.v1.Health"):
            assert described.FindFileContainingSymbol(symbol).service
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == 1
        with pytest.raises(grpc.RpcError, match="There is no service 'other' here"):
            health.Check(health_pb2.HealthCheckRequest(service="other"))


def test_bytes_that_are_no_message_are_the_callers_fault(lane):
    with grpc.insecure_channel(lane.grpc) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError, match="request: is not a ModelInferRequest") as caught:
            call(b"\xff\xff\xff")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


# --- our own client -------------------------------------------------------------------------------------------------


def test_our_client_needs_no_datatypes(lane, ours):
    scores = expected(lane.served).tolist()
    by_key = ours.infer({"customer_id": range(200)})
    by_features = ours.infer({name: [row[name] for row in lane.served.rows] for name in lane.served.contract.features})
    assert by_key.outputs["tiny_probability"] == by_features.outputs["tiny_probability"] == scores
    assert by_key.outputs["features_stale"].index(True) == STALE_KEY
    assert by_features.outputs["features_as_of"] == [""] * 200
    assert by_key.model_version == "3"
    assert by_key.parameters == {"model_sha256": lane.served.lineage.sha256, "decision_threshold": 0.5}
    assert by_key.id != by_features.id


def test_our_client_raises_the_domains_errors(lane, ours):
    with pytest.raises(EntityNotFoundError, match="customer_id 999"):
        ours.infer({"customer_id": [999]})
    with pytest.raises(ContractError, match=r"plan\[0\]: is missing"):
        ours.infer({"balance": [1], "tenure_months": [1]})
    with pytest.raises(ContractError, match="'nobody'"):
        ours.infer({"nobody": ["x"]})
    with pytest.raises(ContractError, match="customer_id: does not fit into INT64"):
        ours.infer({"customer_id": [2**70]})


@pytest.mark.parametrize("way", WAYS)
def test_our_client_says_when_nobody_or_somebody_else_is_there(lane, way):
    with lane.ours(way, "other") as client, pytest.raises(ModelNotServedError, match="no model other here"):
        client.infer({"customer_id": [1]})
    nowhere = f"127.0.0.1:{free_port()}"
    gone = Lane(f"http://{nowhere}", nowhere, lane.served)
    with gone.ours(way) as client, pytest.raises(ServiceUnreachableError, match="make serve MODEL=tiny"):
        client.infer({"customer_id": [1]})


def test_without_a_store_nothing_is_ready_and_features_still_score(lane):
    store = lane.served.settings.home / "online"
    _, http = lane.triton("http")
    _, triton = lane.triton("grpc")
    rest, direct = lane.ours("http"), lane.ours("grpc")
    columns = {name: [lane.served.rows[1][name]] for name in lane.served.contract.features}
    store.rename(store.with_name("gone"))
    try:
        deadline = time.monotonic() + 30
        while triton.is_server_ready():
            assert time.monotonic() < deadline
        for client in (rest, direct):
            with pytest.raises(OnlineStoreError, match="Materialize tiny/online_features"):
                client.infer({"customer_id": [1]})
            assert client.infer(columns).outputs["tiny_probability"] == [expected(lane.served)[1]]
        assert triton.is_server_live()
        assert not http.is_server_ready()
        assert not http.is_model_ready("tiny")
        assert not triton.is_model_ready("tiny")
        with grpc.insecure_channel(lane.grpc) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            assert check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        store.with_name("gone").rename(store)
        for client in (http, triton, rest, direct):
            client.close()


def test_a_port_that_is_taken_ends_the_service_with_a_remedy(lane):
    port = int(lane.grpc.rpartition(":")[2])
    settings = lane.served.settings.model_copy(update={"grpc_port": port})
    command, environment = serve_command(lane.served.bento, settings, free_port())
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert f"gRPC cannot listen on 127.0.0.1:{port}. Set TANDEM_GRPC_PORT to a free port" in done.stdout + done.stderr


def test_sigterm_ends_grpc_too(lane):
    """A client keeps calling while the service is told to stop; every answer that it gets is right."""
    grpc_port = free_port()
    settings = lane.served.settings.model_copy(update={"grpc_port": grpc_port})
    with running(lane.served.bento, settings, free_port()):
        supervisor = listening_parent(grpc_port)
        with GrpcInferenceClient("tiny", f"127.0.0.1:{grpc_port}", timeout=60) as client:
            scores = expected(lane.served).tolist()
            assert client.infer({"customer_id": range(200)}).outputs["tiny_probability"] == scores
            supervisor.send_signal(signal.SIGTERM)
            with pytest.raises(ServiceUnreachableError, match=r"failed to connect|CANCELLED"):
                until_it_fails(client, scores)
        assert supervisor.wait(60) in (0, None)


def until_it_fails(client: OpenInferenceClient, scores: list[float]) -> None:
    while True:
        assert client.infer({"customer_id": range(200)}).outputs["tiny_probability"] == scores


def listening_parent(port: int) -> psutil.Process:
    """Return the process whose child listens on a port."""
    for process in psutil.Process().children(recursive=True):
        if any(one.laddr.port == port and one.status == psutil.CONN_LISTEN for one in process.net_connections("tcp")):
            parent = process.parent()
            assert parent is not None
            return parent
    raise AssertionError(f"nobody listens on {port}")
