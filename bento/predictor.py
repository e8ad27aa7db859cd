"""From requests to answers, for every protocol that a service speaks. No web framework here.

One row and many go the same way: read each request, one trip to the store, one call of the scorer, one answer a row.
"""

import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np

from backends.online_store import OnlineStore, Vectors
from backends.vectors import NOT_A_TIME, Key
from bento.explaining import Explaining
from bento.guard.threads import in_thread
from bento.lineage import Lineage
from bento.observing.watch import Scored, Watch
from bento.request_reader import Asked, RequestReader, reasons_of
from bento.schema import REASONS
from models.encoding import Encoded, encode_rows
from models.errors import (
    EntityNotFoundError,
    OnlineStoreError,
    Problem,
    StoreMismatchError,
    TandemError,
    ValueRejectedError,
)
from models.scoring import Scorer

UNKNOWN = [NOT_A_TIME]

Outcome = dict[str, Any] | TandemError


class HasFeatures(Protocol):
    """A request that brings features along, whatever else it asks."""

    @property
    def row(self) -> int:
        """Position in the call."""

    @property
    def given(self) -> Mapping[str, Any]:
        """Values by feature name."""


Brought = TypeVar("Brought", bound=HasFeatures)


@dataclass(frozen=True, slots=True)
class Call:
    """One call on its way: what is answered already, and what is not."""

    place: str
    outcomes: dict[int, Outcome]
    looked_up: list[Asked]
    brought: list[Asked]
    watch: Watch
    reasons: dict[int, int] = field(default_factory=dict)  # how many, for the rows for which room is kept

    @property
    def keys(self) -> list[Key]:
        """Whom the store is asked for."""
        return [asked.key for asked in self.looked_up if asked.key is not None]

    def refuse(self, row: int, error: ValueRejectedError) -> None:
        """Put an error in a row's place, with that place behind the names of its fields."""
        at = self.place.format(row)
        placed = [Problem(p.field + at, p.value, p.message, p.remedy) for p in error.problems] if at else []
        self.outcomes[row] = ValueRejectedError(placed) if at else error


@dataclass(frozen=True, slots=True)
class _Ready:
    """Rows that can be scored, and when their features were true."""

    asked: list[Asked]
    rows: Encoded
    event_times: list[int]  # milliseconds since 1970 UTC; `NOT_A_TIME` when unknown, and for features that were sent


class Predictor:
    """One model's scorer, online store and lineage. Safe to share between threads."""

    def __init__(self, scorer: Scorer, store: OnlineStore, lineage: Lineage) -> None:
        self._begin(scorer, lineage)
        self.store = store
        self._reader = RequestReader(self.contract)

    def _begin(self, scorer: Scorer, lineage: Lineage) -> None:
        self.scorer = scorer
        self.contract = scorer.contract
        self.lineage = lineage
        self.facts: dict[str, Any] = {
            "threshold": self.contract.decision_threshold,
            "model": self.contract.model,
            "model_version": lineage.version,
            "model_sha256": scorer.sha256,
        }
        self._oldest = round(self.contract.api.max_feature_age_hours * 3_600_000)  # milliseconds
        self._asks_for = self.contract  # what a request may bring
        self._explaining = Explaining(scorer)

    def online_facts(self) -> dict[str, str]:
        """Return where the online features come from; `OnlineStoreError` when there are none."""
        return self.store.describe()

    def warm_up(self) -> None:
        """Score one row of zeros, so that the first request finds everything allocated."""
        numbers = np.zeros((1, len(self.contract.numbers)), np.float32)
        self.scorer.score(Encoded(numbers, np.zeros((1, len(self.contract.categories)), np.int32)))

    def rehearse(self) -> None:
        """Go the way that a key's request goes: ask the store, score a row. `OnlineStoreError` when it is not open.

        Whether anybody has the key that is asked for does not matter.
        """
        packed_for = self.online_facts().get("contract_fingerprint")
        if packed_for not in (None, self.contract.fingerprint.hex()):
            model = self.contract.model
            raise StoreMismatchError(
                f"The online features of {model} were packed for contract {packed_for}, but the model has contract "
                f"{self.contract.fingerprint.hex()}. Materialize {model}/online_features."
            )
        self.store.get_many(self.contract, [0 if self.contract.entity_key_type == "integer" else "0"])
        self.warm_up()

    def predict(self, request: Any, watch: Watch | None = None) -> dict[str, Any]:
        """Score one request: `{<entity key>: ..., "features": {...}}`, either of them or both.

        With a key, features that the request leaves out come from the online store; without one, they are missing.
        Raises `ValueRejectedError` for what does not fit the contract, `EntityNotFoundError` for a key that the store
        has not, `OnlineStoreError` for features too old, and what `OnlineStore.get_many` raises.
        """
        return self._only(self._outcomes([request], "", watch))

    async def predict_async(self, request: Any, watch: Watch | None = None, aside: bool = False) -> dict[str, Any]:
        """Do as `predict`, while the event loop serves others when the store has to wait for a network.

        With `aside` all but the search for reasons is done in a thread: for what would keep the loop busy for long.
        """
        return self._only(await self._outcomes_async([request], "", watch, aside=aside))

    def predict_many(self, requests: Sequence[Any], watch: Watch | None = None, whole: bool = False) -> list[Outcome]:
        """Score requests as `predict` does; what it would raise for one of them stands in that one's place.

        With `whole`, one that is refused before the store is asked keeps all of them from it.
        Fields in those errors have `[row]` behind their names. Raises `ValueRejectedError` when there are no requests
        or more than the contract's `api.batch_limit`, and `OnlineStoreError` when a row needs a store that cannot
        answer.
        """
        outcomes = self.predict_rows(requests, watch, whole)
        return [o if isinstance(o, TandemError) else o | self.facts for o in outcomes]

    def predict_rows(self, requests: Sequence[Any], watch: Watch | None = None, whole: bool = False) -> list[Outcome]:
        """Do as `predict_many`, but leave out of each answer what is the same for all of them, `facts`."""
        self._check_number(requests)
        return self._outcomes(requests, "[{}]", watch, whole)

    async def predict_rows_async(
        self, requests: Sequence[Any], watch: Watch | None = None, whole: bool = False, aside: bool = False
    ) -> list[Outcome]:
        """Do as `predict_rows`, in the way of `predict_async`."""
        self._check_number(requests)
        return await self._outcomes_async(requests, "[{}]", watch, whole, aside)

    def _check_number(self, requests: Sequence[Any]) -> None:
        limit = self.contract.api.batch_limit
        if not 0 < len(requests) <= limit:
            problem = Problem(
                "rows", len(requests), "is not a number of rows that is taken", f"Send 1 to {limit} rows."
            )
            raise ValueRejectedError([problem])

    def _only(self, outcomes: list[Outcome]) -> dict[str, Any]:
        (outcome,) = outcomes
        if isinstance(outcome, TandemError):
            raise outcome
        return outcome | self.facts

    def _outcomes(self, requests: Sequence[Any], place: str, watch: Watch | None, whole: bool = False) -> list[Outcome]:
        """Answer each request; `place` says how a row's number is written behind a field's name."""
        call = Call(place, {}, [], [], watch or Watch())
        try:
            self._answer(call, requests, whole)
            if call.reasons:
                self._explaining.add(call.reasons, call.watch.scored, call.outcomes)
                call.watch.mark("explain")
            return [call.outcomes.get(row, {}) for row in range(len(requests))]
        finally:
            if call.reasons:
                self._explaining.release(call.reasons)

    async def _outcomes_async(
        self, requests: Sequence[Any], place: str, watch: Watch | None, whole: bool = False, aside: bool = False
    ) -> list[Outcome]:
        call = Call(place, {}, [], [], watch or Watch())
        try:
            await self._answer_async(call, requests, whole, aside)
            if call.reasons:
                await self._explaining.add_async(call.reasons, call.watch.scored, call.outcomes)
                call.watch.mark("explain")
            return [call.outcomes.get(row, {}) for row in range(len(requests))]
        finally:
            if call.reasons:
                self._explaining.release(call.reasons)

    def _answer(self, call: Call, requests: Sequence[Any], whole: bool) -> None:
        """Answer each request, but for reasons."""
        asked = self._open(call, requests, whole)
        self._close(call, asked, self._ask(asked) if asked else None)

    async def _answer_async(self, call: Call, requests: Sequence[Any], whole: bool, aside: bool) -> None:
        """Do as `_answer`. No thread waits for a network: it would keep others from it, and pass for a busy one."""
        if not aside:
            asked = self._open(call, requests, whole)
            self._close(call, asked, await self._ask_async(asked) if asked else None)
        elif self._over_network:
            asked = await in_thread(self._open, call, requests, whole)
            found = await self._ask_async(asked) if asked else None
            await in_thread(self._close, call, asked, found)
        else:
            await in_thread(self._answer, call, requests, whole)

    @property
    def _over_network(self) -> bool:
        return self.store.over_network

    def _ask(self, asked: Any) -> Any:
        """Ask the store for what `_open` has returned."""
        return self.store.get_many(self.contract, asked)

    def _ask_async(self, asked: Any) -> Awaitable[Any]:
        return self.store.get_many_async(self.contract, asked)

    def _open(self, call: Call, requests: Sequence[Any], whole: bool) -> Any:  # noqa: ARG002
        """Read requests as far as possible without the store; return what it is to be asked for, if anything.

        A store that is only read loses nothing, whatever `whole` says.
        """
        reasons: dict[int, int] = {}
        for row, request in enumerate(requests):
            try:
                asked = self._reader.read(row, request)
                if len(request) > 1 and REASONS in request and (count := reasons_of(request)):
                    reasons[row] = count
            except ValueRejectedError as error:
                call.refuse(row, error)
            else:
                (call.brought if asked.whole else call.looked_up).append(asked)
        if reasons:
            self._reserve(call, reasons)
        call.watch.mark("parse")
        return call.keys

    def _reserve(self, call: Call, reasons: Mapping[int, int]) -> None:
        """Keep room for a call's reasons; from now on it has some to give back."""
        self._explaining.reserve(reasons)
        call.reasons.update(reasons)

    def _close(self, call: Call, asked: Any, vectors: Any) -> None:  # noqa: ARG002
        """Answer what is not answered yet, now that the store has said what there is."""
        if vectors is not None:
            call.watch.mark("lookup")
        brought, parts = self._encoded(call, call.brought)
        found: list[Asked] = []
        times: list[int] = []
        if vectors is not None:
            found = self._found(call, vectors)
            times = vectors.event_times.astype(np.int64).tolist()
            parts.insert(0, _changed(vectors.rows, found))
        if found or brought:
            self._score(call, _Ready(found + brought, Encoded.joined(parts), times + UNKNOWN * len(brought)))

    def _encoded(self, call: Call, asked: list[Brought]) -> tuple[list[Brought], list[Encoded]]:
        """Encode rows that bring all features, as many at once as fit the contract; return those that do."""
        if not asked:
            return [], []
        try:
            return asked, [encode_rows(self._asks_for, [one.given for one in asked])]
        except ValueRejectedError as error:
            if len(asked) == 1:
                call.refuse(asked[0].row, error)
                return [], []
        half = len(asked) // 2
        (left, left_rows), (right, right_rows) = self._encoded(call, asked[:half]), self._encoded(call, asked[half:])
        return left + right, left_rows + right_rows

    def _found(self, call: Call, vectors: Vectors) -> list[Asked]:
        """Return who is in the store, in the order of the vectors."""
        if not vectors.missing:
            return call.looked_up
        gone = set(vectors.missing)
        for i in gone:
            asked = call.looked_up[i]
            call.outcomes[asked.row] = self._not_found(asked, call.place)
        return [asked for i, asked in enumerate(call.looked_up) if i not in gone]

    def _score(self, call: Call, ready: _Ready) -> None:
        """Answer the rows that are ready."""
        scored = self.scorer.score(ready.rows)
        scores, decisions = scored.tolist(), self.scorer.decide(scored).tolist()
        now = time.time_ns() // 1_000_000
        oldest = now - self._oldest  # an unknown time is the smallest number
        stales = [time < oldest and not one.whole for one, time in zip(ready.asked, ready.event_times, strict=True)]
        call.watch.mark("score")
        positions, keys = [one.row for one in ready.asked], [one.key for one in ready.asked]
        call.watch.scored = Scored(positions, keys, ready.rows, ready.event_times, stales, scores, decisions, now)
        refuse = self.contract.api.stale_features == "refuse"
        for one, score, decision, event_time, stale in zip(
            ready.asked, scores, decisions, ready.event_times, stales, strict=True
        ):
            as_of = None if event_time == NOT_A_TIME else iso(event_time)
            if stale and refuse:
                call.outcomes[one.row] = self._too_old(one.key, as_of)
                continue
            answer: dict[str, Any] = {} if one.key is None else {self.contract.entity_key: one.key}
            answer["probability"] = score  # a float64 holds every float32, and JSON every float64
            answer["decision"] = decision
            answer["features_as_of"] = as_of
            answer["features_stale"] = stale
            call.outcomes[one.row] = answer

    def _not_found(self, asked: Asked, place: str) -> EntityNotFoundError:
        name, model = self.contract.entity_key, self.contract.model
        remedy = (
            f"Check the key; a new entity gets its features when {model}/online_features is next materialized, or send "
            "them in the request."
        )
        problem = Problem(name + place.format(asked.row), asked.key, "has no online features", remedy)
        return EntityNotFoundError(f"No online features for {name} {asked.key!r}. {remedy}", [problem])

    def _too_old(self, key: Key | None, as_of: str | None) -> OnlineStoreError:
        return OnlineStoreError(
            f"The features of {self.contract.entity_key} {key!r} are as of {as_of}, older than "
            f"{self.contract.api.max_feature_age_hours:g} hours. Materialize {self.contract.model}/online_features."
        )


@lru_cache(maxsize=4096)
def iso(event_time: int) -> str:
    """Return milliseconds since 1970 as UTC in ISO 8601; customers of one night often share their time."""
    return str(np.datetime_as_string(np.datetime64(event_time, "ms"), timezone="UTC"))


def _changed(rows: Encoded, asked: Sequence[Asked]) -> Encoded:
    """Return rows from the store with the values that requests have in place of theirs."""
    if not any(one.changes for one in asked):
        return rows
    numbers, categories = rows.numbers.copy(), rows.categories.copy()
    for i, one in enumerate(asked):
        for change in one.changes:
            (numbers if change.numeric else categories)[i, change.column] = change.value
    return Encoded(numbers, categories)
