"""Reasons for the answers that ask for them, row by row in a thread of its own: nobody else's answer waits for them.

What a request may ask is in `request_reader`, what a reason is in `models.reasons`.
"""

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np

from bento.observing.watch import Scored
from bento.schema import REASONS
from models.errors import ModelFileError, OverloadedError, Problem, ValueRejectedError
from models.reasons import Explainer
from models.scoring import Scorer

MOST_ROWS = 20  # of one call: a row takes as long as some thousand scores
MOST_WAITING = 100  # rows; who comes last waits for all of them, at most half a second

Counts = Mapping[int, int]  # how many reasons, by the row's position in the call
Outcomes = Mapping[int, Any]  # answers and errors, by the same
Begun = tuple[dict[str, Any], Future[dict[str, Any]]]  # an answer, and what it will say of its reasons


class Explaining:
    """Explains one model's answers. Safe to share between threads."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._lock = Lock()
        self._waiting = 0

    def reserve(self, asked: Counts) -> None:
        """Keep room for the rows of a call, before anything is looked up or recorded; `release` has to follow.

        Raises `ValueRejectedError` for too many rows and for a model without reference rows, `OverloadedError` while
        too many rows wait; nothing is kept then.
        """
        if len(asked) > MOST_ROWS:
            remedy = f"Ask for the reasons of at most {MOST_ROWS} rows in one call, and for the others without."
            raise ValueRejectedError([Problem(REASONS, len(asked), "are asked for in too many rows", remedy)])
        try:
            _ = self._explainer
        except ModelFileError as error:
            raise ValueRejectedError([Problem(REASONS, None, "cannot be given", str(error))]) from error
        with self._lock:
            if (waiting := self._waiting) + len(asked) <= MOST_WAITING:
                self._waiting += len(asked)
                return
        raise OverloadedError(f"{waiting} rows wait for their reasons. Try again, or ask without reasons.")

    def release(self, asked: Counts) -> None:
        """Give back what was kept for a call that is over, however it ended."""
        with self._lock:
            self._waiting -= len(asked)

    def add(self, asked: Counts, scored: Scored | None, outcomes: Outcomes) -> None:
        """Put reasons into the answers that asked for them; errors stay as they are."""
        with self._begun(asked, scored, outcomes) as begun:
            for answer, reasons in begun:
                answer |= reasons.result()

    async def add_async(self, asked: Counts, scored: Scored | None, outcomes: Outcomes) -> None:
        """Do as `add`, while the event loop serves others."""
        with self._begun(asked, scored, outcomes) as begun:
            for answer, reasons in begun:
                found = await asyncio.wrap_future(reasons)
                answer |= found

    @cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self._scorer)

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="reasons")

    @contextmanager
    def _begun(self, asked: Counts, scored: Scored | None, outcomes: Outcomes) -> Iterator[list[Begun]]:
        """Have the thread look for a call's reasons, row by row, as long as somebody waits for them."""
        begun: list[Begun] = []
        if scored is None:
            yield begun
            return
        try:
            for i, position in enumerate(scored.positions):
                if position in asked and isinstance(answer := outcomes[position], dict):
                    begun.append((answer, self._thread.submit(self._reasons, scored, i, asked[position])))
            yield begun
        finally:
            for _, reasons in begun:
                reasons.cancel()

    def _reasons(self, scored: Scored, i: int, count: int) -> dict[str, Any]:
        """Return what an answer says of its reasons: the values are those that were scored, sent or stored."""
        row = scored.rows[i : i + 1]
        (reasons,) = self._explainer.explain(row, np.array(scored.scores[i : i + 1], np.float32))
        values = self._explainer.values(row)
        return {
            "base_probability": reasons.base_probability,
            REASONS: [
                {"feature": name, "value": values[name], "contribution": contribution}
                for name, contribution in reasons.most(count)
            ],
        }
