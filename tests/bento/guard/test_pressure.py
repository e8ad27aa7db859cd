"""More requests than a service can take: the surplus is refused at once, the others are answered, and nothing stays."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import psutil
import pytest

from models.encoding import encode_rows
from models.scoring import Scorer
from tests.bento.guard.raw_http import Answer, RawConnection, request
from tests.serving import free_port, running

CALLERS = (
    200  # each sends its next request at once: far more at a time than can be answered in the time that is allowed
)
SECONDS = 3.0
MORE_MEMORY = 60 << 20


@dataclass
class Seen:
    """What the callers were answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)
    scores: dict[int, set[float]] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)


@pytest.fixture(scope="module")
def url(served) -> Iterator[str]:
    """A service that lets nobody wait: how fast this machine is does not matter."""
    settings = served.settings.model_copy(update={"api_longest_wait_ms": 1.0})
    with running(served.bento, settings, free_port()) as url:
        yield url


def worker_on(url: str) -> psutil.Process:
    """Return the process that answers at an address."""
    port = url.rpartition(":")[2]
    (supervisor,) = [child for child in psutil.Process(os.getpid()).children() if port in child.cmdline()]
    (worker,) = supervisor.children()
    return worker


async def call(url: str, customer: int, until: float, seen: Seen) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    body = json.dumps({"customer_id": customer}).encode()
    asked = request("/predict", body)
    try:
        while asyncio.get_running_loop().time() < until:
            writer.write(asked)
            answer = await read(reader)
            seen.statuses[answer.status] += 1
            if answer.status == 200:
                seen.scores.setdefault(customer, set()).add(answer.json()["probability"])
            else:
                seen.kinds.add(answer.kind)
                seen.headers.append(dict(answer.headers))
    finally:
        writer.close()
        await writer.wait_closed()


async def read(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    length = int(headers.get("content-length", "-1"))
    return Answer(int(head[0].split()[1]), headers, await (reader.read() if length < 0 else reader.readexactly(length)))


async def overload(url: str, seen: Seen) -> None:
    until = asyncio.get_running_loop().time() + SECONDS
    await asyncio.gather(*(call(url, customer % 150, until, seen) for customer in range(CALLERS)))


def test_an_overload_is_refused_in_part_and_leaves_nothing_behind(served, url):
    worker = worker_on(url)
    before, seen = worker.memory_info().rss, Seen()
    asyncio.run(overload(url, seen))  # no connection is lost: that would raise

    assert set(seen.statuses) == {200, 503}
    assert seen.kinds == {"Overloaded"}
    assert all(headers["retry-after"] == "1" for headers in seen.headers)
    assert {customer: len(scores) for customer, scores in seen.scores.items()} == dict.fromkeys(seen.scores, 1)
    customers = sorted(seen.scores)
    expected = Scorer(served.onnx).score(encode_rows(served.contract, [served.rows[i] for i in customers]))
    np.testing.assert_array_equal(np.float32([seen.scores[i].copy().pop() for i in customers]), expected)
    assert len(customers) > 100  # whoever asks often enough is taken

    assert worker.memory_info().rss - before < MORE_MEMORY
    with RawConnection(url) as connection:
        assert {connection.post("/predict", b'{"customer_id": 7}').status for _ in range(50)} == {200}


def test_under_pressure_health_is_still_told(url):
    statuses: list[int] = []

    async def watch_an_overload() -> None:
        flood = asyncio.ensure_future(overload(url, Seen()))
        while not flood.done():
            answers = [await get(url, path) for path in ("/livez", "/readyz", "/metrics")]
            statuses.extend(answer.status for answer in answers)
        await flood

    asyncio.run(watch_an_overload())
    assert len(statuses) >= 3
    assert set(statuses) == {200}


async def get(url: str, path: str) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(request(path, method="GET", headers={"connection": "close"}))
    answer = await read(reader)
    writer.close()
    await writer.wait_closed()
    return answer
