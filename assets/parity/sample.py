"""Which rows are asked again: some of the newest night, drawn by its snapshot's id, with the features it scored."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from backends.gold_tables import PARTITION
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import Snapshot, is_one_of, partition_is
from bento.schema import FEATURES, RECORD
from models.contract import HistoryFeature
from models.declaration import Declaration
from models.event_rules import EVENT_DAY

Question = Mapping[str, Any]  # as a request of /predict
Ways = dict[Any, Mapping[str, Question]]  # by the row's key


@dataclass(frozen=True)
class Customer:
    """One row as it was published, and how the service can be asked about it: questions by the way that they ask."""

    key: Any
    score: np.float32
    decision: bool
    ways: Mapping[str, Question]


def sampled(lake: Lakehouse, declaration: Declaration, night: Snapshot, most: int) -> list[Customer]:
    """Return at most so many customers of a night; the same ones whenever it is asked."""
    rows = _drawn(lake, declaration, night, most)
    keys, decisions = rows.column(0).to_pylist(), rows.column(2).to_pylist()
    ways = (_events_of if declaration.events else _features_of)(lake, declaration, night, keys)
    return [
        Customer(key, score, decision, ways[key])
        for key, score, decision in zip(keys, rows.column(1).to_numpy(), decisions, strict=True)
    ]


def _drawn(lake: Lakehouse, declaration: Declaration, night: Snapshot, most: int) -> pa.Table:
    name = declaration.name
    columns = [declaration.row_key, f"{name}_probability", f"{name}_predicted"]
    day = partition_is(PARTITION, date.fromisoformat(night.properties["scored_on"]))
    plan = lake.plan(declaration.predictions_table, columns, night.id, where=day)
    total = sum(file.rows for file in plan.files)
    wanted = np.sort(np.random.default_rng(night.id).choice(total, min(most, total), replace=False))
    picked, seen = [], 0
    for batch in plan.stream():
        inside = wanted[(wanted >= seen) & (wanted < seen + len(batch))] - seen
        picked.append(pa.Table.from_batches([batch]).take(pa.array(inside)))
        seen += len(batch)
    return pa.concat_tables(picked).select(columns)


def _features_of(lake: Lakehouse, declaration: Declaration, night: Snapshot, keys: list[Any]) -> Ways:
    """Return what asks for each entity by its key, and by the features of the snapshot that was scored."""
    key = declaration.entity_key
    columns = [key, *declaration.features]
    snapshot = int(night.properties["source_snapshot"])
    rows = lake.read(declaration.scored_table, columns, snapshot, where=is_one_of(key, keys)).to_pylist()
    features = {row[key]: {name: as_json(row[name]) for name in declaration.features} for row in rows}
    return {one: {"key": {key: one}, "features": {FEATURES: given}} for one, given in features.items()}


def _events_of(lake: Lakehouse, declaration: Declaration, night: Snapshot, keys: list[Any]) -> Ways:
    """Return what asks for each event as of its time, without a trace: its history is the service's to know."""
    events, entity = declaration.events, declaration.entity_key
    assert events is not None
    asked = [name for name, feature in declaration.features.items() if not isinstance(feature, HistoryFeature)]
    day = partition_is(EVENT_DAY, date.fromisoformat(night.properties["scored_on"]))
    where, snapshot = day & is_one_of(events.key, keys), int(night.properties["source_snapshot"])
    columns = list(dict.fromkeys([events.key, entity, events.time, *asked]))
    return {
        row[events.key]: {
            "event": {
                entity: row[entity],
                events.key: row[events.key],
                events.time: row[events.time].isoformat(),
                RECORD: False,
                FEATURES: {name: as_json(row[name]) for name in asked},
            }
        }
        for row in lake.read(declaration.scored_table, columns, snapshot, where=where).to_pylist()
    }


def as_json(value: Any) -> Any:
    """Return a value of the lake as a request may carry it: decimals are numbers, and NaN is missing."""
    if isinstance(value, Decimal):
        return float(value)
    return None if isinstance(value, float) and math.isnan(value) else value
