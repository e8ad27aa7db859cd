"""The load counts what a caller would have waited, and everything that went wrong."""

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import grpc
import pytest

from benchmarks import api_load
from benchmarks.api_load import Outcome, run, write_bodies
from benchmarks.api_wires import LOST, UNANSWERED, Plan, http_answer

ECHO = "/tests.Echo/Say"
Answer = Callable[[int, bytes], bytes | None]  # a request's number and body -> what is sent; None closes


def answer_of(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def echo(_: int, body: bytes) -> bytes:
    return answer_of(body)


@contextmanager
def serving(answer: Answer) -> Iterator[int]:
    """Serve on one thread; requests are numbered in the order in which they come."""
    numbers, transports, ready, opened = count(), set(), threading.Event(), {}

    class Connection(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            transports.add(transport)

        def data_received(self, data):
            said = answer(next(numbers), data.partition(b"\r\n\r\n")[2])
            self.transport.close() if said is None else self.transport.write(said)

    async def serve() -> None:
        stop = asyncio.Event()
        opened.update(loop=asyncio.get_running_loop(), stop=stop)
        async with await opened["loop"].create_server(Connection, "127.0.0.1", 0) as server:
            opened["port"] = server.sockets[0].getsockname()[1]
            ready.set()
            await stop.wait()
            for transport in transports:
                transport.abort()

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    assert ready.wait(60)
    try:
        yield opened["port"]
    finally:
        opened["loop"].call_soon_threadsafe(opened["stop"].set)
        thread.join(60)


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    monkeypatch.setattr(api_load, "GRACE_SECONDS", 60)  # on a busy machine
    write_bodies(tmp_path / "bodies", [b"body %d\n" % i for i in range(7)])
    return Plan("http", 0, "/predict", str(tmp_path / "bodies"), rate=200, seconds=0.5, connections=16)


def test_a_stall_is_in_the_time_of_every_request_that_fell_due_meanwhile(plan):
    def stall_once(number: int, body: bytes) -> bytes:
        if number == 10:
            time.sleep(0.4)
        return answer_of(body)

    with serving(stall_once) as port:
        outcome = run(replace(plan, port=port, connections=2))
    assert outcome.answered == len(outcome.waited_us) == 100
    assert max(outcome.waited_us) >= 400_000
    # 80 fall due in 0.4 s, 40 of them at least 0.2 s before its end, though two connections could send only two.
    assert sum(waited >= 200_000 for waited in outcome.waited_us) >= 38
    assert len(outcome.late_us) == 100


@pytest.mark.parametrize("rate", [0, 200])
def test_errors_are_counted_by_status_and_have_no_time(plan, rate):
    with serving(lambda number, body: answer_of(body, 503 if number % 2 else 200)) as port:
        outcome = run(replace(plan, port=port, rate=rate, seconds=0.5, connections=1))
    assert outcome.errors.keys() == {"503"}
    assert outcome.answered == len(outcome.waited_us) > 0
    assert abs(outcome.answered - outcome.errors["503"]) <= 1


@pytest.mark.parametrize("rate", [0, 200])
def test_a_lost_connection_is_an_error_and_another_one_is_opened(plan, rate):
    with serving(lambda number, body: answer_of(body) if number != 3 else None) as port:
        outcome = run(replace(plan, port=port, rate=rate, seconds=1, connections=1))
    assert outcome.errors == {LOST: 1}
    assert outcome.answered > 3


def test_what_is_never_answered_counts_with_the_time_it_has_waited(plan, monkeypatch):
    monkeypatch.setattr(api_load, "GRACE_SECONDS", 0.2)
    with serving(lambda number, body: answer_of(body) if number < 5 else b"") as port:
        outcome = run(replace(plan, port=port, rate=100, seconds=0.2, connections=20))
    assert (outcome.answered, outcome.errors) == (5, {UNANSWERED: 15})
    assert len(outcome.waited_us) == 20
    assert sum(waited >= 200_000 for waited in outcome.waited_us) == 15
    assert outcome.seconds >= 0.2


@pytest.mark.parametrize("rate", [0, 100])
@pytest.mark.parametrize("connections", [1, 3])
def test_samples_name_the_body_that_was_answered(plan, rate, connections):
    with serving(echo) as port:
        outcome = run(replace(plan, port=port, rate=rate, seconds=0.2, connections=connections, first=5))
    assert_samples(outcome)


@pytest.fixture(scope="module")
def grpc_port() -> Iterator[int]:
    def say(body: bytes, context: grpc.ServicerContext) -> bytes:
        if body == b"body 6\n":
            context.abort(grpc.StatusCode.NOT_FOUND, "nobody")
        return body

    handler = grpc.method_handlers_generic_handler("tests.Echo", {"Say": grpc.unary_unary_rpc_method_handler(say)})
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(0).wait(60)


@pytest.mark.parametrize(("rate", "connections"), [(0, 1), (0, 3), (100, 1)])
def test_grpc_is_asked_in_the_same_way(plan, grpc_port, rate, connections):
    asked = replace(plan, protocol="grpc", port=grpc_port, target=ECHO, rate=rate, connections=connections, first=6)
    outcome = run(asked)
    assert_samples(outcome)
    assert outcome.errors.keys() == {"NOT_FOUND"}
    assert len(outcome.waited_us) == outcome.answered > 0


def assert_samples(outcome: Outcome) -> None:
    assert outcome.samples
    assert all(base64.b64decode(answer) == b"body %d\n" % number for number, answer in outcome.samples)


@pytest.mark.parametrize("cut", [1, 20, 60, -1])
def test_an_answer_is_read_when_it_is_whole(cut):
    whole = answer_of(b"0123456789" * 10)
    assert http_answer(whole[:cut]) is None
    assert http_answer(whole) == (200, b"0123456789" * 10)


def test_an_answer_without_a_length_is_refused():
    with pytest.raises(ValueError, match=r"(?s)without a Content-Length.*chunked"):
        http_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
