"""A service with keys and narrow limits, as strangers, slow callers and attackers meet it."""

import json
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bento.guard.keys import new_key
from tests.bento.guard.raw_http import Answer, RawConnection, request
from tests.serving import free_port, running

MOST_BODY_BYTES = 100_000
MOST_CONNECTIONS = 20
ONE = b'{"customer_id": 1}'


@dataclass(frozen=True)
class Guarded:
    url: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"x-api-key": self.key}


@pytest.fixture(scope="module")
def guarded(served, tmp_path_factory) -> Iterator[Guarded]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    key, line = new_key("tests")
    file.write_text(f"# who may ask\n{line}\n")
    limits = {
        "api_keys_file": file,
        "api_max_body_bytes": MOST_BODY_BYTES,
        "api_max_connections": MOST_CONNECTIONS,
        "api_request_seconds": 3.0,  # a head must get here in time on a busy machine too
    }
    settings = served.settings.model_copy(update=limits)
    with running(served.bento, settings, free_port()) as url:
        yield Guarded(url, key)


@pytest.fixture
def connection(guarded) -> Iterator[RawConnection]:
    with RawConnection(guarded.url) as connection:
        yield connection


def refused(answer: Answer, status: int, kind: str, field: str) -> bool:
    """Whether an answer has a status and names a field and a remedy, in the form of all errors."""
    error = answer.json()["error"]
    (problem,) = error["fields"]
    assert (answer.status, error["status"], error["type"], problem["field"]) == (status, status, kind, field)
    return bool(problem["remedy"]) and problem["remedy"] in error["message"]


@pytest.mark.parametrize("path", ["/predict", "/predict_many", "/lineage", "/metrics", "/docs.json", "/", "/v2", "/no"])
@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": "Bearer"}])
def test_without_a_key_nothing_is_told(connection, path, headers):
    answer = connection.post(path, ONE, headers)
    assert refused(answer, 401, "KeyRefused", "Authorization")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert connection.is_closed()


def test_with_a_key_all_is_told(connection, guarded):
    for headers in (
        guarded.headers,
        {"Authorization": f"Bearer {guarded.key}"},
        {"authorization": f"bearer {guarded.key}"},
    ):
        assert connection.post("/predict", ONE, headers).json()["customer_id"] == 1
    connection.send(request("/lineage", headers=guarded.headers, method="GET"))
    assert connection.answer().json()["model"] == "tiny"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"])
def test_health_needs_no_key(connection, path):
    connection.send(request(path, method="GET"))
    assert connection.answer().status == 200


@pytest.mark.parametrize("path", ["//livez", "/livez/../predict", "/livez/", "/LIVEZ", "/livez%2f..%2fpredict"])
def test_no_other_spelling_is_taken_for_health(connection, path):
    assert connection.post(path, ONE).status == 401


def test_a_body_that_says_it_is_too_large_is_refused_unread(connection, guarded):
    connection.send(request("/predict", b"", {**guarded.headers, "content-length": str(MOST_BODY_BYTES + 1)}))
    assert refused(connection.answer(), 413, "BodyTooLarge", "request")
    assert connection.is_closed()


def test_a_body_without_a_length_is_refused_at_the_limit(connection, guarded):
    connection.send(request("/predict", b"", {**guarded.headers, "transfer-encoding": "chunked"}))
    chunk = b"2710\r\n" + b" " * 10_000 + b"\r\n"
    for _ in range(50):  # far more than the limit: the answer still arrives
        connection.send(chunk)
    assert refused(connection.answer(), 413, "BodyTooLarge", "request")


@pytest.mark.parametrize("length", [MOST_BODY_BYTES - 1, MOST_BODY_BYTES])
def test_a_body_up_to_the_limit_is_read(connection, guarded, length):
    assert connection.post("/predict", ONE.ljust(length), guarded.headers).json()["customer_id"] == 1


def test_a_body_in_many_parts_is_one(connection, guarded):
    head = request("/predict", b"", {**guarded.headers, "transfer-encoding": "chunked"})
    connection.send(head)
    for byte in ONE:
        connection.send(b"1\r\n", bytes([byte]), b"\r\n")
    connection.send(b"0\r\n\r\n")
    assert connection.answer().json()["customer_id"] == 1
    assert connection.post("/predict", ONE, guarded.headers).status == 200


def test_who_waits_to_be_told_to_continue_is_told_at_once(connection, guarded):
    headers = {**guarded.headers, "expect": "100-continue", "content-length": str(len(ONE))}
    connection.send(request("/predict", b"", headers))
    assert connection.answer().status == 100
    connection.send(ONE)
    assert connection.answer().status == 200


def test_who_is_not_allowed_is_not_told_to_continue(connection):
    connection.send(request("/predict", b"", {"expect": "100-continue", "content-length": "10"}))
    assert connection.answer().status == 401


def test_pipelined_requests_are_answered_in_order(connection, guarded):
    asked = [b'{"customer_id": %d}' % i for i in range(30)]
    connection.send(*(request("/predict", body, guarded.headers) for body in asked))
    assert [connection.answer().json()["customer_id"] for _ in asked] == list(range(30))


def test_the_last_of_pipelined_requests_may_be_refused(connection, guarded):
    good = request("/predict", ONE, guarded.headers)
    connection.send(good, good, request("/predict", ONE), good)
    assert [connection.answer().status for _ in range(3)] == [200, 200, 401]
    assert connection.is_closed()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"HELO mail\r\n\r\n",
        b"POST /predict HTTP/1.1\r\ncontent-length: nine\r\n\r\n",
        b"POST /predict HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",  # a smuggler
        b"POST /predict HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"GET http:// HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nbad header\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(connection, raw):
    connection.send(raw)
    assert refused(connection.answer(), 400, "NotHttp", "request")
    assert connection.is_closed()


def test_an_endless_head_is_cut_off(connection):
    connection.send(b"GET / HTTP/1.1\r\n")
    with pytest.raises(OSError, match=r".*"):  # noqa: PT012  the service stops to read
        for i in range(100_000):
            connection.send(b"x-%d: " % i, b"y" * 1000, b"\r\n")
    # what was unread resets the connection, so the answer may or may not arrive; the service goes on


@pytest.mark.parametrize("at_once", [1, 60], ids=["one by one", "most of them at once"])
def test_a_head_beyond_the_limit_is_refused(connection, at_once):
    lines = [b"x-%d: %s\r\n" % (i, b"y" * 1000) for i in range(70)]
    connection.send(b"GET / HTTP/1.1\r\n", *lines[:at_once])
    for line in lines[at_once:]:
        connection.send(line)
    assert refused(connection.answer(), 431, "HeadTooLarge", "headers")


def test_slow_callers_are_cut_off(guarded):
    head = request("/predict", b"{", {**guarded.headers, "content-length": "100000"})
    begun = [b"", b"POST /predict HT", b"POST /predict HTTP/1.1\r\nhost: tests\r\n", head]
    slow = [RawConnection(guarded.url) for _ in begun]
    try:
        for connection, start in zip(slow, begun, strict=True):
            connection.send(start)
        while not select.select([slow[-1].socket], [], [], 0.1)[0]:
            slow[-1].send(b" ")  # a body drop by drop: each of them is in time, all of them are not
        for connection in slow:
            assert refused(connection.answer(), 408, "TooSlow", "request")
            assert connection.is_closed()
    finally:
        for connection in slow:
            connection.socket.close()


def test_a_connection_too_many_is_refused_and_the_others_go_on(guarded):
    kept = [RawConnection(guarded.url) for _ in range(MOST_CONNECTIONS)]
    try:
        for connection in kept:
            assert connection.post("/predict", ONE, guarded.headers).status == 200
        with RawConnection(guarded.url) as surplus:
            answer = surplus.answer()
            assert refused(answer, 503, "TooManyConnections", "connection")
            assert answer.headers["retry-after"] == "1"
        assert kept[0].post("/predict", ONE, guarded.headers).status == 200
    finally:
        for connection in kept:
            connection.socket.close()
    deadline = time.monotonic() + 30
    while True:
        try:
            with RawConnection(guarded.url) as again:
                if again.post("/predict", ONE, guarded.headers).status == 200:
                    break
        except (EOFError, OSError):
            pass
        assert time.monotonic() < deadline


@pytest.mark.parametrize("body", [b"[" * 90_000, b'{"features": ' * 7_000, b'{"features": {"plan": ' + b"[" * 50_000])
def test_json_as_deep_as_it_may_be_long_is_refused(connection, guarded, body):
    answer = connection.post("/predict", body, guarded.headers)
    assert answer.status == 422
    assert json.loads(answer.body)["error"]["fields"][0]["field"] == "request"


def test_web_sockets_are_not_spoken(connection, guarded):
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13", "sec-websocket-key": "x"}
    connection.send(request("/predict", b"", {**guarded.headers, **upgrade}, method="GET"))
    assert connection.answer().status == 405
