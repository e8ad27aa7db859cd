"""From requests about events to answers: their features come with them, their histories from the store.

An event is checked, then looked up and recorded in one step, then scored: what is refused leaves no trace, and whoever
asks next about the same entity sees it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.histories import HistoryStore, Remembered, open_histories
from backends.online_store import open_store
from bento.event_reader import AskedEvent, EventReader, written
from bento.lineage import Lineage
from bento.observing.watch import Scored, Watch
from bento.predictor import Call, Outcome, Predictor, iso
from models.encoding import Encoded
from models.errors import ValueRejectedError
from models.history import Events, events_seen, history_values, reaches_back, remembered, with_values
from models.scoring import Scorer


def predictor_of(scorer: Scorer, online: str, lineage: Lineage) -> Predictor:
    """Return what answers for a model of entities or of events, from the store at an address. Nothing is opened yet."""
    contract = scorer.contract
    if contract.events is None:
        return Predictor(scorer, open_store(online, contract.model), lineage)
    return EventPredictor(scorer, open_histories(online, contract), lineage)


@dataclass(frozen=True, slots=True)
class _Swipes:
    """Events that can be looked up: as they were asked, encoded, and as they are remembered."""

    asked: list[AskedEvent]
    rows: Encoded  # of `Contract.asked`
    events: Events

    @property
    def entities(self) -> list[Any]:
        """Whose they are."""
        return [one.key for one in self.asked]

    @property
    def record(self) -> list[bool]:
        """Which of them are to be recorded."""
        return [one.record for one in self.asked]


class EventPredictor(Predictor):
    """One model's scorer, histories and lineage. Safe to share between threads."""

    def __init__(self, scorer: Scorer, histories: HistoryStore, lineage: Lineage) -> None:
        self._begin(scorer, lineage)
        self.histories = histories
        self._history = histories.history
        self._event_reader = EventReader(scorer.contract)
        self._asks_for = scorer.contract.asked

    def online_facts(self) -> dict[str, str]:
        """See `Predictor`."""
        return self.histories.describe()

    def rehearse(self) -> None:
        """See `Predictor`. Nothing is recorded."""
        self.histories.describe()
        key = 0 if self.contract.entity_key_type == "integer" else "0"
        self.histories.fetch_and_append([key], np.zeros(1, self._history.dtype), [False])
        self.warm_up()

    def warm_up(self) -> None:
        """See `Predictor`."""
        super().warm_up()
        event = np.zeros(1, self._history.dtype)
        history_values(self._history, event, event)

    def _outcomes(self, requests: Sequence[Any], place: str, watch: Watch | None, whole: bool = False) -> list[Outcome]:
        call = Call(place, {}, [], [], watch or Watch())
        if swipes := self._read(call, requests, whole):
            self._answer(call, swipes, self.histories.fetch_and_append(swipes.entities, swipes.events, swipes.record))
        return [call.outcomes.get(row, {}) for row in range(len(requests))]

    async def _outcomes_async(
        self, requests: Sequence[Any], place: str, watch: Watch | None, whole: bool = False
    ) -> list[Outcome]:
        call = Call(place, {}, [], [], watch or Watch())
        if swipes := self._read(call, requests, whole):
            asked = self.histories.fetch_and_append_async(swipes.entities, swipes.events, swipes.record)
            self._answer(call, swipes, await asked)
        return [call.outcomes.get(row, {}) for row in range(len(requests))]

    def _read(self, call: Call, requests: Sequence[Any], whole: bool) -> _Swipes | None:
        """Check and encode what can be asked; nothing when that is none, or with `whole` when anything is refused."""
        asked = []
        for row, request in enumerate(requests):
            try:
                asked.append(self._event_reader.read(row, request))
            except ValueRejectedError as error:
                call.refuse(row, error)
        asked, parts = self._encoded(call, asked)
        call.watch.mark("parse")
        if not asked or (whole and call.outcomes):
            return None
        rows = Encoded.joined(parts)
        times, numbers = np.array([one.at for one in asked]), np.array([one.number for one in asked])
        return _Swipes(asked, rows, remembered(self._history, self._asks_for, rows, times, numbers))

    def _answer(self, call: Call, swipes: _Swipes, found: list[Remembered]) -> None:
        """Count, score, and write the answers."""
        call.watch.mark("lookup")
        events, contract = swipes.events, self.contract
        for i, past in enumerate(found):
            if (known := past.events["key"] == events["key"][i]).any():  # asked again: it happened when it did
                events["time"][i] = past.events["time"][known][0]
        values = [history_values(self._history, past.events, events[i : i + 1]) for i, past in enumerate(found)]
        rows = with_values(self._history, contract, swipes.rows, np.stack(values))
        scored = self.scorer.score(rows)
        scores, decisions = scored.tolist(), self.scorer.decide(scored).tolist()
        now = time.time_ns() // 1_000_000
        as_of = [past.until // 1000 for past in found]
        stales = [at < now - self._oldest for at in as_of]
        call.watch.mark("score")
        positions, times = [one.row for one in swipes.asked], events["time"].tolist()
        call.watch.scored = Scored(
            positions,
            swipes.entities,
            rows,
            as_of,
            stales,
            scores,
            decisions,
            now,
            [e.event for e in swipes.asked],
            times,
        )
        refuse = contract.api.stale_features == "refuse"
        for i, (one, past) in enumerate(zip(swipes.asked, found, strict=True)):
            if stales[i] and refuse:
                call.outcomes[one.row] = self._too_old(one.key, iso(as_of[i]))
                continue
            score = {"probability": scores[i], "decision": decisions[i]}
            score |= {"features_as_of": iso(as_of[i]), "features_stale": stales[i]}
            call.outcomes[one.row] = self._names(one, times[i]) | score | self._seen(past, times[i])

    def _names(self, one: AskedEvent, at: int) -> dict[str, Any]:
        assert self.contract.events is not None
        event = {} if one.event is None else {self.contract.events.key: one.event}
        return {self.contract.entity_key: one.key, **event, self.contract.events.time: written(at)}

    def _seen(self, past: Remembered, at: int) -> dict[str, Any]:
        """Say what of the past the score is from."""
        return {
            "history_events": events_seen(self._history, past.events, at),
            "history_complete": reaches_back(self._history, past.events, past.complete_since, at),
            "known_entity": bool(len(past.events)) and int(past.events["time"][0]) < at,
        }
