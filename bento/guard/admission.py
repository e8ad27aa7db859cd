"""Whether a request is answered or refused at once: a queue that is bounded in time, not in places.

One event loop does all the work of a service, so whoever is taken waits for all that were taken before. When they are
too many, refusing the surplus keeps the others within their budget; answering everyone late helps nobody.
"""

import random
import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from bento.guard.threads import InThread

PATIENCE = 0.1  # seconds after which it is no burst any more; the interval of CoDel (RFC 8289)
PAUSE = 0.002  # seconds; a loop that had nothing to do for so long is not overloaded at the moment
SHARE = 0.05  # of a new measurement in the mean
FEW = 8  # requests at a time that are no overload, however slow the machine is

Answer = TypeVar("Answer")


class Admission:
    """Counts who was taken and is not done, and measures how long each of them takes.

    A burst is answered whole, as far as that takes no longer than `PATIENCE`. When a queue has been standing for so
    long, and until there was none for as long, only as many are taken as can be answered within `longest_wait` seconds.
    Those are drawn by lot: sockets are read in an order that favours whoever sends most.
    """

    def __init__(
        self,
        longest_wait: float,
        clock: Callable[[], float] = time.monotonic,
        lot: Callable[[], float] = random.random,
    ) -> None:
        self._longest_wait = longest_wait
        self._clock = clock
        self._lot = lot
        self._seconds_each = 0.0005
        self._last_done = self._busy_since = self._last_queue = clock()
        self._queue_since: float | None = None
        self._refused_while_busy = 0
        self._taken_while_busy = 0
        self._chance = 1.0
        self._room = longest_wait  # seconds of work, in one turn of the loop, for those who are taken
        self.waiting = 0
        self.refused = 0

    def take(self) -> bool:
        """Take a request, which must be followed by `done`; False when it is to be refused."""
        now = self._clock()
        if not self.waiting:
            if now - self._last_done > PAUSE:
                self._chance = 1.0  # those who were refused before do not come now
            self._busy_since = self._last_done = now
        elif self._is_too_late(now):
            self.refused += 1
            self._refused_while_busy += 1
            return False
        self.waiting += 1
        self._taken_while_busy += 1
        return True

    def done(self) -> None:
        """Say that a request that was taken is answered, or gone."""
        now = self._clock()
        took = min(now - self._last_done, 2 * self._seconds_each)  # one long pause of the machine says little
        self._seconds_each += SHARE * (took - self._seconds_each)
        self._last_done = now
        self.waiting -= 1
        if not self.waiting:
            self._look_back(now)

    def _is_too_late(self, now: float) -> bool:
        wait = self.waiting * self._seconds_each
        if self._queue_since is None or now - self._queue_since <= PATIENCE:
            return self.waiting >= FEW and wait > PATIENCE
        return wait > 2 * self._room or self._lot() >= self._chance

    def _look_back(self, now: float) -> None:
        """Decide, when all that were taken are done, whether that was a queue and which share could have been taken."""
        came = self._taken_while_busy + self._refused_while_busy
        took = now - self._busy_since
        refusing = took - self._taken_while_busy * self._seconds_each  # reading and refusing the others took this
        self._room = max(self._longest_wait - refusing, FEW * self._seconds_each)
        if came > FEW and (took > self._longest_wait or came * self._seconds_each > self._room):
            self._last_queue = now
            if self._queue_since is None:
                self._queue_since = self._busy_since
        elif now - self._last_queue > PATIENCE:
            self._queue_since = None
        self._chance = min(1.0, self._room / (came * self._seconds_each))
        self._taken_while_busy = self._refused_while_busy = 0


@types.coroutine
def until_it_waits(answer: Coroutine[Any, Any, Answer], done: Callable[[], None]) -> Generator[Any, Any, Answer]:
    """Await an answer, and call `done` when it first waits for something elsewhere, like a store, or ends.

    Whoever waits there keeps no loop busy, and is no queue; who waits for a thread here does, and is.
    """
    counted, step, given, waits_for = True, answer.send, None, None
    try:
        while True:
            waits_for = step(given)
            if counted and not isinstance(waits_for, InThread):
                counted = False
                done()
            try:
                step, given = answer.send, (yield waits_for)
            except BaseException as error:  # noqa: BLE001  # a cancellation is the answer's own business
                step, given = answer.throw, error
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        del step, given, waits_for  # an error's traceback has this frame: they would keep each other
        if counted:
            done()
