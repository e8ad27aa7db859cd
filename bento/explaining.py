"""Reasons for the answers that ask for them, row by row in a thread of its own: nobody else's answer waits for them.

What a request may ask is in `request_reader`, what a reason is in `models.reasons`.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np

from bento.observing.watch import Scored
from bento.schema import REASONS
from models.errors import ModelFileError, OverloadedError, Problem, ValueRejectedError
from models.reasons import Explainer, values_of
from models.scoring import Scorer

MOST_ROWS = 20  # of one call: a row takes as long as some thousand scores
MOST_WAITING = 100  # rows; who comes last waits for all of them, at most half a second

Counts = Mapping[int, int]  # how many reasons, by the row's position in the call
Outcomes = Mapping[int, Any]  # answers and errors, by the same


class Explaining:
    """Explains one model's answers. Safe to share between threads."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._lock = Lock()
        self._waiting = 0

    def check(self, asked: Counts) -> None:
        """Refuse a call whose reasons cannot be given, before anything is looked up or recorded.

        Raises `ValueRejectedError` for too many rows and for a model without reference rows, `OverloadedError` while
        too many rows wait.
        """
        if len(asked) > MOST_ROWS:
            remedy = f"Ask for the reasons of at most {MOST_ROWS} rows in one call, and for the others without."
            raise ValueRejectedError([Problem(REASONS, len(asked), "are asked for in too many rows", remedy)])
        try:
            _ = self._explainer
        except ModelFileError as error:
            raise ValueRejectedError([Problem(REASONS, None, "cannot be given", str(error))]) from error
        if self._waiting + len(asked) > MOST_WAITING:
            raise OverloadedError(f"{self._waiting} rows wait for their reasons. Try again, or ask without reasons.")

    def add(self, asked: Counts, scored: Scored | None, outcomes: Outcomes) -> None:
        """Put reasons into the answers that asked for them; errors stay as they are."""
        self._begun(asked, scored, outcomes).result()

    async def add_async(self, asked: Counts, scored: Scored | None, outcomes: Outcomes) -> None:
        """Do as `add`, while the event loop serves others."""
        await asyncio.wrap_future(self._begun(asked, scored, outcomes))

    @cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self._scorer)

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="reasons")

    def _begun(self, asked: Counts, scored: Scored | None, outcomes: Outcomes) -> "Future[None]":
        self._count(len(asked))
        work = self._thread.submit(self._add, asked, scored, outcomes)
        work.add_done_callback(lambda _: self._count(-len(asked)))
        return work

    def _count(self, rows: int) -> None:
        with self._lock:
            self._waiting += rows

    def _add(self, asked: Counts, scored: Scored | None, outcomes: Outcomes) -> None:
        for i, position in enumerate(scored.positions if scored else ()):
            answer = outcomes[position]
            if scored and position in asked and isinstance(answer, dict):
                answer |= self._reasons(scored, i, asked[position])

    def _reasons(self, scored: Scored, i: int, count: int) -> dict[str, Any]:
        """Return what an answer says of its reasons: the values are those that were scored, sent or stored."""
        row, contract = scored.rows[i : i + 1], self._scorer.contract
        (reasons,) = self._explainer.explain(row, np.array(scored.scores[i : i + 1], np.float32))
        values = values_of(contract, row)
        return {
            "base_probability": reasons.base_probability,
            REASONS: [
                {"feature": name, "value": values[name], "contribution": contribution}
                for name, contribution in reasons.most(count)
            ],
        }
