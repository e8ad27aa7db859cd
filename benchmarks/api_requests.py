"""What `make bench-api` asks: bodies in files, and what a right answer to each of them says.

Customers are asked for again and again. A swipe is asked about once, since its answer adds it to its card's history:
so every point gets swipes that nobody has asked about, and each is later than all before it. How a body is written in
each protocol is in `api_systems`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from backends.histories import HistoryStore
from benchmarks.api_load import write_bodies
from models.contract import Contract
from models.encoding import encode_rows
from models.errors import TandemError
from models.history import Events, history_of, history_values, reaches_back, remembered, with_values
from models.scoring import Scorer

FIRST_KEY = 8_000_000_000  # of the events that are asked about; those of the lake are below
HOT, HOT_CARD, HOT_EVERY = 4, 60_000_000, 50  # so many cards have one of so many swipes: their histories are full
NEW_CARD, NEW_EVERY = 90_000_000, 100  # and one of so many swipes is of a card that nobody has seen
IN_FLIGHT = 1000  # requests that may have been answered in another order than they were sent in
MOST_UNSURE = 6  # of one card's swipes among them: every part of them may have been seen


class Requests(Protocol):
    """What a server is asked."""

    def bodies(self, first: int, count: int) -> tuple[str, int]:
        """Return a file of bodies for at least `count` requests from the number `first` on, and where they begin."""

    def right(self, place: int) -> Sequence[float]:
        """Return what may be answered to the body at a place of that file; nothing where it cannot be known."""


class Repeated:
    """The same bodies in turn, each with its one right score."""

    def __init__(self, path: str, scores: Sequence[float] = ()) -> None:
        self._path, self._scores = path, scores

    def bodies(self, first: int, count: int) -> tuple[str, int]:  # noqa: ARG002
        """See `Requests`."""
        return self._path, first

    def right(self, place: int) -> Sequence[float]:
        """See `Requests`."""
        return [self._scores[place]]


class Swipe(NamedTuple):
    """One event: whose it is, its key, when it happened in microseconds since 1970, and its features."""

    entity: int
    key: int
    at: int
    features: Mapping[str, Any]


class Swipes:
    """Swipes by number: those of a pool with new keys, `step` microseconds after each other from `begin` on.

    Cards are those of the pool, as often as they are in it, apart from a few that are hot, and some that are new.
    """

    def __init__(self, contract: Contract, pool: Sequence[Mapping[str, Any]], begin: int, step: int) -> None:
        assert contract.events is not None
        self.contract, self.begin = contract, begin
        self.history = history_of(contract.features, contract.events)
        self._pool, self._step = pool, step

    def __getitem__(self, number: int) -> Swipe:
        """Return a swipe."""
        row = self._pool[number % len(self._pool)]
        features = {name: row[name] for name in self.contract.asked.features}
        return Swipe(self._entity(number, row), FIRST_KEY + number, self.begin + number * self._step, features)

    def hot(self, card: int, number: int) -> Swipe:
        """Return a swipe of a hot card, as it was before `begin`; its key is below all that are asked about."""
        key = FIRST_KEY - 1 - (number * HOT + card)
        return self[number]._replace(entity=HOT_CARD + card, key=key, at=self.begin - 1)

    def _entity(self, number: int, row: Mapping[str, Any]) -> int:
        if number % NEW_EVERY == 0:
            return NEW_CARD + number
        turn, place = divmod(number, HOT_EVERY)
        return HOT_CARD + turn % HOT if place == HOT_EVERY // 2 else int(row[self.contract.entity_key])

    def remembered(self, swipe: Swipe) -> Events:
        """Return a swipe as it is remembered."""
        rows = encode_rows(self.contract.asked, [swipe.features])
        return remembered(self.history, self.contract.asked, rows, np.array([swipe.at]), np.array([swipe.key]))


class AskedOnce:
    """New swipes for everyone who asks; what is right is counted from the history that the store has afterwards."""

    def __init__(
        self, swipes: Swipes, store: HistoryStore, scorer: Scorer, write: Callable[[Swipe], bytes], path: Path
    ) -> None:
        self._swipes, self._store, self._scorer = swipes, store, scorer
        self._write, self._path = write, path
        self._first, self._file = 0, path

    def bodies(self, first: int, count: int) -> tuple[str, int]:
        """See `Requests`. The file before is removed: it is hardly ever written to the disk, which others wait for."""
        with suppress(FileNotFoundError):
            self._file.unlink()
        self._first, self._file = first, self._path.with_name(f"{self._path.name}.{first}")
        write_bodies(self._file, [self._write(self._swipes[first + i]) for i in range(count)])
        return str(self._file), 0

    def right(self, place: int) -> Sequence[float]:
        """See `Requests`. Of one card's swipes in flight at the same time, the later need not have seen the earlier.

        A request waits long on a connection that is only being opened, while others pass it.
        """
        swipe = self._swipes[self._first + place]
        event = self._swipes.remembered(swipe)
        (past,) = self._store.fetch_and_append([swipe.entity], event, [False])
        if swipe.key not in past.events["key"]:
            raise TandemError(f"Event {swipe.key} of {swipe.entity} was answered, but its history does not have it.")
        if not reaches_back(self._swipes.history, past.events, past.complete_since, swipe.at):
            return []
        earlier = past.events[past.events["time"] < swipe.at]
        unsure = np.flatnonzero(earlier["key"] >= max(FIRST_KEY, swipe.key - IN_FLIGHT)).tolist()
        if len(unsure) > MOST_UNSURE:
            return []
        parts = (part for size in range(len(unsure) + 1) for part in combinations(unsure, size))
        return [self._score(swipe, event, np.delete(earlier, part)) for part in parts]

    def _score(self, swipe: Swipe, event: Events, earlier: Events) -> float:
        rows = encode_rows(self._swipes.contract.asked, [swipe.features])
        values = history_values(self._swipes.history, earlier, event)[None]
        return float(self._scorer.score(with_values(self._swipes.history, self._swipes.contract, rows, values))[0])
