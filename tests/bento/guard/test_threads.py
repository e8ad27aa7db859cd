"""Work in a thread: what comes of it, that it is over when its call is, and what admission makes of the wait."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from threading import Event, current_thread, main_thread
from typing import Any

import pytest

from bento.guard.admission import until_it_waits
from bento.guard.threads import in_thread

CALLER = ContextVar("CALLER", default="nobody")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.001)


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


def test_of_what_is_cancelled_only_what_was_begun_is_done():
    begun, held, done = Event(), Event(), list[int]()

    def work(number: int) -> None:
        begun.set()
        held.wait()
        done.append(number)

    async def ask() -> list[object]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        tasks = [asyncio.create_task(in_thread(work, number)) for number in range(4)]
        await until(begun.is_set)
        for task in tasks[:3]:
            task.cancel()
        await asyncio.sleep(0.01)
        held.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    *cancelled, last = asyncio.run(ask())
    assert [type(error) for error in cancelled] == [asyncio.CancelledError] * 3
    assert (done, last) == ([0, 3], None)


class Thing:
    """Something that a call has to do with."""


def tell_of(_: Thing, begun: Event, held: Event, fails: bool) -> None:
    begun.set()
    held.wait()
    tell(fails)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Let nothing be freed but what nobody holds."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(("cancelled", "fails"), [(True, False), (True, True), (False, True)])
@pytest.mark.usefixtures("uncollected")
def test_nothing_is_kept_of_a_call_that_has_failed(cancelled, fails):
    async def ask() -> object:
        thing, begun, held = Thing(), Event(), Event()
        task = asyncio.create_task(_admitted(in_thread(tell_of, thing, begun, held, fails)))
        await until(begun.is_set)
        if cancelled:
            task.cancel()
            await asyncio.sleep(0.01)
        held.set()
        (error,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(error, asyncio.CancelledError if cancelled else ValueError)
        return weakref.ref(thing)

    async def asked() -> bool:
        thing = await ask()
        await asyncio.to_thread(int)  # a thread keeps its last work until it has another
        return thing() is None

    assert asyncio.run(with_one_thread(asked))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.usefixtures("uncollected")
def test_nothing_is_kept_of_a_call_that_ended_while_it_waited(fails):
    def failing() -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        loop.call_soon((failure := loop.create_future()).set_exception, ValueError("it failed"))
        return failure

    async def answer(_: Thing) -> None:
        await (failing() if fails else asyncio.sleep(60))

    async def ask() -> object:
        thing = Thing()
        task = asyncio.create_task(_admitted(answer(thing)))
        await asyncio.sleep(0)
        if not fails:
            task.cancel()
        (error,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(error, ValueError if fails else asyncio.CancelledError)
        return weakref.ref(thing)

    async def asked() -> bool:
        thing = await ask()
        await asyncio.sleep(0.001)  # the loop keeps what it has gathered for a turn
        return thing() is None

    assert asyncio.run(asked())


async def _admitted(answer: Coroutine[Any, Any, object]) -> object:
    return await until_it_waits(answer, int)


async def with_one_thread(ask: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    return await ask()


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
