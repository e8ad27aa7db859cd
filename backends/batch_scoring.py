"""One night: stream the population's files through the one scorer, stage the parts, audit them, publish.

Everything a rerun needs is a parameter; the same day scored again replaces its partition.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial

import numpy as np
import pyarrow as pa

from backends.engines import Engine
from backends.lakehouse import FileTask, Lakehouse, Parts, Plan, Snapshot, Staged, partition_is
from models.audit import (
    BINS,
    AuditReport,
    Counts,
    Expected,
    audit,
    histogram_from_text,
    histogram_of,
    histogram_to_text,
)
from models.contract import Contract
from models.encoding import check_columns, encode_arrow, entity_key_type
from models.errors import AuditError, ColumnError, LakehouseError, SnapshotNotFoundError, TableNotFoundError
from models.scoring import Scorer

PARTITION = "scored_on"
_KEY_TYPES = {"integer": pa.int64(), "string": pa.string()}


@dataclass(frozen=True)
class Night:
    """What to score, with what, into where."""

    population: str
    predictions: str
    scorer: Scorer
    version: int
    scored_on: date
    scored_at: datetime  # with a time zone
    max_shift: float
    dagster_run_id: str = ""
    population_snapshot: int | None = None  # None reads the current one


@dataclass(frozen=True)
class Published:
    """One published night, in figures."""

    snapshot: Snapshot
    source: Snapshot
    report: AuditReport
    positives: int
    files: int
    scoring_seconds: float
    audit_seconds: float


@dataclass(frozen=True)
class Part:
    """One written part."""

    address: str
    rows: int
    positives: int
    histogram: Counts


def predictions_schema(contract: Contract) -> pa.Schema:
    """Return the Gold table's columns."""
    return pa.schema(
        [
            (contract.entity_key, _KEY_TYPES[contract.entity_key_type]),
            (contract.output, pa.float32()),
            (f"{contract.model}_predicted", pa.bool_()),
            ("model_version", pa.int32()),
            ("model_sha256", pa.string()),
            ("scored_at", pa.timestamp("us", tz="UTC")),
            (PARTITION, pa.date32()),
        ]
    )


def population_plan(
    lake: Lakehouse, contract: Contract, table: str, snapshot_id: int | None, time_column: str | None = None
) -> Plan:
    """Pin the population and list its files; `ColumnError` before any row is read when a column does not fit."""
    schema = lake.schema(table)
    check_columns(contract, schema)
    _check_key(contract, schema, table)
    text = [name for name in contract.categories if pa.types.is_large_string(schema.field(name).type)]
    columns = [contract.entity_key, *contract.features, *([time_column] if time_column else [])]
    return lake.plan(table, columns, snapshot_id, dictionary_columns=text)


def score_and_publish(lake: Lakehouse, engine: Engine, night: Night) -> Published:
    """Score the population and publish the day's partition in one commit.

    `AuditError` when the staged rows fail: `main` is untouched and the branch is kept for a look. `LakehouseError`
    for an empty population, and for a Gold table with other columns. `PublishConflictError` when somebody else changed
    the Gold table meanwhile.
    """
    contract, table = night.scorer.contract, night.predictions
    plan = population_plan(lake, contract, night.population, night.population_snapshot)
    if not plan.files:
        raise LakehouseError(f"Population table {night.population!r} has no rows: there is nothing to score. Fill it.")
    _ensure_predictions(lake, contract, table)
    begun = time.perf_counter()
    with lake.parts(table, f"{PARTITION}={night.scored_on}/", _part_schema(contract)) as parts:
        written = engine.map(partial(score_file, night, plan, parts), plan.files)
        histogram = np.sum([part.histogram for part in written], axis=0)
        properties = {**_lineage(night, plan), "score_histogram": histogram_to_text(histogram)}
        staged = lake.stage(table, PARTITION, night.scored_on, [part.address for part in written], properties)
    scored = time.perf_counter()
    report = _audit(lake, night, staged, Expected(plan.snapshot.rows, histogram))
    if report.problems:
        raise AuditError(f"The predictions of {night.scored_on}", staged.branch, report.problems)
    snapshot = lake.publish(staged)
    seconds = (scored - begun, time.perf_counter() - scored)
    return Published(snapshot, plan.snapshot, report, sum(p.positives for p in written), len(written), *seconds)


def score_file(night: Night, plan: Plan, parts: Parts, file: FileTask) -> Part:
    """Score one data file of the population into one part of the Gold table: the function that an engine maps."""
    rows, positives, histogram = 0, 0, np.zeros(BINS, np.int64)

    def scored() -> Iterator[pa.RecordBatch]:
        nonlocal rows, positives, histogram
        for batch in plan.batches(file):
            out = _predictions(night, batch)
            rows += len(out)
            positives += out.column(2).true_count
            histogram += histogram_of(out.column(1).to_numpy())
            yield out

    address = parts.write(file.position, scored())
    return Part(address, rows, positives, histogram)


def published_nights(lake: Lakehouse, table: str) -> dict[str, Snapshot]:
    """Return the snapshot that published each day (ISO date -> snapshot), rollbacks and reruns taken into account."""
    nights: dict[str, Snapshot] = {}
    for snapshot in lake.history(table):  # newest first
        if "scored_on" in snapshot.properties:
            nights.setdefault(snapshot.properties["scored_on"], snapshot)
    return nights


def newest_night(lake: Lakehouse, table: str) -> Snapshot:
    """Return the snapshot of the newest published day; `SnapshotNotFoundError` when there is none."""
    try:
        nights = published_nights(lake, table)
    except TableNotFoundError:
        nights = {}
    if not nights:
        raise SnapshotNotFoundError(f"Table {table!r} has no published night. Materialize {table.replace('.', '/')}.")
    return nights[max(nights)]


def _last_histogram(lake: Lakehouse, table: str, before: date) -> Counts | None:
    """Return the score histogram of the newest night before a day; None on the first night."""
    earlier = {day: night for day, night in published_nights(lake, table).items() if day < before.isoformat()}
    return histogram_from_text(earlier[max(earlier)].properties["score_histogram"]) if earlier else None


def _predictions(night: Night, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Score one batch. Columns that are the same in every row are dictionaries of one value."""
    contract, rows = night.scorer.contract, batch.num_rows
    scores = night.scorer.score(encode_arrow(contract, batch))
    sha256 = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array([night.scorer.sha256]))
    columns = [
        batch.column(contract.entity_key).cast(_KEY_TYPES[contract.entity_key_type]),
        pa.array(scores),
        pa.array(night.scorer.decide(scores)),
        pa.repeat(pa.scalar(night.version, pa.int32()), rows),
        sha256,
        pa.repeat(pa.scalar(night.scored_at, pa.timestamp("us", tz="UTC")), rows),
        pa.repeat(pa.scalar(night.scored_on, pa.date32()), rows),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_part_schema(contract))


def _part_schema(contract: Contract) -> pa.Schema:
    schema = predictions_schema(contract)
    at = schema.get_field_index("model_sha256")
    return schema.set(at, schema.field(at).with_type(pa.dictionary(pa.int8(), pa.string())))


def _audit(lake: Lakehouse, night: Night, staged: Staged, expected: Expected) -> AuditReport:
    """Read the staged rows back as a reader would, and audit them."""
    contract = night.scorer.contract
    columns = [contract.entity_key, contract.output]
    day = partition_is(PARTITION, night.scored_on)
    plan = lake.plan(night.predictions, columns, staged.snapshot.id, where=day)
    batches = (batch for file in plan.files for batch in plan.batches(file))
    rows = ((batch[contract.entity_key], batch[contract.output].to_numpy(zero_copy_only=False)) for batch in batches)
    last_night = _last_histogram(lake, night.predictions, night.scored_on)
    return audit(rows, expected, last_night, night.max_shift)


def _lineage(night: Night, plan: Plan) -> dict[str, str]:
    """Describe where the rows come from, for the snapshot's properties."""
    return {
        "scored_on": night.scored_on.isoformat(),
        "model": night.scorer.contract.model,
        "model_version": str(night.version),
        "model_sha256": night.scorer.sha256,
        "training_snapshot": night.scorer.contract.training_snapshot,
        "source_table": night.population,
        "source_snapshot": str(plan.snapshot.id),
        "dagster_run_id": night.dagster_run_id,
    }


def _ensure_predictions(lake: Lakehouse, contract: Contract, table: str) -> None:
    """Make the Gold table; `LakehouseError` where one with other columns is in its place."""
    lake.ensure_table(table, predictions_schema(contract), PARTITION)
    there = {field.name: str(field.type).removeprefix("large_") for field in lake.schema(table)}
    wanted = {field.name: str(field.type) for field in predictions_schema(contract)}
    if missing := [f"{name} ({dtype})" for name, dtype in wanted.items() if there.get(name) != dtype]:
        raise LakehouseError(
            f"Table {table!r} is not one for the predictions of {contract.model!r}: it lacks {', '.join(missing)}. "
            f"Its columns: {', '.join(there)}. Name another table as `predictions.table`, or drop this one."
        )


def _check_key(contract: Contract, schema: pa.Schema, table: str) -> None:
    found = entity_key_type(schema, contract.entity_key)
    if found != contract.entity_key_type:
        raise ColumnError(
            f"The entity key {contract.entity_key!r} of table {table!r} is now of type {found}, but the champion of "
            f"{contract.model!r} was made for {contract.entity_key_type}. Mend the table, or train again."
        )
