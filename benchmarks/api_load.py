"""The load of `make bench-api`: requests at a constant rate, or one after the other, and how long each took.

At a rate, a request's time counts from when it was due, not from when a connection was free: a server that stalls
delays everything that falls due meanwhile, and all of it is counted (no coordinated omission). What is not answered by
the end counts too, with the time that it has waited so far. Without a rate, each connection sends its next request when
the last one is answered.

A process of its own, so that it never shares an interpreter with what it measures: each line that it reads is a `Plan`,
each line that it writes an `Outcome`, both as JSON. It knows no system: bodies come from a file, and a sample of the
answers goes back to be checked.
"""

import asyncio
import base64
import gc
import json
import os
import selectors
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import count
from pathlib import Path
from threading import Barrier
from typing import Any

from benchmarks.api_wires import OK, PATIENCE_SECONDS, UNANSWERED, Ask, Plan, connection, lane_of

GRACE_SECONDS = 2.0  # how long after the last one was due answers are waited for
SAMPLES = 100  # answers that go back, evenly spread


@dataclass
class Outcome:
    """What came of a plan.

    `waited_us` has the time of every request that was answered with success, or not at all until the end. `errors` are
    counted by status, or by what happened instead of an answer. `late_us` is how late the load itself was, for each
    request: sending is part of a request's time. `samples` are pairs of a body's number and its answer, in base64.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of the load itself
    answered: int = 0
    waited_us: list[int] = field(default_factory=list)
    late_us: list[int] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    samples: list[tuple[int, str]] = field(default_factory=list)

    def record(self, waited_ns: int, status: int | str) -> None:
        """Count one answer."""
        if status == OK:
            self.answered += 1
            self.waited_us.append(waited_ns // 1000)
        else:
            self.fail(str(status))

    def give_up(self, waited_ns: int) -> None:
        """Count a request that has no answer."""
        self.fail(UNANSWERED)
        self.waited_us.append(waited_ns // 1000)

    def fail(self, how: str, times: int = 1) -> None:
        """Count what was not answered with success."""
        self.errors[how] = self.errors.get(how, 0) + times


def run(plan: Plan) -> Outcome:
    """Carry a plan out. The collector rests meanwhile: its pauses would be taken for the server's."""
    bodies = _bodies(plan.bodies)
    gc.collect()
    gc.disable()
    cpu = time.process_time()
    try:
        if not plan.rate:
            outcome = _in_turn(plan, bodies)
        else:
            with asyncio.Runner(loop_factory=_exact_loop) as runner:
                outcome = runner.run(_at_a_rate(plan, bodies))
    finally:
        gc.enable()
    outcome.cpu_seconds = time.process_time() - cpu
    return outcome


@lru_cache(maxsize=16)
def _bodies(path: str) -> list[bytes]:
    return [base64.b64decode(line) for line in Path(path).read_bytes().splitlines()]


def write_bodies(path: Path, bodies: Sequence[bytes]) -> None:
    """Write what `Plan.bodies` names."""
    path.write_bytes(b"\n".join(base64.b64encode(body) for body in bodies))


def _exact_loop() -> asyncio.AbstractEventLoop:
    """Return a loop that wakes within some 50 us: epoll's and uvloop's timers are rounded up to a whole millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def _sampled(total: int) -> set[int]:
    return set(range(0, total, max(1, total // SAMPLES)))


# --- one after the other --------------------------------------------------------------------------------------------


def _in_turn(plan: Plan, bodies: Sequence[bytes]) -> Outcome:
    """Give each connection a thread that blocks on it: the least that a client can add."""
    outcome, numbers, opened = Outcome(), count(plan.first), Barrier(plan.connections)

    def work() -> Outcome:
        with connection(plan) as ask:
            opened.wait(PATIENCE_SECONDS)
            return _one_thread(ask, bodies, numbers, plan.seconds)

    with ThreadPoolExecutor(plan.connections) as threads:
        for future in [threads.submit(work) for _ in range(plan.connections)]:
            own = future.result()
            outcome.seconds = max(outcome.seconds, own.seconds)
            outcome.answered += own.answered
            outcome.waited_us += own.waited_us
            for how, times in own.errors.items():
                outcome.fail(how, times)
            outcome.samples += own.samples
    return outcome


def _one_thread(ask: Ask, bodies: Sequence[bytes], numbers: Iterator[int], seconds: float) -> Outcome:
    own, begun = Outcome(), time.perf_counter_ns()
    answers: deque[tuple[int, bytes]] = deque(maxlen=SAMPLES)
    now, end = begun, begun + round(seconds * 1e9)
    while now < end:
        number = next(numbers) % len(bodies)
        status, body = ask(bodies[number])
        own.record(time.perf_counter_ns() - now, status)
        if status == OK:
            answers.append((number, body))
        now = time.perf_counter_ns()
    own.seconds = (now - begun) / 1e9
    own.samples = [(number, base64.b64encode(body).decode()) for number, body in answers]
    return own


# --- at a rate ------------------------------------------------------------------------------------------------------


async def _at_a_rate(plan: Plan, bodies: Sequence[bytes]) -> Outcome:
    outcome, total, sampled = Outcome(), plan.requests, _sampled(plan.requests)
    due, waiting, done = [0] * total, set(range(total)), asyncio.Event()
    samples: list[tuple[int, bytes]] = []

    def answered(number: int, status: int | str, body: bytes) -> None:
        if number not in waiting:
            return  # it was given up
        outcome.record(time.perf_counter_ns() - due[number], status)
        waiting.remove(number)
        if number in sampled and status == OK:
            samples.append(((plan.first + number) % len(bodies), body))
        if not waiting:
            done.set()

    lane = lane_of(plan, answered)
    await lane.open()
    begun = time.perf_counter_ns() + 10_000_000
    due[:] = [begun + round(number * 1e9 / plan.rate) for number in range(total)]
    for number in range(total):
        while (early := due[number] - time.perf_counter_ns()) > 0:
            await asyncio.sleep(early / 1e9)
        outcome.late_us.append(-early // 1000)
        lane.send(number, bodies[(plan.first + number) % len(bodies)])
        if not number % 8:
            await asyncio.sleep(0)  # behind its time, the load still reads answers
    try:
        await asyncio.wait_for(done.wait(), GRACE_SECONDS)
    except TimeoutError:
        end = time.perf_counter_ns()
        for number in waiting:
            outcome.give_up(end - due[number])
        waiting.clear()
    outcome.seconds = (time.perf_counter_ns() - begun) / 1e9
    await lane.close()
    outcome.samples = [(number, base64.b64encode(body).decode()) for number, body in samples]
    return outcome


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print is no answer
    gc.freeze()
    for line in sys.stdin:
        plan: dict[str, Any] = json.loads(line)
        print(json.dumps(asdict(run(Plan(**plan)))), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
