"""A small model of events for tests: card swipes with every measure of a history, also counted by brute force."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from models.contract import Contract, Events, HistoryFeature
from models.encoding import encode_arrow
from models.history import History, history_of, key_number, remembered

SECOND, HOUR, DAY = 1_000_000, 3_600_000_000, 86_400_000_000

FEATURES: dict[str, Any] = {
    "amount": {"kind": "number", "min": 0, "max": 50_000},
    "tip": {"kind": "number", "min": -10, "max": 10, "missing": True},
    "country": {"kind": "category", "values": ["de", "fr", "it"]},
    "channel": {"kind": "category", "values": ["shop", "web"], "missing": True},
    "swipes_1h": {"kind": "history", "measure": "count", "window": "1h"},
    "swipes_2d": {"kind": "history", "measure": "count", "window": "2d"},
    "spent_1d": {"kind": "history", "measure": "sum", "of": "amount", "window": "1d"},
    "mean_1d": {"kind": "history", "measure": "mean", "of": "amount", "window": "1d"},
    "tips_1d": {"kind": "history", "measure": "mean", "of": "tip", "window": "1d"},
    "tip_ratio": {"kind": "history", "measure": "ratio", "of": "tip", "window": "2d"},
    "amount_ratio": {"kind": "history", "measure": "ratio", "of": "amount", "window": "2d"},
    "countries": {"kind": "history", "measure": "distinct", "of": "country", "window": "2d"},
    "channels": {"kind": "history", "measure": "distinct", "of": "channel", "window": "1h"},
    "same_country": {"kind": "history", "measure": "same", "of": "country", "window": "2d"},
    "same_channel": {"kind": "history", "measure": "same", "of": "channel", "window": "1d"},
    "since_last": {"kind": "history", "measure": "since_last", "window": "1d"},
}


def event_contract(max_events: int = 512, key_type: str = "integer", **changes: Any) -> Contract:
    """Return the contract of the model."""
    fields: dict[str, Any] = {
        "model": "swipes",
        "entity_key": "card_id",
        "entity_key_type": "integer",
        "events": Events(key="swipe_id", key_type=key_type, time="swiped_at", max_events=max_events),
        "features": FEATURES,
        "decision_threshold": 0.5,
        "precision": "float32",
        "examples_table": "silver.swipes_features",
        "training_snapshot": "1",
    }
    return Contract(**(fields | changes))


def history(contract: Contract) -> History:
    """Return its history."""
    assert contract.events is not None
    return history_of(contract.features, contract.events)


def swipes(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return a table of events as the lake has them; `at` is in microseconds, what is left out is plain."""
    plain = {"card_id": 1, "at": 0, "amount": 1.0, "tip": None, "country": "de", "channel": "web"}
    full = [{"swipe_id": i, **plain, **row} for i, row in enumerate(rows)]
    types = {
        "swipe_id": pa.int64() if not full or isinstance(full[0]["swipe_id"], int) else pa.string(),
        "card_id": pa.int64(),
        "amount": pa.float64(),
        "tip": pa.float64(),
        "country": pa.string(),
        "channel": pa.string(),
    }
    columns = {name: pa.array([row[name] for row in full], dtype) for name, dtype in types.items()}
    at = pa.array([row["at"] for row in full], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    return pa.table({**columns, "swiped_at": at})


def random_swipes(count: int, seed: int = 0, cards: int = 5, days: float = 4, step: int = 1) -> pa.Table:
    """Return events of a few cards at random times, in no order; with a large `step` many are at the same time."""
    rng = np.random.default_rng(seed)
    at = rng.integers(0, int(days * DAY) // step, count) * step
    return swipes(
        [
            {
                "swipe_id": int(key),
                "card_id": int(rng.integers(cards)),
                "at": int(at[i]),
                "amount": float(np.round(rng.lognormal(3, 1), 2)),
                "tip": None if rng.random() < 0.3 else float(np.round(rng.normal(), 2)),
                "country": str(rng.choice(["de", "fr", "it", "elsewhere", "abroad"])),
                "channel": None if rng.random() < 0.2 else str(rng.choice(["shop", "web"])),
            }
            for i, key in enumerate(rng.permutation(count))
        ]
    )


def events_of(contract: Contract, table: pa.Table) -> Any:
    """Return the table's rows as they are remembered, in the table's order."""
    rows = encode_arrow(contract.asked, table)
    times = table["swiped_at"].combine_chunks().view(pa.int64()).to_numpy()
    keys = np.array([key_number(key) for key in table["swipe_id"].to_pylist()], np.int64)
    return remembered(history(contract), contract.asked, rows, times, keys)


# --- brute force: Python's own numbers, row after row, written without a look at the code under test ------------------


def by_hand(contract: Contract, table: pa.Table, ahead: bool = False) -> dict[Any, list[float]]:
    """Return each event's features by its key, from a loop over all pairs; `ahead` plants a look into the present."""
    assert contract.events is not None
    rows = table.to_pylist()
    for row, at in zip(rows, table["swiped_at"].combine_chunks().view(pa.int64()).to_pylist(), strict=True):
        row["at"] = at
    most, resolution = contract.events.max_events, contract.events.resolution
    found = {}
    for row in rows:
        others = [r for r in rows if r["card_id"] == row["card_id"]]
        earlier = [r for r in others if (r["at"] <= row["at"] if ahead else r["at"] < row["at"])]
        seen = [r for r in earlier if sum(e["at"] >= r["at"] for e in earlier) <= most]
        found[row["swipe_id"]] = [_value(f, row, seen, contract, resolution) for f in contract.history.values()]
    return found


def _value(feature: HistoryFeature, row: Any, seen: list[Any], contract: Contract, resolution: float) -> float:
    seen = [r for r in seen if r["at"] >= row["at"] - feature.microseconds]
    of = feature.of
    if feature.measure == "count":
        return len(seen)
    if feature.measure == "since_last":
        return (row["at"] - max(r["at"] for r in seen)) / 1e6 if seen else np.nan
    if feature.measure in ("distinct", "same"):
        vocabulary = contract.categories[of].values
        words = [r[of] if r[of] in vocabulary else "other" for r in seen if r[of] is not None]
        mine = row[of] if row[of] in vocabulary or row[of] is None else "other"
        return len(set(words)) if feature.measure == "distinct" else words.count(mine)
    whole = [round(float(np.float32(r[of])) / resolution) for r in seen if r[of] is not None]
    if feature.measure == "sum":
        return sum(whole) * resolution
    if feature.measure == "mean":
        return sum(whole) / len(whole) * resolution if whole else np.nan
    if row[of] is None or not sum(whole):
        return np.nan
    return round(float(np.float32(row[of])) / resolution) * len(whole) / sum(whole)


# --- a declaration, and what it reads -------------------------------------------------------------------------------

DECLARED: dict[str, Any] = {
    "name": "swipes",
    "entity_key": "card_id",
    "events": {"table": "silver.card_swipes", "key": "swipe_id", "time": "swiped_at"},
    "examples": {"label": "is_fraud", "split": {"method": "time", "test_months": 1}},
    "features": FEATURES,
    "decision_costs": {"missed": 20, "false_alarm": 1},
    "predictions": {"first_day": "2026-10-01"},
    "gates": {"max_score_shift": 100, "max_rejected_share": 0.2},
}


def labelled_swipes(count: int, first: date, days: int, seed: int = 0, cards: int = 60) -> pa.Table:
    """Return events from a day on; who swipes twice within two hours, or a thousand, is likely a fraud."""
    table = random_swipes(count, seed, cards, days)
    midnight = int(datetime.combine(first, datetime.min.time(), UTC).timestamp()) * SECOND
    at = table["swiped_at"].combine_chunks().view(pa.int64()).to_numpy() + midnight
    order = np.lexsort((at, table["card_id"].to_numpy()))
    soon = np.zeros(count, np.bool_)
    ordered, cards_in_order = at[order], table["card_id"].to_numpy()[order]
    soon[order[1:]] = (np.diff(ordered) < 2 * HOUR) & (np.diff(cards_in_order) == 0)
    large = table["amount"].to_numpy() > 60
    fraud = np.random.default_rng(seed).random(count) < 0.02 + 0.4 * soon + 0.4 * large
    stamps = pa.array(at).cast(pa.timestamp("us", tz="UTC"))
    return table.set_column(table.column_names.index("swiped_at"), "swiped_at", stamps).append_column(
        "is_fraud", pa.array(fraud)
    )
