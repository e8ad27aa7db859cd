"""Who is taken and who is refused, in a loop whose clock stands still unless it works."""

import asyncio
import random

import pytest

from bento.guard.admission import FEW, PATIENCE, Admission, until_it_waits

EACH = 0.0005  # seconds of work for an answer
REFUSAL = 0.00004
LONGEST_WAIT = 0.006


class Loop:
    """An event loop's turns: what has arrived is read and taken or refused, then the taken are answered."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.admission = Admission(LONGEST_WAIT, lambda: self.now, random.Random(7).random)

    def turn(self, callers: int, work: float = EACH) -> list[bool]:
        """Return for each caller, in the order of reading, whether it was taken."""
        taken = []
        for _ in range(callers):
            taken.append(self.admission.take())
            self.now += 0 if taken[-1] else REFUSAL
        for _ in range(sum(taken)):
            self.now += work
            self.admission.done()
        assert self.admission.waiting == 0
        return taken

    def run(self, rate: float, seconds: float) -> tuple[list[list[bool]], list[float]]:
        """Let callers arrive at a rate; return who was taken in each turn, and how long each turn took."""
        end, turns, lengths, owed = self.now + seconds, [], [], 1.0
        while self.now < end:
            began = self.now
            turns.append(self.turn(int(owed)))
            self.now += 0.00005
            lengths.append(self.now - began)
            owed = owed - int(owed) + rate * lengths[-1]
        return turns, lengths


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_nobody_is_refused_below_the_limit(loop):
    turns, _ = loop.run(rate=0.9 / EACH, seconds=5)
    assert all(all(taken) for taken in turns)


def test_a_few_callers_are_never_refused_however_slow_it_is(loop):
    for _ in range(1000):
        assert all(loop.turn(FEW, work=0.1))


def test_a_burst_is_answered_whole(loop):
    for _ in range(3):
        assert all(loop.turn(int(PATIENCE / EACH)))
        loop.now += 1  # it is quiet again
        assert all(loop.turn(1))


def test_a_burst_beyond_all_patience_is_cut(loop):
    taken = loop.turn(1000)
    assert taken.count(False) > 500
    assert taken.index(False) >= PATIENCE / EACH


@pytest.mark.parametrize("times", [1.5, 3, 6])
def test_a_standing_queue_is_kept_short_and_the_surplus_is_refused(loop, times):
    loop.run(times / EACH, seconds=4 * PATIENCE)
    turns, lengths = loop.run(times / EACH, seconds=5)
    assert max(lengths) < 4 * LONGEST_WAIT
    assert sorted(lengths)[len(lengths) // 2] < 1.5 * LONGEST_WAIT
    assert sum(sum(taken) for taken in turns) > 0.3 * 5 / EACH


def test_who_is_read_last_has_the_same_chance(loop):
    loop.run(3 / EACH, seconds=1)
    turns, _ = loop.run(3 / EACH, seconds=20)
    first = sum(taken[1] for taken in turns if len(taken) > 3)  # the very first is always taken: nobody waits then
    last = sum(taken[-1] for taken in turns if len(taken) > 3)
    assert 0.8 < last / first < 1.25


def test_after_an_overload_everybody_is_taken_at_once(loop):
    loop.run(3 / EACH, seconds=2)
    loop.now += 0.005
    for _ in range(100):
        assert all(loop.turn(3))
        loop.now += 0.002
    assert all(loop.turn(int(PATIENCE / EACH / 2)))  # and a burst is a burst again


def test_one_long_request_does_not_make_the_next_ones_wait_for_their_turn(loop):
    loop.run(0.5 / EACH, seconds=1)
    loop.turn(1, work=0.3)
    turns, _ = loop.run(0.5 / EACH, seconds=1)
    assert all(all(taken) for taken in turns)


def test_who_waits_for_a_store_is_no_queue():
    came, left = [], []

    async def answer(number: int) -> int:
        came.append(number)
        await asyncio.sleep(0)  # the store
        if number == 3:
            raise ValueError(number)
        return number

    async def asked(number: int) -> int:
        return await until_it_waits(answer(number), lambda: left.append(len(came)))

    async def ask_all() -> list[object]:
        return await asyncio.gather(*map(asked, range(5)), return_exceptions=True)

    *_, failed, last = asyncio.run(ask_all())
    assert (repr(failed), last) == ("ValueError(3)", 4)
    assert left == [1, 2, 3, 4, 5]  # each as soon as it waited, once


def test_an_answer_that_is_cancelled_while_it_waits_is_told_so():
    seen = []

    async def answer() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def asked() -> None:
        await until_it_waits(answer(), lambda: seen.append("done"))

    async def give_up() -> None:
        task = asyncio.create_task(asked())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert seen == ["done", "cancelled"]


def test_an_answer_that_never_waits_is_done_when_it_ends():
    seen = []

    async def answer() -> str:
        seen.append("answered")
        return "it"

    async def asked() -> str:
        return await until_it_waits(answer(), lambda: seen.append("done"))

    assert asyncio.run(asked()) == "it"
    assert seen == ["answered", "done"]


def test_the_refused_are_counted(loop):
    turns, _ = loop.run(3 / EACH, seconds=2)
    assert loop.admission.refused == sum(taken.count(False) for taken in turns) > 0
