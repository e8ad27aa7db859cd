"""Work in a thread, for what would keep the event loop from everybody else too long; admission knows of it.

Python runs one thread at a time: a thread keeps a service as busy as the loop would, only in slices.
"""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class InThread(asyncio.Future[None]):
    """What is waited for while a thread works."""


async def in_thread(
    work: Callable[Parameters, Result], *arguments: Parameters.args, **named: Parameters.kwargs
) -> Result:
    """Return what some work in a thread returns, while the event loop serves others.

    A thread cannot be stopped, so who is cancelled meanwhile waits for its end: nothing of a call goes on behind it.
    What no thread has begun by then is left out.
    """
    loop, run = asyncio.get_running_loop(), copy_context().run
    cancelled: asyncio.CancelledError | None = None

    def begin() -> Result | None:
        return run(work, *arguments, **named) if cancelled is None else None

    working = loop.run_in_executor(None, begin)
    try:
        while not working.done():
            ended = InThread(loop=loop)
            working.add_done_callback(partial(_end, ended))
            try:
                await ended
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            working.exception()  # nobody asks for it any more
            raise cancelled
        return cast(Result, working.result())
    finally:
        cancelled = None  # an error's traceback has this frame: they would keep each other
        del working


def _end(ended: InThread, _: Any) -> None:
    if not ended.done():
        ended.set_result(None)
