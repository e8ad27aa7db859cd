"""From a request to an answer, for every protocol that a service speaks. No web framework here."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from backends.online_store import OnlineStore
from backends.vectors import EventTimes, pack_key
from bento.lineage import Lineage
from models.contract import Contract
from models.encoding import Encoded, encode_rows
from models.errors import OnlineStoreError, Problem, ValueRejectedError
from models.scoring import Scorer

FEATURES = "features"
UNKNOWN_TIME = np.array(["NaT"], "datetime64[ms]")


class Predictor:
    """One model's scorer, online store and lineage. Safe to share between threads."""

    def __init__(self, scorer: Scorer, store: OnlineStore, lineage: Lineage) -> None:
        self.scorer = scorer
        self.contract = scorer.contract
        self.store = store
        self.lineage = lineage
        self._oldest = np.timedelta64(round(self.contract.api.max_feature_age_hours * 3_600_000), "ms")

    def warm_up(self) -> None:
        """Score one row of zeros, so that the first request finds everything allocated."""
        numbers = np.zeros((1, len(self.contract.numbers)), np.float32)
        self.scorer.score(Encoded(numbers, np.zeros((1, len(self.contract.categories)), np.int32)))

    def predict(self, request: Any) -> dict[str, Any]:
        """Score one request: `{<entity key>: ..., "features": {...}}`, either of them or both.

        With a key, features that the request leaves out come from the online store; without one, they are missing.
        Raises `ValueRejectedError` for what does not fit the contract, and what `OnlineStore.get` raises.
        """
        key, given = self._read(request)
        if key is None or self.contract.features.keys() <= given.keys():
            rows, event_times, stored = encode_rows(self.contract, [given]), UNKNOWN_TIME, False
        else:
            vectors = self.store.get(self.contract, key)
            rows, event_times, stored = _overridden(self.contract, vectors.rows, given), vectors.event_times, True
        return self._answer(key, rows, stored, event_times)

    def _read(self, request: Any) -> tuple[int | str | None, Mapping[str, Any]]:
        """Take a request apart and check everything but the features' values."""
        known = (self.contract.entity_key, FEATURES)
        remedy = f"Send {self.contract.entity_key}, features, or both."
        if not isinstance(request, dict):
            raise ValueRejectedError([Problem("request", request, "is not a JSON object", remedy)])
        unknown = [name for name in request if name not in known]
        if unknown:
            raise ValueRejectedError([Problem(name, request[name], "is not known here", remedy) for name in unknown])
        key, given = request.get(self.contract.entity_key), request.get(FEATURES)
        if key is None and given is None:
            raise ValueRejectedError([Problem(self.contract.entity_key, None, "is missing", remedy)])
        if given is not None and not isinstance(given, dict):
            raise ValueRejectedError([Problem(FEATURES, given, "is not a JSON object", "Send values by feature name.")])
        if key is not None:
            pack_key(self.contract, key)
        return key, given or {}

    def _answer(self, key: int | str | None, rows: Encoded, stored: bool, event_times: EventTimes) -> dict[str, Any]:
        stale = stored and not self._now() - event_times[0] <= self._oldest  # an unknown time is stale too
        as_of = None if np.isnat(event_times[0]) else np.datetime_as_string(event_times[0], timezone="UTC")
        if stale and self.contract.api.stale_features == "refuse":
            raise OnlineStoreError(
                f"The features of {self.contract.entity_key} {key!r} are as of {as_of}, older than "
                f"{self.contract.api.max_feature_age_hours:g} hours. Materialize {self.contract.model}/online_features."
            )
        scores = self.scorer.score(rows)
        return {
            **({} if key is None else {self.contract.entity_key: key}),
            "probability": float(scores[0]),  # a float64 holds every float32, and JSON every float64
            "decision": bool(self.scorer.decide(scores)[0]),
            "threshold": self.contract.decision_threshold,
            "model": self.contract.model,
            "model_version": self.lineage.version,
            "model_sha256": self.scorer.sha256,
            "features_as_of": as_of,
            "features_stale": bool(stale),
        }

    @staticmethod
    def _now() -> np.datetime64:
        return np.datetime64(time.time_ns() // 1_000_000, "ms")


def _overridden(contract: Contract, rows: Encoded, given: Mapping[str, Any]) -> Encoded:
    """Return the one stored row with the given features in place of the stored ones."""
    unknown = [name for name in given if name not in contract.features]
    if unknown:
        remedy = f"Known: {', '.join(contract.features)}."
        raise ValueRejectedError([Problem(name, given[name], "is not a feature", remedy) for name in unknown])
    if not given:
        return rows
    features = {name: feature for name, feature in contract.features.items() if name in given}
    part = Contract(**contract.model_dump(exclude={"features"}), features=features)
    encoded = encode_rows(part, [given])
    numbers, categories = rows.numbers.copy(), rows.categories.copy()
    numbers[:, [list(contract.numbers).index(name) for name in part.numbers]] = encoded.numbers
    categories[:, [list(contract.categories).index(name) for name in part.categories]] = encoded.categories
    return Encoded(numbers, categories)
