"""What a request about an event asks for: who did it, which event it is, when, and its features; all of it checked."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from backends.vectors import MAX_KEY_BYTES, Key, pack_key
from bento.request_reader import NO_VALUES, check_form, reasons_of
from bento.schema import FEATURES, REASONS, RECORD
from models.contract import Contract
from models.errors import Problem, ValueRejectedError
from models.history import key_number

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
EARLIEST = (datetime(2000, 1, 1, tzinfo=UTC) - EPOCH) // MICROSECOND  # before, it is most likely another unit
AHEAD = 300_000_000  # microseconds that a caller's clock may be ahead: a later event would push the history out
TOO_FINE = re.compile(r"[.,]\d{7}")


@dataclass(frozen=True, slots=True)
class AskedEvent:
    """One request of a right form."""

    row: int  # position in the call
    key: Key  # the entity
    event: Key | None  # the event's key, if the request has one
    number: int  # by which it is remembered: without a key, one that nobody has
    at: int  # microseconds since 1970 UTC
    given: Mapping[str, Any]  # features
    record: bool
    reasons: int = 0  # how many are asked for


class EventReader:
    """Reads requests about one model of events."""

    def __init__(self, contract: Contract) -> None:
        assert contract.events is not None
        self._contract = contract
        self._events = contract.events
        fields = (contract.entity_key, contract.events.key, contract.events.time, FEATURES, RECORD, REASONS)
        self._known = frozenset(fields)
        beside = ", ".join((*fields[1:3], RECORD, REASONS))
        self._remedy = f"Send {contract.entity_key} and {FEATURES}; known beside them: {beside}."

    def read(self, row: int, request: Any, now: int) -> AskedEvent:
        """Take a request apart, and check all but its features; `ValueRejectedError` for what is wrong with it.

        `now` is in microseconds since 1970. Without a time it happens now, each row a microsecond after the one before.
        """
        check_form(request, self._known, self._remedy)
        problems: list[Problem] = []
        key, event = request.get(self._contract.entity_key), request.get(self._events.key)
        self._check_entity(key, problems)
        self._check_event(event, problems)
        at = self._time(request.get(self._events.time), now, row, problems)
        given, record = request.get(FEATURES), request.get(RECORD, True)
        if given is not None and not isinstance(given, dict):
            problems.append(Problem(FEATURES, given, "is not a JSON object", "Send values by feature name."))
        if not isinstance(record, bool):
            problems.append(Problem(RECORD, record, "is not true or false", "Leave it out, or send false to only ask."))
        reasons = self._reasons(request, problems) if REASONS in request else 0
        if problems or key is None:
            raise ValueRejectedError(problems)
        number = secrets.randbits(64) - 2**63 if event is None else key_number(event)
        return AskedEvent(row, key, event, number, at, given or NO_VALUES, record, reasons)

    def _check_entity(self, key: Any, problems: list[Problem]) -> None:
        if key is None:
            remedy = "Say who it is about: whose history counts."
            problems.append(Problem(self._contract.entity_key, None, "is missing", remedy))
            return
        try:
            pack_key(self._contract, key)
        except ValueRejectedError as error:
            problems += error.problems

    def _check_event(self, event: Any, problems: list[Problem]) -> None:
        if event is None:
            return
        if self._events.key_type == "string":
            fits, what = isinstance(event, str) and 0 < _bytes(event) <= MAX_KEY_BYTES, "such a text as keys are"
            remedy = f"Give a text of 1 to {MAX_KEY_BYTES} bytes in UTF-8."
        else:
            fits, what = type(event) is int and -(2**63) <= event < 2**63, "a 64-bit integer"
            remedy = "Give a whole number."
        if not fits:
            problems.append(Problem(self._events.key, event, f"is not {what}", remedy))

    def _reasons(self, request: Mapping[str, Any], problems: list[Problem]) -> int:
        try:
            return reasons_of(request)
        except ValueRejectedError as error:
            problems += error.problems
            return 0

    def _time(self, value: Any, now: int, row: int, problems: list[Problem]) -> int:
        """Return microseconds since 1970 UTC."""
        if value is None:
            return now + row
        name, at = self._events.time, _microseconds(value)
        if at is None:
            remedy = "Give a time in ISO 8601 like 2026-11-28T10:00:00.123456Z, or whole microseconds since 1970."
            problems.append(Problem(name, value, "is not a time of at most microseconds", remedy))
            return now
        if not EARLIEST <= at <= now + AHEAD:
            remedy = "Give the time when it happened: not before 2000, and at most five minutes from now."
            problems.append(Problem(name, value, "is too long ago" if at < EARLIEST else "is in the future", remedy))
        return at


def _bytes(text: str) -> int:
    """Return how many bytes a text has in UTF-8; 0 when it has none that can be written."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return 0


def _microseconds(value: Any) -> int | None:
    """Read a time, which is UTC unless it says otherwise; None for what is none, or a date alone."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or len(value) < len("2026-11-28T10:00") or TOO_FINE.search(value):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return ((at if at.tzinfo else at.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND


def written(at: int) -> str:
    """Return microseconds since 1970 as UTC in ISO 8601."""
    return (EPOCH + at * MICROSECOND).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
