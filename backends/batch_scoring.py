"""One night: stream the population's files through the one scorer, stage the parts, audit them, publish.

Everything a rerun needs is a parameter; the same day scored again replaces its partition.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa

from backends.engines import Engine
from backends.gold_tables import PARTITION, part_schema, predictions_schema, reasons_schema, rejects_schema
from backends.lakehouse.appending import add_columns
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.parts import Parts
from backends.lakehouse.publishing import Staged, publish, stage, write_day
from backends.lakehouse.reading import Filter, Plan, Reader, Share, Snapshot, partition_is
from backends.night_drift import counter_for, drift_properties
from backends.nights import Night, Published, published_nights
from backends.repeated_keys import Ascending, KeyRange, follow_each_other, in_order, repeated_keys_of
from backends.scored_parts import ScoredPart, Scoring, score_share
from models.audit import (
    BINS,
    AuditReport,
    Counts,
    Expected,
    Tally,
    audit,
    histogram_from_text,
    histogram_to_text,
    population_stability_index,
    tally_of,
)
from models.contract import Contract
from models.counting import BinCounter
from models.encoding import check_columns, entity_key_type
from models.errors import AuditError, ColumnError, LakehouseError

SHARES_A_SLOT = 4
MANY_PARTS = 32  # for a night, where they are smaller than the table asks for

Reason = TypeVar("Reason")


def population_plan(
    lake: Lakehouse,
    contract: Contract,
    table: str,
    snapshot_id: int | None,
    time_column: str | None = None,
    where: Filter | None = None,
) -> Plan:
    """Pin the population and list its files; `ColumnError` before any row is read when a column does not fit."""
    schema = lake.schema(table)
    check_columns(contract, schema)
    _check_key(contract, schema, table)
    text = [name for name in contract.categories if pa.types.is_large_string(schema.field(name).type)]
    keys = dict.fromkeys([contract.row_key, contract.entity_key])
    columns = [*keys, *contract.features, *([time_column] if time_column else [])]
    plan = lake.plan(table, columns, snapshot_id, dictionary_columns=text, where=where, ranges_of=[contract.row_key])
    if where is None:
        return plan
    return replace(plan, snapshot=replace(plan.snapshot, rows=sum(file.rows for file in plan.files)))


def score_and_publish(lake: Lakehouse, engine: Engine, night: Night) -> Published:
    """Score the population and publish the day's partition in one commit.

    Rows that the contract refuses are written to the table of rejects instead. `AuditError` when the staged rows fail,
    or too many were refused: `main` is untouched and the branch is kept for a look. `LakehouseError` for an empty
    population, and for tables with other columns. `PublishConflictError` when the same day was published meanwhile, or
    something that is no night. `ModelFileError` when reasons are declared and the model gives none.
    """
    contract, begun, cpu = night.scorer.contract, time.perf_counter(), engine.cpu_seconds
    optional = reasons_schema() if night.reasons_column else None
    _use_jemalloc()
    plan = population_plan(lake, contract, night.population, night.population_snapshot, where=night.where)
    if not plan.snapshot.rows:
        of_day = f" of {night.scored_on}" if night.day_column else ""
        raise LakehouseError(
            f"Population table {night.population!r} has no rows{of_day}: there is nothing to score. Fill it."
        )
    _ensure_table(lake, contract, night.predictions, predictions_schema(contract), "predictions.table")
    _ensure_table(lake, contract, night.rejects, rejects_schema(contract), "predictions.rejects")
    if optional:
        add_columns(lake, night.predictions, optional)
    staged, written = _score_and_stage(lake, engine, night, plan)
    scored = time.perf_counter()
    report = _audit(lake, engine, night, staged, Expected(plan.snapshot.rows, _rejected(written), _histogram(written)))
    if report.problems:
        raise AuditError(f"The predictions of {night.scored_on}", staged.branch, report.problems)
    return Published(
        publish(lake, staged),
        plan.snapshot,
        report,
        cpu_seconds=engine.cpu_seconds - cpu,
        bytes_read=plan.bytes,
        positives=sum(part.positives for part in written),
        parts=len(staged.parts),
        unseen=_counted(part.unseen for part in written),
        reasons=_counted(part.reasons for part in written),
        scoring_seconds=scored - begun,
        audit_seconds=time.perf_counter() - scored,
    )


def _use_jemalloc() -> None:
    """Let Arrow use jemalloc where it has it: it gives memory back, of which mimalloc keeps 80 MB in a night."""
    if "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())


# --- scoring --------------------------------------------------------------------------------------------------------


def _score_and_stage(lake: Lakehouse, engine: Engine, night: Night, plan: Plan) -> tuple[Staged, list[ScoredPart]]:
    contract, cpu = night.scorer.contract, engine.cpu_seconds
    distinct, counter = [contract.row_key, contract.output], counter_for(night.scorer, plan.snapshot.rows)
    schema = part_schema(contract, reasons=night.reasons_column is not None)
    with lake.parts(night.predictions, _folder(night), schema, distinct) as parts:
        written = _score(lake, engine, night, plan, parts, counter)
        properties = {
            **_lineage(night, plan.snapshot),
            "rejected_rows": str(_rejected(written)),
            "scoring_cpu_seconds": f"{engine.cpu_seconds - cpu:.3f}",
            "bytes_read": str(plan.bytes),
            "score_histogram": histogram_to_text(_histogram(written)),
            **drift_properties(counter, written),
        }
        kept = [address for part in written for address in part.parts]
        return stage(lake, night.predictions, PARTITION, night.scored_on, kept, properties), written


def _score(
    lake: Lakehouse, engine: Engine, night: Night, plan: Plan, parts: Parts, counter: BinCounter | None
) -> list[ScoredPart]:
    """Write the parts, and commit the rejects: they are for people to look at, whatever becomes of the night."""
    contract, key = night.scorer.contract, night.scorer.contract.row_key
    table, at, beside = night.population, plan.snapshot.id, night.predictions
    repeated_keys = partial(repeated_keys_of, lake, engine, table, key, at, beside=beside, where=night.where)
    sorted_plan = in_order(plan, key)
    with lake.parts(night.rejects, _folder(night), rejects_schema(contract), [key]) as rejects:
        scoring = Scoring(
            night.scorer,
            night.version,
            night.scored_on,
            night.scored_at,
            at,
            plan.reader,
            repeated=pa.array([], plan.schema.field(key).type) if sorted_plan else repeated_keys(),
            parts=parts,
            rejects=rejects,
            counter=counter,
            reasons_column=night.reasons_column,
        )
        shares = (sorted_plan or plan).shares(_shares(lake, engine, night, plan))
        written = engine.map(partial(score_share, scoring), shares)
        if sorted_plan and not follow_each_other([part.keys for part in written]):
            scoring = replace(scoring, repeated=repeated_keys())
            if len(scoring.repeated):
                written = engine.map(partial(score_share, scoring), shares)
        parts.remove_all_but([address for part in written for address in part.parts])
        refused = [address for part in written for address in part.rejects]
        rejects.remove_all_but(refused)
        if refused or _has_rejects(lake, night):
            write_day(lake, night.rejects, PARTITION, night.scored_on, refused, _lineage(night, plan.snapshot))
    return written


def _folder(night: Night) -> str:
    return f"{PARTITION}={night.scored_on}/"


def _shares(lake: Lakehouse, engine: Engine, night: Night, plan: Plan) -> int:
    """Return into how many parts to score.

    As many as are of the table's target size; more, so that no slot waits for another, unless many become small.
    """
    large = lake.files_for(night.predictions, plan.snapshot.rows)
    balanced = min(SHARES_A_SLOT * engine.slots, max(MANY_PARTS, math.ceil(2 * SHARES_A_SLOT * large)))
    return min(len(plan.files), max(math.ceil(large), engine.slots, balanced))


def _rejected(written: Sequence[ScoredPart]) -> int:
    return sum(part.rejected for part in written)


def _histogram(written: Sequence[ScoredPart]) -> Counts:
    return sum((part.histogram for part in written), np.zeros(BINS, np.int64))


def _counted(counts: Iterable[dict[Reason, int]]) -> dict[Reason, int]:
    total: Counter[Reason] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def _has_rejects(lake: Lakehouse, night: Night) -> bool:
    return bool(lake.plan(night.rejects, where=partition_is(PARTITION, night.scored_on)).files)


def _lineage(night: Night, source: Snapshot) -> dict[str, str]:
    """Describe where the rows come from, for the snapshot's properties."""
    return {
        "scored_on": night.scored_on.isoformat(),
        "model": night.scorer.contract.model,
        "model_version": str(night.version),
        "model_sha256": night.scorer.sha256,
        "training_snapshot": night.scorer.contract.training_snapshot,
        "source_table": night.population,
        "source_snapshot": str(source.id),
        "dagster_run_id": night.dagster_run_id,
    }


# --- the audit ------------------------------------------------------------------------------------------------------


def _audit(lake: Lakehouse, engine: Engine, night: Night, staged: Staged, expected: Expected) -> AuditReport:
    """Read the staged rows back as a reader would, and audit them."""
    key, score = night.scorer.contract.row_key, night.scorer.contract.output
    day, at = partition_is(PARTITION, night.scored_on), staged.snapshot.id
    rows = lake.plan(night.predictions, [key, score], at, where=day)
    found = engine.map(partial(count_share, rows.reader, key, score), rows.shares(SHARES_A_SLOT * engine.slots))
    ordered = follow_each_other([counted.keys for counted in found])
    table = night.predictions
    repeated = [] if ordered else repeated_keys_of(lake, engine, table, key, at, beside=table, where=day)
    tally = sum((counted.tally for counted in found), Tally())
    last_night = _last_histogram(lake, night, tally.histogram)
    return audit(tally, len(repeated), expected, last_night, night.limits)


@dataclass(frozen=True)
class Counted:
    """What stands in some staged files, and their first and last key if they ascend."""

    tally: Tally
    keys: KeyRange | None


def count_share(reader: Reader, key: str, score: str, share: Share) -> Counted:
    """Count the staged rows of some files: a function that an engine maps."""
    tally, ascending = Tally(), Ascending()
    for file in share.files:
        for batch in reader.batches(file):
            tally += tally_of(batch[key], batch[score].to_numpy(zero_copy_only=False))
            ascending.add(batch[key])
    return Counted(tally, ascending.range)


def _last_histogram(lake: Lakehouse, night: Night, scores: Counts) -> Counts | None:
    """Return the score histogram of the newest night before this one; None on the first night.

    After a champion was rolled back that is another model's: the newest night of the same file serves as well, if the
    scores are nearer to it.
    """
    nights, today = published_nights(lake, night.predictions), night.scored_on.isoformat()
    earlier = [nights[day].properties for day in sorted(nights, reverse=True) if day < today]
    same = [found for found in earlier if found["model_sha256"] == night.scorer.sha256]
    histograms = [histogram_from_text(found["score_histogram"]) for found in (*earlier[:1], *same[:1])]
    return min(histograms, key=lambda one: population_stability_index(one, scores), default=None)


# --- before any row is read -----------------------------------------------------------------------------------------


def _ensure_table(lake: Lakehouse, contract: Contract, table: str, schema: pa.Schema, declared: str) -> None:
    """Make the table; `LakehouseError` where one with other columns is in its place."""
    found = lake.ensure_table(table, schema, PARTITION)
    there = {field.name: str(field.type).removeprefix("large_") for field in found}
    wanted = {field.name: str(field.type) for field in schema}
    if missing := [f"{name} ({dtype})" for name, dtype in wanted.items() if there.get(name) != dtype]:
        raise LakehouseError(
            f"Table {table!r} is not one for the {declared.rpartition('.')[2]} of {contract.model!r}: it lacks "
            f"{', '.join(missing)}. Its columns: {', '.join(there)}. Name another table as `{declared}`, or drop this "
            "one."
        )


def _check_key(contract: Contract, schema: pa.Schema, table: str) -> None:
    keys = {contract.entity_key: ("entity", contract.entity_key_type)}
    if contract.events:
        keys[contract.events.key] = ("event", contract.events.key_type)
    for key, (what, expected) in keys.items():
        found = entity_key_type(schema, key, "events.key" if what == "event" else "entity_key")
        if found != expected:
            raise ColumnError(
                f"The {what} key {key!r} of table {table!r} is now of type {found}, but the champion of "
                f"{contract.model!r} was made for {expected}. Mend the table, or train again."
            )
