"""Which customers are asked: some of the newest night, drawn by its snapshot's id, with the features it scored."""

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
from models.declaration import Declaration


@dataclass(frozen=True)
class Customer:
    """One entity as it was published, and its features as of the snapshot that was scored."""

    key: Any
    score: np.float32
    decision: bool
    features: Mapping[str, Any]


def sampled(lake: Lakehouse, declaration: Declaration, night: Snapshot, most: int) -> list[Customer]:
    """Return at most so many customers of a night; the same ones whenever it is asked."""
    rows = _drawn(lake, declaration, night, most)
    keys, decisions = rows.column(0).to_pylist(), rows.column(2).to_pylist()
    features = _features_of(lake, declaration, night, keys)
    return [
        Customer(key, score, decision, features[key])
        for key, score, decision in zip(keys, rows.column(1).to_numpy(), decisions, strict=True)
    ]


def _drawn(lake: Lakehouse, declaration: Declaration, night: Snapshot, most: int) -> pa.Table:
    name = declaration.name
    columns = [declaration.entity_key, f"{name}_probability", f"{name}_predicted"]
    day = partition_is(PARTITION, date.fromisoformat(night.properties["scored_on"]))
    plan = lake.plan(declaration.predictions_table, columns, night.id, where=day)
    total = sum(file.rows for file in plan.files)
    wanted = np.sort(np.random.default_rng(night.id).choice(total, min(most, total), replace=False))
    picked, seen = [], 0
    for batch in (batch for file in plan.files for batch in plan.batches(file)):
        inside = wanted[(wanted >= seen) & (wanted < seen + len(batch))] - seen
        picked.append(pa.Table.from_batches([batch]).take(pa.array(inside)))
        seen += len(batch)
    return pa.concat_tables(picked).select(columns)


def _features_of(
    lake: Lakehouse, declaration: Declaration, night: Snapshot, keys: list[Any]
) -> dict[Any, dict[str, Any]]:
    columns = [declaration.entity_key, *declaration.features]
    snapshot = int(night.properties["source_snapshot"])
    where = is_one_of(declaration.entity_key, keys)
    table = lake.read(declaration.population.table, columns, snapshot, where=where)
    rows = table.to_pylist()
    return {row.pop(declaration.entity_key): {name: as_json(row[name]) for name in row} for row in rows}


def as_json(value: Any) -> Any:
    """Return a value of the lake as a request may carry it: decimals are numbers, and NaN is missing."""
    if isinstance(value, Decimal):
        return float(value)
    return None if isinstance(value, float) and math.isnan(value) else value
