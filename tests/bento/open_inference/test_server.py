"""The gRPC server by itself, in one event loop with its callers: keys, overload, TLS, limits, failures and the end."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from backends.online_store import open_store
from backends.settings import ROOT, Settings
from bento.failures import status_of
from bento.guard.admission import Admission
from bento.guard.gate import Rules
from bento.guard.keys import KeyRing, new_key
from bento.open_inference import grpc_server
from bento.open_inference.client import GrpcInferenceClient
from bento.open_inference.grpc_server import GrpcServer, Limits
from bento.open_inference.inference import OpenInference
from bento.open_inference.lane import GrpcLane, check_port_is_free, grpc_port
from bento.open_inference.messages import METHODS, SERVICE, ModelInferRequest
from bento.open_inference.tensors import Tensor, inputs_of
from bento.predictor import Predictor
from models.contract import Api
from models.encoding import encode_rows
from models.errors import OnlineStoreError, PortTakenError, ServiceUnreachableError, TandemError
from models.scoring import Scorer
from tests.certificates import self_signed
from tests.serving import free_port
from tests.tiny_model import tiny_contract, tiny_rows

EVERYBODY = Limits(KeyRing(None), Admission(60), max_message_bytes=1 << 20, max_calls=100)
ONE = ModelInferRequest(
    model_name="tiny",
    inputs=[{"name": "customer_id", "datatype": "INT64", "shape": [1], "contents": {"int64_contents": [1]}}],
)

Call = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="module")
def inference(onnx, lineage, tmp_path_factory) -> OpenInference:
    contract = tiny_contract()
    store = open_store(f"lmdb://{tmp_path_factory.mktemp('online')}", "tiny")
    rows = encode_rows(contract, tiny_rows(contract, 9))
    store.load(contract, [(np.arange(9), rows, np.full(9, np.datetime64("now", "ms")))], {})
    return OpenInference(Predictor(Scorer(onnx), store, lineage))


@asynccontextmanager
async def answering(inference: OpenInference, limits: Limits = EVERYBODY) -> AsyncIterator[grpc.aio.Channel]:
    """Run a server; give a channel to it."""
    address = f"127.0.0.1:{free_port()}"
    server = GrpcServer(inference, address, limits, lambda: None)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield channel
    finally:
        await server.stop()


def method(channel: grpc.aio.Channel, name: str) -> Call:
    request, response = METHODS[name]
    call: Call = channel.unary_unary(f"/{SERVICE}/{name}", request.SerializeToString, response.FromString)
    return call


async def failure(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def test_with_keys_only_who_has_one_may_ask_more_than_whether_it_lives(inference, tmp_path):
    (key, line), (other, _) = new_key("ours"), new_key("theirs")
    file = tmp_path / "keys"
    file.write_text(line)

    async def ask() -> None:
        async with answering(inference, replace(EVERYBODY, keys=KeyRing(file))) as channel:
            infer = method(channel, "ModelInfer")
            for header in (("x-api-key", key), ("authorization", f"Bearer {key}")):
                assert (await infer(ONE, metadata=[header])).model_name == "tiny"
            for metadata in ([], [("x-api-key", other)], [("authorization", key)], [("x-api-key", "")]):
                error = await failure(infer(ONE, metadata=metadata))
                assert error.code() == grpc.StatusCode.UNAUTHENTICATED
                assert "Send `authorization: Bearer KEY` or `x-api-key: KEY`" in error.details()
            error = await failure(method(channel, "ModelMetadata")(METHODS["ModelMetadata"][0](name="tiny")))
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED
            refused = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()  # it may not even ask
            assert await refused.code() == grpc.StatusCode.UNAUTHENTICATED
            for name in ("ServerLive", "ServerReady", "ModelReady"):
                await method(channel, name)(METHODS[name][0]())
            health = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1

    asyncio.run(ask())


def test_our_client_sends_the_key(inference, tmp_path):
    key, line = new_key("ours")
    (tmp_path / "keys").write_text(line)

    async def ask() -> None:
        address = f"127.0.0.1:{free_port()}"
        server = GrpcServer(inference, address, replace(EVERYBODY, keys=KeyRing(tmp_path / "keys")), lambda: None)
        await server.start()
        with GrpcInferenceClient("tiny", address, timeout=60, key=SecretStr(key)) as client:
            assert (await asyncio.to_thread(client.infer, {"customer_id": [1]})).outputs["decision"]
        with (
            GrpcInferenceClient("tiny", address, timeout=60) as client,
            pytest.raises(ServiceUnreachableError, match="no key of this service"),
        ):
            await asyncio.to_thread(client.infer, {"customer_id": [1]})
        await server.stop()

    asyncio.run(ask())


def test_under_overload_a_call_is_refused_at_once_and_told_when_to_come_back(inference):
    full = Admission(60)
    taken = len(list(iter(full.take, False)))

    async def ask() -> None:
        async with answering(inference, replace(EVERYBODY, admission=full)) as channel:
            error = await failure(method(channel, "ModelInfer")(ONE))
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert ("retry-after", "1") in tuple(error.trailing_metadata())
            assert (await method(channel, "ServerReady")(METHODS["ServerReady"][0]())).ready
            for _ in range(taken):
                full.done()
            assert (await method(channel, "ModelInfer")(ONE)).model_name == "tiny"
            assert full.waiting == 0

    asyncio.run(ask())


def test_a_message_beyond_the_limit_is_refused(inference):
    async def ask() -> None:
        async with answering(inference, replace(EVERYBODY, max_message_bytes=1000)) as channel:
            error = await failure(method(channel, "ModelInfer")(ModelInferRequest(id="x" * 2000)))
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await method(channel, "ModelInfer")(ONE)).model_name == "tiny"

    asyncio.run(ask())


@pytest.mark.parametrize("values", [["Ä" * 5000], ["x"] * 1000])
def test_the_text_of_an_error_fits_into_a_trailer(inference, values):
    request = ModelInferRequest(model_name="tiny")
    contents = {"bytes_contents": [value.encode() for value in values]}
    request.inputs.add(name="balance", datatype="BYTES", shape=[len(values)], contents=contents)

    async def ask() -> None:
        async with answering(inference) as channel:
            error = await failure(method(channel, "ModelInfer")(request))
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "[0]" in error.details()

    asyncio.run(ask())


def test_a_model_name_of_any_length_is_answered(inference):
    async def ask() -> None:
        async with answering(inference) as channel:
            error = await failure(method(channel, "ModelInfer")(ModelInferRequest(model_name="Ä" * 9000)))
            assert error.code() == grpc.StatusCode.NOT_FOUND
            assert error.details().endswith("...")

    asyncio.run(ask())


def test_a_failure_of_ours_tells_the_caller_nothing_of_the_inside(onnx, lineage):
    wired_wrongly: Any = None
    broken = OpenInference(Predictor(Scorer(onnx), wired_wrongly, lineage))

    async def ask() -> None:
        async with answering(broken) as channel:
            error = await failure(method(channel, "ModelInfer")(ONE))
            assert error.code() == grpc.StatusCode.INTERNAL
            assert "Its log says why" in error.details()
            assert "NoneType" not in error.details()

    asyncio.run(ask())


def test_a_store_that_is_not_there_is_unavailable(onnx, lineage, tmp_path):
    nothing = OpenInference(Predictor(Scorer(onnx), open_store(f"lmdb://{tmp_path}", "tiny"), lineage))

    async def ask() -> None:
        async with answering(nothing) as channel:
            error = await failure(method(channel, "ModelInfer")(ONE))
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert "Materialize tiny/online_features" in error.details()
            assert ("retry-after", "1") in tuple(error.trailing_metadata())
            assert str(tmp_path) not in error.details()
            assert not (await method(channel, "ServerReady")(METHODS["ServerReady"][0]())).ready

    with pytest.raises(OnlineStoreError):
        nothing.predictor.rehearse()
    asyncio.run(ask())


def test_who_calls_while_the_server_stops_is_answered_and_watchers_hear_of_it(inference, monkeypatch):
    monkeypatch.setattr(grpc_server, "HOLD_SECONDS", 2.0)

    async def ask() -> None:
        address = f"127.0.0.1:{free_port()}"
        server = GrpcServer(inference, address, EVERYBODY, lambda: None)
        await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
            infer = method(channel, "ModelInfer")
            assert (await infer(ONE)).model_name == "tiny"
            stopping = asyncio.ensure_future(server.stop())
            await asyncio.sleep(0)
            answer = await infer(ONE)
            assert answer.model_name == "tiny"
            assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await health.read() is grpc.aio.EOF
            await stopping
            assert (await failure(infer(ONE))).code() == grpc.StatusCode.UNAVAILABLE

    asyncio.run(ask())


def test_with_a_certificate_it_speaks_tls_alone(inference, tmp_path):
    key, certificate = self_signed(tmp_path)
    port = free_port()
    settings = Settings(home=tmp_path, grpc_port=port, tls_key=key, tls_certificate=certificate)

    async def ask() -> None:
        lane = GrpcLane(inference, settings, Rules.of(settings, inference.contract), shared=False)
        await lane.start()
        address, roots = f"127.0.0.1:{port}", certificate.read_bytes()
        with GrpcInferenceClient("tiny", address, timeout=60, root_certificates=roots) as client:
            assert (await asyncio.to_thread(client.infer, {"customer_id": [1]})).model_version == "3"
        with GrpcInferenceClient("tiny", address, timeout=60) as client, pytest.raises(ServiceUnreachableError):
            await asyncio.to_thread(client.infer, {"customer_id": [1]})
        await lane.stop()

    asyncio.run(ask())


def test_several_workers_share_a_port_and_services_do_not(inference):
    port = free_port()
    check_port_is_free(port)

    async def ask() -> None:
        servers = [GrpcServer(inference, f"127.0.0.1:{port}", EVERYBODY, lambda: None, shared=True) for _ in range(2)]
        for server in servers:
            await server.start()
        with pytest.raises(PortTakenError, match=f"port {port}: Address already in use. Set TANDEM_GRPC_PORT"):
            check_port_is_free(port)
        alone = GrpcServer(inference, f"127.0.0.1:{port}", EVERYBODY, lambda: None)
        with pytest.raises(PortTakenError, match=f"127.0.0.1:{port}. Set TANDEM_GRPC_PORT to a free port, or to 0"):
            await alone.start()
        for server in servers:
            await server.stop()

    asyncio.run(ask())


def test_the_port_is_the_settings_else_the_declarations(tmp_path):
    declared = tiny_contract(api=Api(grpc_port=3101))
    assert grpc_port(Settings(home=tmp_path), tiny_contract()) == 0
    assert grpc_port(Settings(home=tmp_path), declared) == 3101
    assert grpc_port(Settings(home=tmp_path, grpc_port=4000), declared) == 4000
    assert grpc_port(Settings(home=tmp_path, grpc_port=0), declared) == 0


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.integers(0, 9)
columns = st.dictionaries(
    st.sampled_from(list(inputs_of(tiny_contract()))), st.lists(anything, min_size=2, max_size=2), min_size=1
)


@given(columns, st.sampled_from(["BYTES", "FP64"]))
def test_whatever_the_tensors_hold_the_answer_is_scores_or_an_error_of_the_callers(inference, columns, datatype):
    tensors = [Tensor(name, datatype, values) for name, values in columns.items()]
    try:
        (scores,) = asyncio.run(inference.infer(tensors, ["tiny_probability"]))
    except TandemError as error:
        status, scores = status_of(error), Tensor("", "FP32", [])
    else:
        status = 200
    assert (status, len(scores.values)) in ((200, 2), (404, 0), (422, 0))
    assert all(0 <= score <= 1 for score in scores.values)


def test_a_service_without_grpc_does_not_import_it():
    asked = "import sys, bento.service, bento.open_inference.lane; print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
