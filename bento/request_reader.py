"""What a request asks for: whom it is about and which values it brings along, checked before anything is looked up."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from backends.vectors import Key, pack_key
from bento.schema import FEATURES, REASONS
from models.contract import Contract, Feature
from models.encoding import encode_rows
from models.errors import Problem, ValueRejectedError

NO_VALUES: Mapping[str, Any] = {}
FEW_REASONS = 3  # where a request says `true`


@dataclass(frozen=True, slots=True)
class Change:
    """A value, encoded, that takes the place of one that was looked up."""

    numeric: bool
    column: int
    value: Any


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a right form: whom it is about, and what it brings along."""

    row: int  # position in the call
    key: Key | None
    given: Mapping[str, Any]
    whole: bool  # whether nothing has to be looked up
    changes: list[Change]


class RequestReader:
    """Reads requests about one model."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._known = frozenset((contract.entity_key, FEATURES, REASONS))
        self._readers = {name: _reader(contract, name, feature) for name, feature in contract.features.items()}

    def read(self, row: int, request: Any) -> Asked:
        """Take a request apart and check all of it; `ValueRejectedError` for what does not fit the contract."""
        remedy = f"Send {self._contract.entity_key}, {FEATURES}, or both."
        check_form(request, self._known, remedy)
        key, given = request.get(self._contract.entity_key), request.get(FEATURES)
        if key is None and given is None:
            raise ValueRejectedError([Problem(self._contract.entity_key, None, "is missing", remedy)])
        if given is not None and not isinstance(given, dict):
            raise ValueRejectedError([Problem(FEATURES, given, "is not a JSON object", "Send values by feature name.")])
        if key is not None:
            pack_key(self._contract, key)
        if key is None or (given and self._contract.features.keys() <= given.keys()):
            return Asked(row, key, given or NO_VALUES, True, [])
        return Asked(row, key, given or NO_VALUES, False, self._changes(given) if given else [])

    def _changes(self, given: Mapping[str, Any]) -> list[Change]:
        """Read some features of a row, each by itself; every problem is named, not only the first."""
        changes, problems = [], []
        for name, value in given.items():
            try:
                changes.append(self._readers.get(name, self._unknown)({name: value}))
            except ValueRejectedError as error:
                problems += error.problems
        if problems:
            raise ValueRejectedError(problems)
        return changes

    def _unknown(self, given: Mapping[str, Any]) -> Change:
        remedy = f"Known: {', '.join(self._contract.features)}."
        raise ValueRejectedError([Problem(name, value, "is not a feature", remedy) for name, value in given.items()])


def check_form(request: Any, known: Set[str], remedy: str) -> None:
    """Check that a request is a JSON object of fields that are known; `ValueRejectedError` where it is not."""
    if not isinstance(request, dict):
        raise ValueRejectedError([Problem("request", request, "is not a JSON object", remedy)])
    if not request.keys() <= known:
        unknown = [name for name in request if name not in known]
        raise ValueRejectedError([Problem(name, request[name], "is not known here", remedy) for name in unknown])


def reasons_of(request: Mapping[str, Any]) -> int:
    """Return how many reasons a request asks for, 0 for none; `ValueRejectedError` for what is no number of them."""
    asked = request.get(REASONS)
    if asked is None or isinstance(asked, bool):
        return FEW_REASONS if asked else 0
    if isinstance(asked, int) and asked > 0:
        return asked
    remedy = f"Send how many, from 1, or true for {FEW_REASONS}; or leave it out."
    raise ValueRejectedError([Problem(REASONS, asked, "is not a number of reasons", remedy)])


def _reader(contract: Contract, name: str, feature: Feature) -> Callable[[Mapping[str, Any]], Change]:
    """Return what reads one feature's value by the one encoder, with a contract that has no other feature."""
    alone = Contract(**contract.model_dump(exclude={"features"}), features={name: feature})
    numeric = name in contract.numbers
    column = list(contract.numbers if numeric else contract.categories).index(name)

    def read(given: Mapping[str, Any]) -> Change:
        rows = encode_rows(alone, [given])
        return Change(numeric, column, (rows.numbers if numeric else rows.categories)[0, 0])

    return read
