"""An entity's history: what is remembered of its events, and the features that are counted from them.

Both lanes count whole numbers and leave the only fractions to `finish`, so that they agree to the last bit:

    value = numerator / denominator * scale, in float64, then float32; a denominator of 0 is a missing value

The earlier events of an event at time t are those of its entity with t - window <= time < t, in whole microseconds:
neither the event itself nor others of its microsecond. Numbers are remembered as whole multiples of the resolution of
what the model reads (float32), so that sums are exact in any order; categories by their codes. A null is remembered as
one and not counted. Of more than `max_events` earlier events only the newest are looked at; those of one microsecond
are in or out together, so the order among them does not matter.

How SQL counts the same for a whole table is in `backends.history_windows`; where events are kept online, in the store.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from models.contract import CategoryFeature, Contract, Feature, HistoryFeature, HistoryLimits
from models.encoding import Encoded

MICROSECONDS = 1_000_000  # in a second
NO_UNITS = np.iinfo(np.int64).min  # a number that was null
NO_CODE = -1  # a category that was null

Events = npt.NDArray[Any]  # [events] of `History.dtype`, ascending by time
Integers = npt.NDArray[np.int64]
Times = npt.NDArray[np.int64]  # microseconds since 1970, UTC


@dataclass(frozen=True)
class History:
    """What a model wants to know of the past: the features, and what must be remembered for them."""

    features: Mapping[str, HistoryFeature]
    numbers: tuple[str, ...]  # features that are remembered as units
    categories: tuple[str, ...]  # and as codes
    limits: HistoryLimits

    @cached_property
    def longest(self) -> int:
        """The longest window, in microseconds; 0 without features."""
        return max((feature.microseconds for feature in self.features.values()), default=0)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """One remembered event, little-endian: time, key, units of each number, code of each category."""
        numbers, categories = (len(self.numbers),), (len(self.categories),)
        return np.dtype([("time", "<i8"), ("key", "<i8"), ("units", "<i8", numbers), ("codes", "<i4", categories)])

    @cached_property
    def scales(self) -> npt.NDArray[np.float64]:
        """What each feature's fraction is multiplied with."""
        sums = [feature.measure in ("sum", "mean") for feature in self.features.values()]
        return np.where(sums, self.limits.resolution, 1.0)


def history_of(features: Mapping[str, Feature], limits: HistoryLimits) -> History:
    """Return the history that features need, in their order."""
    counted = {name: feature for name, feature in features.items() if isinstance(feature, HistoryFeature)}
    measured = {feature.of for feature in counted.values()}
    known = {name: feature for name, feature in features.items() if name in measured}
    texts = tuple(name for name, feature in known.items() if isinstance(feature, CategoryFeature))
    return History(counted, tuple(name for name in known if name not in texts), texts, limits)


# --- remembering ----------------------------------------------------------------------------------------------------


def remembered(history: History, contract: Contract, rows: Encoded, times: Times, keys: Integers) -> Events:
    """Return the rows as events are remembered, in their order; `contract` is what they were encoded by."""
    events = np.empty(len(rows), history.dtype)
    events["time"], events["key"] = times, keys
    places = list(contract.numbers)
    for j, name in enumerate(history.numbers):
        events["units"][:, j] = units(rows.numbers[:, places.index(name)], history.limits.resolution)
    places = list(contract.categories)
    for j, name in enumerate(history.categories):
        place = places.index(name)
        codes, category = rows.categories[:, place], contract.categories[name]
        events["codes"][:, j] = np.where(codes == category.missing_code, NO_CODE, codes)
    return events


def units(values: npt.NDArray[np.float32], resolution: float) -> Integers:
    """Return float32 values as whole multiples of the resolution, rounded half to even; NaN is `NO_UNITS`."""
    multiples = np.rint(values.astype(np.float64) / resolution)
    with np.errstate(invalid="ignore"):
        return np.where(np.isnan(multiples), NO_UNITS, multiples.astype(np.int64))


def key_number(key: int | str) -> int:
    """Return the 64 bits by which an event's key is remembered: integers as they are, a digest of texts."""
    if isinstance(key, int):
        return key
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little", signed=True)


def with_event(history: History, events: Events, event: Events, reach: int = 0) -> Events:
    """Return the events with one more ([1] of `dtype`), without those that no later event looks at.

    One whose time and key are there already is not added again. At most `2 * max_events + 1` are left. Within that
    number a `reach`, in microseconds, keeps so much more of the past: for events that come late, or are asked again.
    """
    time, times = int(event["time"][0]), events["time"]
    begin, end = bisect_left(times, time), bisect_right(times, time)
    if begin < end and (events["key"][begin:end] == event["key"][0]).any():
        return events
    grown = np.empty(len(events) + 1, history.dtype)
    grown[:end], grown[end : end + 1], grown[end + 1 :] = events[:end], event, events[end:]
    return grown[kept(history, grown["time"], reach)]


def kept(history: History, times: Times, reach: int = 0) -> slice:
    """Return which of the ascending times are kept, see `with_event`; those of a microsecond are forgotten together."""
    newest, most = int(times[-1]), history.limits.max_events
    end = min(bisect_left(times, newest) + most + 1, len(times))
    first = _first_seen(times, newest, history.longest, most)
    if reach:
        spare = bisect_left(times, newest - history.longest - reach)
        too_many = end - (2 * most + 1)
        if too_many > 0:
            spare = max(spare, bisect_right(times, int(times[too_many - 1])))
        first = min(first, spare)
    return slice(first, end)


def pack(events: Events) -> bytes:
    """Return the events as the bytes that a store keeps."""
    return events.tobytes()


def unpack(history: History, data: bytes) -> Events:
    """Return the events that were packed, read-only; `ValueError` for bytes of another history."""
    return np.frombuffer(data, history.dtype)


def with_values(history: History, contract: Contract, rows: Encoded, values: npt.NDArray[np.float32]) -> Encoded:
    """Return rows of the whole contract from those of `contract.asked` and their history, float32 [rows, features]."""
    numbers = np.empty((len(rows), len(contract.numbers)), np.float32)
    places = {name: j for j, name in enumerate(contract.numbers)}
    numbers[:, [places[name] for name in contract.asked.numbers]] = rows.numbers
    numbers[:, [places[name] for name in history.features]] = values
    return Encoded(numbers, rows.categories)


# --- counting -------------------------------------------------------------------------------------------------------


def history_values(history: History, events: Events, event: Events) -> npt.NDArray[np.float32]:
    """Return the features of one event ([1] of `dtype`), float32 [features], from those that are remembered.

    Events that are not earlier are passed over, so the event itself may be among them.
    """
    past = _Past(history, events, event)
    fractions = [past.fraction(feature) for feature in history.features.values()]
    whole = np.array(fractions, np.int64).reshape(-1, 2)
    return finish(history, whole[:, 0], whole[:, 1])


def events_seen(history: History, events: Events, time: int) -> int:
    """Return how many of the events an event at a time looks at, in the longest window."""
    times = events["time"]
    return bisect_left(times, time) - _first_seen(times, time, history.longest, _most(history))


def reaches_back(history: History, events: Events, complete_since: int, time: int) -> bool:
    """Whether all that an event at a time looks at is there: of the entity's events since `complete_since`, all are."""
    return time - history.longest >= complete_since or bisect_left(events["time"], time) > _most(history)


def finish(history: History, numerators: Integers, denominators: Integers) -> npt.NDArray[np.float32]:
    """Return float32 [..., features] from what was counted, int64 of the same shape: both lanes' only fractions."""
    values = np.full(numerators.shape, np.nan)
    np.divide(numerators, denominators, out=values, where=denominators != 0)
    found: npt.NDArray[np.float32] = (values * history.scales).astype(np.float32)
    return found


class _Past:
    """What one event looks at: plain numbers, and each window and each column looked up once."""

    def __init__(self, history: History, events: Events, event: Events) -> None:
        self._history = history
        self._now, self._time = event[0], int(event["time"][0])
        self._end = bisect_left(events["time"], self._time)
        self._times = events["time"][: self._end].tolist()
        self._begins: dict[int, int] = {}
        units, codes = events["units"][: self._end].T, events["codes"][: self._end].T
        self._units = {name: units[j].tolist() for j, name in enumerate(history.numbers)}
        self._codes = {name: codes[j].tolist() for j, name in enumerate(history.categories)}

    def fraction(self, feature: HistoryFeature) -> Sequence[int]:
        """Return numerator and denominator of one feature."""
        measure, of, begin = feature.measure, feature.of or "", self._begin(feature.microseconds)
        if measure == "count":
            return self._end - begin, 1
        if measure == "since_last":
            return (self._time - self._times[-1], MICROSECONDS) if begin < self._end else (0, 0)
        if measure in ("distinct", "same"):
            codes = self._codes[of][begin:]
            if measure == "distinct":
                return len(set(codes) - {NO_CODE}), 1
            code = int(self._now["codes"][self._history.categories.index(of)])
            return 0 if code == NO_CODE else codes.count(code), 1
        amounts = [amount for amount in self._units[of][begin:] if amount != NO_UNITS]
        total, count = sum(amounts), len(amounts)
        if measure == "ratio":
            amount = int(self._now["units"][self._history.numbers.index(of)])
            return (0, 0) if amount == NO_UNITS else (amount * count, total)
        return total, count if measure == "mean" else 1

    def _begin(self, window: int) -> int:
        begin = self._begins.get(window)
        if begin is None:
            begin = _first_seen(self._times, self._time, window, _most(self._history))
            self._begins[window] = begin
        return begin


def _most(history: History) -> int:
    return history.limits.max_events


def _first_seen(times: Times | Sequence[int], now: int, window: int, most: int) -> int:
    """Return the position of the first of the ascending times that an event at `now` looks at."""
    end = bisect_left(times, now)
    begin = bisect_left(times, now - window)
    if end - begin > most:
        begin = max(begin, bisect_right(times, int(times[end - most - 1])))
    return begin
