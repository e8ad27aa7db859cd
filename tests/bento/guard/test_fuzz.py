"""Requests that no application sends, found by hypothesis: over REST and gRPC never a failure, never a wrong answer."""

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bento.open_inference.messages import METHODS, SERVICE
from models.contract import CategoryFeature, Feature
from models.encoding import encode_rows
from models.scoring import Scorer
from tests.bento.conftest import Served
from tests.serving import free_port, running
from tests.tiny_model import tiny_contract

CONTRACT = tiny_contract()
REFUSED = {400, 404, 405, 413, 415, 422}
fuzzed = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


class Target:
    """A service that speaks both protocols. No dataclass: hypothesis would print all of its rows."""

    def __init__(self, served: Served, url: str, channel: grpc.Channel) -> None:
        self.http = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self.channel = channel
        self.scorer = Scorer(served.onnx)
        self.rows = served.rows
        self.secrets = (str(served.settings.home), "Traceback", "site-packages", "/bento/", "/models/encoding")

    def post(self, path: str, body: bytes) -> tuple[int, Any]:
        """Return status and JSON, after a look at what no answer may have in it."""
        self.http.request("POST", path, body, {"Content-Type": "application/json"})
        response = self.http.getresponse()
        text = response.read().decode()
        self.check(text)
        assert response.status < 500, (body, text)
        content = json.loads(text, parse_constant=pytest.fail)
        if response.status != 200:
            assert response.status in REFUSED
        return response.status, content

    def call(self, method: str, raw: bytes) -> tuple[grpc.StatusCode, str, bytes]:
        as_it_is = self.channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            answer = as_it_is(raw, timeout=60)
        except grpc.RpcError as error:
            self.check(error.details())
            return error.code(), error.details(), b""
        return grpc.StatusCode.OK, "", answer

    def check(self, text: str) -> None:
        # what a caller sent may come back as the value of a field; nothing of ours looks like this
        assert not any(secret in text for secret in self.secrets), text

    def expected(self, request: Any) -> float:
        key, features = request.get("customer_id"), {}
        if key is not None and 0 <= key < len(self.rows):  # all features may be in the request
            features = dict(self.rows[key])
        features |= request.get("features") or {}
        return float(self.scorer.score(encode_rows(CONTRACT, [features]))[0])


@pytest.fixture(scope="module")
def target(served) -> Iterator[Target]:
    port = free_port()
    settings = served.settings.model_copy(update={"grpc_port": port})
    with (
        running(served.bento, settings, free_port()) as url,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        target = Target(served, url, channel)
        yield target
        target.http.close()


# --- what is sent ---------------------------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([*CONTRACT.features, "customer_id", "features", "rows", "inputs"]) | st.text(max_size=5)


def fitting(feature: Feature) -> st.SearchStrategy[Any]:
    if isinstance(feature, CategoryFeature):
        values: st.SearchStrategy[Any] = st.sampled_from([*feature.values, "unseen", ""])
    else:
        low, high = feature.min, feature.max
        values = st.floats(low, high, allow_nan=False) | st.integers(int(low or 0), int(high or 1000))
    return values | st.none() if feature.missing else values


features = {name: fitting(feature) for name, feature in CONTRACT.features.items()}
complete = st.fixed_dictionaries(features)
some = st.fixed_dictionaries({}, optional=features)
keys = st.integers(0, 199)
valid = (
    st.fixed_dictionaries({"features": complete})
    | st.fixed_dictionaries({"customer_id": keys})
    | st.fixed_dictionaries({"customer_id": keys, "features": some})
)
nearly_valid = (
    st.dictionaries(names, anything, max_size=4)
    | st.fixed_dictionaries({"customer_id": keys | anything, "features": st.dictionaries(names, anything, max_size=6)})
    | st.fixed_dictionaries({"features": complete, "customer_id": anything})
    | anything
)


def dumped(content: Any) -> bytes:
    return json.dumps(content).encode("utf-8", "surrogatepass")  # with NaN and lone surrogates, as some do


def names_the_remedy(content: Any) -> bool:
    error = content["error"]
    assert error["message"]
    return error["type"] == "EntityNotFoundError" or all(
        isinstance(problem["field"], str) and problem["message"] and problem["remedy"] for problem in error["fields"]
    )


# --- REST -----------------------------------------------------------------------------------------------------------


@fuzzed
@given(request=valid)
def test_every_valid_request_has_the_scorers_answer(target, request):
    status, content = target.post("/predict", dumped(request))
    assert status == 200, content
    assert content["probability"] == target.expected(request)


@fuzzed
@given(request=nearly_valid)
@example(request={"customer_id": 10**40})
@example(request={"customer_id": -(2**63) - 1})
@example(request={"features": {"plan": "\ud800"}})
@example(request={"customer_id": 1, "features": {"balance": 10**400}})
def test_no_request_is_answered_with_a_failure_or_a_wrong_score(target, request):
    status, content = target.post("/predict", dumped(request))
    if status == 200:
        assert content["probability"] == target.expected(request)
    else:
        assert names_the_remedy(content)


@fuzzed
@given(body=st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
@example(body=b'{"customer_id": 1}garbage')
@example(body=b'{"customer_id": 1, "customer_id": 2}')
@example(body=b"\xef\xbb\xbf{}")
@example(body=b"9" * 5000)
@example(body=b'{"features": {"balance": ' + b"1" * 5000 + b"}}")
@example(body=b'{"features": {"balance": 1e-99999, "plan": "pro", "tenure_months": 1}}')
def test_no_bytes_are_answered_with_a_failure(target, body):
    for path in ("/predict", "/predict_many", "/v2/models/tiny/infer"):
        status, content = target.post(path, body)
        assert status == 200 or content["error"]


@fuzzed
@given(rows=st.lists(valid.map(lambda row: (True, row)) | nearly_valid.map(lambda row: (False, row)), max_size=6))
def test_many_rows_are_answered_each_for_itself(target, rows):
    status, content = target.post("/predict_many", dumped({"rows": [row for _, row in rows]}))
    if status != 200:
        assert names_the_remedy(content)
        assert not rows or not all(is_valid for is_valid, _ in rows)
        return
    assert len(content["predictions"]) == len(rows)
    for (is_valid, row), prediction in zip(rows, content["predictions"], strict=True):
        if "error" in prediction:
            assert not is_valid, prediction
            assert names_the_remedy(prediction)
        else:
            assert prediction["probability"] == target.expected(row)


tensors = st.fixed_dictionaries(
    {"name": names, "datatype": st.sampled_from(["FP32", "FP64", "INT64", "BYTES", "BOOL", "X"]) | anything},
    optional={
        "shape": st.lists(st.integers(-1, 3), max_size=2) | anything,
        "data": st.lists(anything, max_size=3) | anything,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 99) | anything}) | anything,
    },
)


@fuzzed
@given(
    request=st.fixed_dictionaries({"inputs": st.lists(tensors, max_size=3) | anything}, optional={"outputs": anything})
)
def test_no_tensors_are_answered_with_a_failure(target, request):
    status, content = target.post("/v2/models/tiny/infer", dumped(request))
    assert status == 200 or content["error"]


# --- gRPC -----------------------------------------------------------------------------------------------------------

INNER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE}
InferRequest = METHODS["ModelInfer"][0]


@fuzzed
@given(method=st.sampled_from(sorted(METHODS)), raw=st.binary(max_size=60))
def test_no_bytes_are_answered_with_a_failure_over_grpc(target, method, raw):
    code, details, _ = target.call(method, raw)
    assert code not in INNER, details
    assert code is grpc.StatusCode.OK or details


@st.composite
def messages(draw: st.DrawFn) -> Any:
    message = InferRequest(model_name="tiny")
    for _ in range(draw(st.integers(0, 3))):
        tensor = message.inputs.add()
        tensor.name = draw(st.sampled_from(["customer_id", *CONTRACT.features, "x"]))
        tensor.datatype = draw(st.sampled_from(["FP32", "FP64", "INT64", "BYTES", "BOOL", "INT8", ""]))
        tensor.shape.extend(draw(st.lists(st.integers(-2, 3) | st.just(2**62), max_size=2)))
        contents = tensor.contents
        contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=2)))
        contents.int64_contents.extend(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=2)))
        contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=4), max_size=2)))
    message.raw_input_contents.extend(draw(st.lists(st.binary(max_size=16), max_size=2)))
    return message


@fuzzed
@given(message=messages())
def test_no_tensors_are_answered_with_a_failure_over_grpc(target, message):
    code, details, _ = target.call("ModelInfer", message.SerializeToString())
    assert code not in INNER, details


@fuzzed
@given(key=keys)
def test_every_key_has_the_scorers_answer_over_grpc(target, key):
    message = InferRequest(model_name="tiny")
    tensor = message.inputs.add(name="customer_id", datatype="INT64", shape=[1])
    tensor.contents.int64_contents.append(key)
    code, details, raw = target.call("ModelInfer", message.SerializeToString())
    assert code is grpc.StatusCode.OK, details
    answer = METHODS["ModelInfer"][1].FromString(raw)
    scores = next(output for output in answer.outputs if output.datatype in ("FP32", "FP64"))
    assert np.float32(scores.contents.fp32_contents[0]) == np.float32(target.expected({"customer_id": key}))
