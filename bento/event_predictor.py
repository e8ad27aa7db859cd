"""From requests about events to answers: their features come with them, their histories from the store.

An event is checked, then looked up and recorded in one step, then scored: what is refused leaves no trace, and whoever
asks next about the same entity sees it.
"""

import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.histories import HistoryStore, Remembered, open_histories
from backends.online_store import open_store
from bento.event_reader import AskedEvent, EventReader, written
from bento.lineage import Lineage
from bento.observing.watch import Scored
from bento.predictor import Call, Predictor, iso
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

    @property
    def _over_network(self) -> bool:
        return self.histories.over_network

    def _ask(self, asked: _Swipes) -> list[Remembered]:
        return self.histories.fetch_and_append(asked.entities, asked.events, asked.record)

    def _ask_async(self, asked: _Swipes) -> Awaitable[list[Remembered]]:
        return self.histories.fetch_and_append_async(asked.entities, asked.events, asked.record)

    def _open(self, call: Call, requests: Sequence[Any], whole: bool) -> _Swipes | None:
        """Check and encode what can be asked; nothing when that is none, or with `whole` when anything is refused."""
        asked, now = [], time.time_ns() // 1000
        for row, request in enumerate(requests):
            try:
                asked.append(self._event_reader.read(row, request, now))
            except ValueRejectedError as error:
                call.refuse(row, error)
        asked, parts = self._encoded(call, asked)
        if reasons := {one.row: one.reasons for one in asked if one.reasons}:
            self._reserve(call, reasons)
        call.watch.mark("parse")
        if not asked or (whole and call.outcomes):
            return None
        rows = Encoded.joined(parts)
        times, numbers = np.array([one.at for one in asked]), np.array([one.number for one in asked])
        return _Swipes(asked, rows, remembered(self._history, self._asks_for, rows, times, numbers))

    def _close(self, call: Call, swipes: _Swipes | None, found: Any) -> None:
        """Count, score, and write the answers."""
        if swipes is None:
            return
        call.watch.mark("lookup")
        _happened_once(swipes.events, found)
        rows = self._counted(swipes, found)
        scores = self.scorer.score(rows)
        scored = self._scored(swipes, found, rows, scores.tolist(), self.scorer.decide(scores).tolist())
        call.watch.mark("score")
        call.watch.scored = scored
        refuse = self.contract.api.stale_features == "refuse"
        for i, (one, past) in enumerate(zip(swipes.asked, found, strict=True)):
            if scored.stale[i] and refuse:
                call.outcomes[one.row] = self._too_old(one.key, iso(scored.event_times[i]))
            else:
                call.outcomes[one.row] = self._written(one, past, scored, i)

    def _counted(self, swipes: _Swipes, found: list[Remembered]) -> Encoded:
        """Return rows of the whole contract: what was asked, and what is counted."""
        values = [history_values(self._history, p.events, swipes.events[i : i + 1]) for i, p in enumerate(found)]
        return with_values(self._history, self.contract, swipes.rows, np.stack(values))

    def _scored(
        self, swipes: _Swipes, found: list[Remembered], rows: Encoded, scores: list[float], decisions: list[bool]
    ) -> Scored:
        now = time.time_ns() // 1_000_000
        as_of = [past.until // 1000 for past in found]
        return Scored(
            [one.row for one in swipes.asked],
            swipes.entities,
            rows,
            as_of,
            [at < now - self._oldest for at in as_of],
            scores,
            decisions,
            now,
            [one.event for one in swipes.asked],
            swipes.events["time"].tolist(),
        )

    def _written(self, one: AskedEvent, past: Remembered, scored: Scored, i: int) -> dict[str, Any]:
        """Return one answer: which event, its score, and what of the past that is from."""
        assert self.contract.events is not None
        names, at = self.contract.events, scored.happened[i]
        answer: dict[str, Any] = {self.contract.entity_key: one.key}
        if one.event is not None:
            answer[names.key] = one.event
        answer[names.time] = written(at)
        answer["probability"] = scored.scores[i]
        answer["decision"] = scored.decisions[i]
        answer["features_as_of"] = iso(scored.event_times[i])
        answer["features_stale"] = scored.stale[i]
        answer["history_events"] = events_seen(self._history, past.events, at)
        answer["history_complete"] = reaches_back(self._history, past.events, past.complete_since, at)
        answer["known_entity"] = bool(len(past.events)) and int(past.events["time"][0]) < at
        return answer


def _happened_once(events: Events, found: list[Remembered]) -> None:
    """Give an event that is remembered already the time that it had."""
    for i, past in enumerate(found):
        known = past.events["key"] == events["key"][i]
        if known.any():
            events["time"][i] = past.events["time"][known][0]
