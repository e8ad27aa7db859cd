"""Work in a thread: what comes of it, that it is over when its call is, and what admission makes of the wait."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from threading import Event, current_thread, main_thread

import pytest

from bento.guard.admission import until_it_waits
from bento.guard.threads import in_thread

CALLER = ContextVar("CALLER", default="nobody")


def tell(fails: bool = False) -> tuple[bool, str]:
    if fails:
        raise ValueError("it failed")
    return current_thread() is main_thread(), CALLER.get()


def test_work_is_done_in_a_thread_for_whoever_asks():
    async def ask() -> tuple[bool, str]:
        CALLER.set("somebody")
        return await in_thread(tell)

    assert asyncio.run(ask()) == (False, "somebody")
    with pytest.raises(ValueError, match="it failed"):
        asyncio.run(in_thread(tell, fails=True))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("times", [1, 3])
def test_who_is_cancelled_waits_until_the_thread_is_at_its_end(times, fails):
    begun, held, ended = Event(), Event(), Event()

    def work() -> None:
        begun.set()
        held.wait()
        ended.set()
        tell(fails)

    async def ask() -> None:
        task = asyncio.create_task(in_thread(work))
        await asyncio.to_thread(begun.wait)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.01)
        was_over = task.done()
        held.set()
        assert not was_over
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(ask(), debug=True)


def test_who_waits_for_a_thread_is_a_queue_until_it_waits_for_something_else():
    begun, held, seen = Event(), Event(), list[str]()

    def work() -> None:
        begun.set()
        held.wait()

    async def answer(elsewhere: asyncio.Event) -> str:
        await in_thread(work)
        seen.append("scored")
        await elsewhere.wait()
        seen.append("explained")
        return "answer"

    async def ask(done: Callable[[], None]) -> None:
        elsewhere = asyncio.Event()

        async def asked() -> str:
            return await until_it_waits(answer(elsewhere), done)

        task = asyncio.create_task(asked())
        await asyncio.to_thread(begun.wait)
        await asyncio.sleep(0.01)
        held.set()
        while "done" not in seen:
            await asyncio.sleep(0.001)
        assert not task.done()
        elsewhere.set()
        assert await task == "answer"

    asyncio.run(ask(lambda: seen.append("done")))
    assert seen == ["scored", "done", "explained"]


@pytest.mark.parametrize("fails", [False, True])
def test_an_answer_that_waits_for_nothing_but_a_thread_is_done_when_it_ends(fails):
    seen = list[str]()

    async def asked() -> object:
        return await until_it_waits(in_thread(tell, fails), lambda: seen.append("done"))

    (result,) = asyncio.run(_gathered(asked()))
    assert repr(result) == "ValueError('it failed')" if fails else result == (False, "nobody")
    assert seen == ["done"]


async def _gathered(asked) -> list[object]:
    return await asyncio.gather(asked, return_exceptions=True)
