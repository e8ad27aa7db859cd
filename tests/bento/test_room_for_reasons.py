"""Room for rows that wait for their reasons: never more than there is, and given back however a call ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from threading import Event
from typing import Any

import grpc
import numpy as np
import pytest
import uvicorn

from backends.lmdb_store import LmdbStore
from backends.settings import Settings
from bento.explaining import MOST_ROWS, MOST_WAITING, Explaining
from bento.guard.admission import Admission
from bento.guard.connections import GuardedConnection
from bento.guard.gate import Rules
from bento.guard.keys import KeyRing
from bento.lineage import Lineage
from bento.open_inference.grpc_server import GrpcServer, Limits
from bento.open_inference.inference import INLINE_ROWS, OpenInference
from bento.open_inference.messages import METHODS, SERVICE, ModelInferRequest
from bento.predictor import Predictor
from bento.rest import INLINE_BYTES, Rest
from models.encoding import encode_rows
from models.errors import EntityNotFoundError, OnlineStoreError, OverloadedError, ValueRejectedError
from models.reasons import Explainer
from models.scoring import Scorer
from tests.bento.guard.raw_http import request
from tests.serving import free_port
from tests.tiny_model import tiny_contract, tiny_onnx_with_reference, tiny_rows

CONTRACT = tiny_contract()
ROWS = tiny_rows(CONTRACT, MOST_ROWS)
ASKED = [{"customer_id": i, "reasons": 1} for i in range(MOST_ROWS)]
CALLS = MOST_WAITING // MOST_ROWS


class SlowStore(LmdbStore):
    """A store that answers when it is let, here or over a network; how many ask meanwhile is counted."""

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        self.asked, self.let = 0, Event()
        self.let.set()

    def get_many(self, *asked: Any) -> Any:
        self.asked += 1
        self.let.wait()
        return super().get_many(*asked)

    async def get_many_async(self, *asked: Any) -> Any:
        self.asked += 1
        while not self.let.is_set():
            await asyncio.sleep(0.001)
        return super().get_many(*asked)


@pytest.fixture
def store(tmp_path) -> SlowStore:
    store = SlowStore(tmp_path, "tiny")
    times = np.full(len(ROWS), np.datetime64("now", "ms"))
    store.load(CONTRACT, [(np.arange(len(ROWS)), encode_rows(CONTRACT, ROWS), times)], {})
    store.asked = 0
    return store


@pytest.fixture
def predictor(store) -> Predictor:
    scorer = Scorer(tiny_onnx_with_reference(CONTRACT))
    return Predictor(scorer, store, Lineage(model="tiny", version="7", sha256=scorer.sha256))


@contextmanager
def held(predictor: Predictor) -> Iterator[Callable[[], None]]:
    """Let nobody have reasons until the end, or until what is given is called."""
    let = Event()
    predictor._explaining._thread.submit(let.wait)
    try:
        yield let.set
    finally:
        let.set()


def waiting_in_line(predictor: Predictor) -> int:
    """Return how many rows wait until somebody looks for their reasons."""
    return predictor._explaining._thread._work_queue.qsize()


def has_all_its_room(explaining: Explaining) -> bool:
    """Whether as many rows can wait as ever, and no more."""
    calls = [dict.fromkeys(range(MOST_ROWS), 1)] * CALLS
    for call in calls:
        explaining.reserve(call)
    with pytest.raises(OverloadedError, match=f"^{MOST_WAITING} rows wait"):
        explaining.reserve({0: 1})
    for call in calls:
        explaining.release(call)
    return True


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.001)


WAYS = pytest.mark.parametrize(("aside", "over_network"), [(False, True), (True, True), (True, False)])


@WAYS
def test_of_a_burst_no_more_are_taken_than_there_is_room_for(predictor, store, aside, over_network):
    async def burst() -> list[object]:
        store.over_network = over_network
        store.let.clear()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2 * CALLS))
        calls = [asyncio.create_task(predictor.predict_rows_async(ASKED, aside=aside)) for _ in range(2 * CALLS)]
        await until(lambda: sum(call.done() for call in calls) == CALLS)  # who is refused does not wait
        store.let.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(burst())
    refused = [answer for answer in answers if isinstance(answer, OverloadedError)]
    assert (len(refused), store.asked) == (CALLS, CALLS)
    explained = [answer for answer in answers if isinstance(answer, list)]
    assert all("reasons" in row for answer in explained for row in answer)
    assert has_all_its_room(predictor._explaining)


@WAYS
@pytest.mark.parametrize("waits_for", ["store", "reasons"])
@pytest.mark.parametrize("ending", ["cancelled", "deadline"])
def test_a_call_that_is_given_up_gives_its_room_back(predictor, store, aside, over_network, waits_for, ending):
    async def give_up() -> None:
        store.over_network = over_network
        store.let.clear()
        call = asyncio.create_task(predictor.predict_rows_async(ASKED, aside=aside))
        await until(lambda: store.asked == 1)
        if waits_for == "reasons":
            store.let.set()
            await until(lambda: waiting_in_line(predictor) == MOST_ROWS)
        if ending == "deadline":
            asyncio.get_running_loop().call_later(0.02, store.let.set)  # a thread is waited for
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call, 0.01)
            return
        call.cancel()
        store.let.set()
        with pytest.raises(asyncio.CancelledError):
            await call

    with held(predictor):
        asyncio.run(give_up())
        assert has_all_its_room(predictor._explaining)


def test_who_is_cancelled_before_a_thread_is_free_asks_for_nothing_when_it_is(predictor, store):
    async def give_up() -> None:
        let = Event()
        busy = asyncio.create_task(asyncio.to_thread(let.wait))
        call = asyncio.create_task(predictor.predict_rows_async(ASKED, aside=True))
        await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.sleep(0.01)
        let.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        await busy
        await asyncio.to_thread(int)  # so the thread is done with whatever came before
        assert store.asked == 0

    asyncio.run(with_one_thread(give_up))
    assert has_all_its_room(predictor._explaining)


def test_nobody_looks_for_the_reasons_of_a_call_that_was_given_up(predictor, monkeypatch):
    looked_for = []
    explain = Explainer.explain
    monkeypatch.setattr(Explainer, "explain", lambda *asked: [looked_for.append(1), explain(*asked)][1])

    async def give_up(let: Callable[[], None]) -> None:
        call = asyncio.create_task(predictor.predict_rows_async(ASKED))
        await until(lambda: waiting_in_line(predictor) == MOST_ROWS)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        let()
        assert "reasons" in await predictor.predict_async(ASKED[0])

    with held(predictor) as let:
        asyncio.run(give_up(let))
    assert len(looked_for) == 1


def answer(predictor: Predictor, asked: Any, aside: bool | None) -> Any:
    """Ask in one of three ways; None is without an event loop."""
    return predictor.predict(asked) if aside is None else asyncio.run(predictor.predict_async(asked, aside=aside))


@pytest.mark.parametrize("aside", [False, True, None])
@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"customer_id": 999, "reasons": 1}, EntityNotFoundError),
        ({"features": {"tenure_months": -1}, "reasons": 1}, ValueRejectedError),
        ({"customer_id": 1, "reasons": 0}, ValueRejectedError),
    ],
)
def test_a_call_that_is_refused_gives_its_room_back(predictor, aside, asked, error):
    with pytest.raises(error):
        answer(predictor, asked, aside)
    assert has_all_its_room(predictor._explaining)


@pytest.mark.parametrize("aside", [False, True, None])
def test_a_store_that_fails_costs_no_room(predictor, tmp_path, aside):
    predictor.store = LmdbStore(tmp_path / "nothing", "tiny")
    with pytest.raises(OnlineStoreError, match="no online features"):
        answer(predictor, ASKED[0], aside)
    assert has_all_its_room(predictor._explaining)


@pytest.mark.parametrize("aside", [False, True, None])
def test_a_search_that_fails_costs_no_room(predictor, monkeypatch, aside):
    def broken(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Explainer, "explain", broken)
    with pytest.raises(MemoryError):
        answer(predictor, ASKED[0], aside)
    assert has_all_its_room(predictor._explaining)


# --- a large call ---------------------------------------------------------------------------------------------------

LARGE = [*ASKED[:2], *({"features": ROWS[i % len(ROWS)]} for i in range(300))]


async def with_one_thread(ask: Callable[[], Awaitable[None]]) -> None:
    """Have the event loop's threads be one, so that who holds it is seen."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    await ask()


async def nobody_is_held_up(admission: Admission) -> None:
    """Wait until nobody is a queue, and the one thread is free."""
    await until(lambda: admission.waiting == 0)
    async with asyncio.timeout(20):
        await asyncio.to_thread(int)


@asynccontextmanager
async def calling(predictor: Predictor, rules: Rules) -> AsyncIterator[tuple[asyncio.StreamReader, Any]]:
    """Serve over HTTP with the rules of a service; give a connection to it."""
    app, connection = Rest(predictor, None), type("Connection", (GuardedConnection,), {"rules": rules})  # type: ignore[arg-type]
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, http=connection, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await serving


@pytest.mark.parametrize("waits_for", ["store", "reasons"])
def test_over_http_a_large_call_that_waits_holds_no_thread_and_is_no_queue(predictor, store, tmp_path, waits_for):
    rules, body = Rules.of(Settings(home=tmp_path), CONTRACT), json.dumps({"rows": LARGE}).encode()
    assert len(body) > INLINE_BYTES

    async def ask() -> None:
        async with calling(predictor, rules) as (reader, writer):
            with held(predictor) as let:
                if waits_for == "store":
                    store.over_network = True
                    store.let.clear()
                try:
                    writer.write(request("/predict_many", body))
                    await until(lambda: store.asked == 1)
                    await nobody_is_held_up(rules.admission)
                finally:
                    store.let.set()
                let()
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.splitlines() if line.startswith(b"content-length"))
            answers = json.loads(await reader.readexactly(length))["predictions"]
            assert ["reasons" in answer for answer in answers] == [True, True] + [False] * 300

    asyncio.run(with_one_thread(ask))


def test_over_http_who_is_cut_off_keeps_room_until_the_reasons_are_found_and_no_longer(predictor, tmp_path):
    rules = Rules.of(Settings(home=tmp_path, api_request_seconds=0.1), CONTRACT)

    async def ask() -> None:
        async with calling(predictor, rules) as (reader, writer):
            with held(predictor):
                writer.write(request("/predict_many", json.dumps({"rows": ASKED}).encode()))
                await until(lambda: waiting_in_line(predictor) == MOST_ROWS)
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
                assert predictor._explaining._waiting == MOST_ROWS  # nobody tells a call of HTTP that it is given up
            await until(lambda: predictor._explaining._waiting == 0)

    asyncio.run(ask())
    assert has_all_its_room(predictor._explaining)


def infer(rows: int, reasons: int, outputs: tuple[str, ...] = ()) -> Any:
    """Return a request of the Open Inference Protocol."""
    keys = {"int64_contents": [i % len(ROWS) for i in range(rows)]}
    message = ModelInferRequest(model_name="tiny", outputs=[{"name": name} for name in outputs])
    message.inputs.add(name="customer_id", datatype="INT64", shape=[rows], contents=keys)
    message.parameters["reasons"].int64_param = reasons
    return message


def test_over_grpc_a_deadline_gives_the_room_back_and_a_waiting_call_is_no_queue(predictor, store):
    address, admission = f"127.0.0.1:{free_port()}", Admission(60)
    limits = Limits(KeyRing(None), admission, max_message_bytes=1 << 20, max_calls=100)
    sent, received = METHODS["ModelInfer"]

    async def ask() -> None:
        server = GrpcServer(OpenInference(predictor), address, limits, lambda: None)
        await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer", sent.SerializeToString, received.FromString)
            with held(predictor):
                with pytest.raises(grpc.aio.AioRpcError) as late:
                    await call(infer(MOST_ROWS, 1), timeout=0.3)
                assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                await until(lambda: predictor._explaining._waiting == 0)
                assert has_all_its_room(predictor._explaining)
                asked_before, waiting = store.asked, call(infer(MOST_ROWS, 1))
                await until(lambda: store.asked > asked_before)
                await nobody_is_held_up(admission)
            assert "reasons" in [output.name for output in (await waiting).outputs]
            many = await call(infer(2 * INLINE_ROWS, 1, ("decision",)))  # whose reasons nobody wants
            assert [output.name for output in many.outputs] == ["decision"]
        await server.stop()

    asyncio.run(with_one_thread(ask))
