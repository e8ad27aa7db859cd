"""A small population, the nights that score it and what they leave, for tests and for the processes that they kill."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
from pyiceberg.table.metadata import TableMetadataUtil

from backends.batch_scoring import score_and_publish
from backends.engines import Engine, LocalEngine
from backends.gold_tables import PARTITION
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.publishing import AUDIT_BRANCH, write_whole
from backends.lakehouse.reading import Snapshot, partition_is
from backends.nights import Night, Published
from models.audit import Limits
from models.encoding import encode_arrow
from models.scoring import Scorer
from tests.tiny_model import tiny_contract, tiny_onnx

POPULATION = "silver.active_customers"
PREDICTIONS = "gold.tiny_predictions"
REJECTS = "gold.tiny_rejects"
FRIDAY, SATURDAY = date(2026, 11, 20), date(2026, 11, 21)
SCORED_AT = datetime(2026, 11, 21, 2, 0, 5, 123456, tzinfo=UTC)
SCORE = tiny_contract().output
LAX = Limits(max_shift=1000, max_rejected_share=0.999)  # everything may be published


def customers(rows: int, first_key: int = 0, seed: int = 0) -> pa.Table:
    """Return rows that fit the tiny contract: consecutive keys, missing values and an unseen category among them."""
    rng = np.random.default_rng([seed, first_key])

    def sometimes(values: Any) -> pa.Array:
        return pa.array(values, mask=rng.random(rows) < 0.1)

    return pa.table(
        {
            "customer_id": np.arange(first_key, first_key + rows),
            "tenure_months": rng.integers(0, 601, rows, np.int32),
            "age_years": sometimes(rng.uniform(16, 110, rows)),
            "balance": rng.uniform(-10_000, 10_000, rows).astype(np.float32),
            "plan": rng.choice(["basic", "plus", "pro", "never seen before"], rows),
            "channel": sometimes(rng.choice(["web", "shop"], rows)),
        }
    )


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    """Return the table with other values, and with their type."""
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


def write_files(lake: Lakehouse, table: str, files: Sequence[pa.Table]) -> Snapshot:
    """Make `files` the content of an unpartitioned table: one data file each, in one commit."""
    lake.ensure_table(table, files[0].schema)
    with lake.parts(table, "", files[0].schema) as parts:
        addresses = [a for position, file in enumerate(files) for a in parts.write(position, file.to_batches())]
        return write_whole(lake, table, addresses, {})


def turn_back(lake: Lakehouse, table: str, moments: dict[int, datetime]) -> None:
    """Let snapshots have been committed at other moments: their times are rewritten in the table's metadata file."""
    loaded = lake.load(table)
    raw = loaded.metadata.model_dump(by_alias=True)
    for entry in [*raw["snapshots"], *raw["snapshot-log"]]:
        if entry["snapshot-id"] in moments:
            entry["timestamp-ms"] = int(moments[entry["snapshot-id"]].timestamp() * 1000)
    metadata = TableMetadataUtil.parse_obj(raw)
    with loaded.io.new_output(loaded.metadata_location).create(overwrite=True) as file:
        file.write(metadata.model_dump_json(by_alias=True).encode())


def night(**changes: Any) -> Night:
    """Return Saturday's night of the tiny model, with the fields in `changes` replaced."""
    fields = {
        "population": POPULATION,
        "predictions": PREDICTIONS,
        "rejects": REJECTS,
        "scorer": Scorer(tiny_onnx(tiny_contract())),
        "version": 3,
        "scored_on": SATURDAY,
        "scored_at": SCORED_AT,
        "limits": Limits(max_shift=0.25, max_rejected_share=0.001),
        "dagster_run_id": "run-of-the-night",
    }
    return Night(**(fields | changes))


def publish(lake: Lakehouse, engine: Engine | None = None, **changes: Any) -> Published:
    """Score a night on two threads and publish it."""
    return score_and_publish(lake, engine or LocalEngine(2), night(**changes))


class WatchedEngine(LocalEngine):
    """An engine that shows `watch` what each of its maps came to, and goes on with what that returns."""

    def __init__(self, watch: Callable[[list[Any]], list[Any]]) -> None:
        super().__init__(2)
        self.watch = watch

    def map(self, function: Any, tasks: Iterable[Any]) -> list[Any]:
        return self.watch(super().map(function, tasks))


# --- what a night leaves --------------------------------------------------------------------------------------------


def published_rows(lake: Lakehouse, day: date = SATURDAY) -> pa.Table:
    """Return what a reader sees of a day, in the order of its keys."""
    return lake.read(PREDICTIONS, where=partition_is(PARTITION, day)).sort_by("customer_id")


def rejected_rows(lake: Lakehouse, day: date = SATURDAY) -> list[dict[str, Any]]:
    """Return what stands in the table of rejects for a day."""
    found = lake.read(REJECTS, where=partition_is(PARTITION, day)).to_pylist()
    return sorted(found, key=lambda row: (str(row["customer_id"]), row["column"], row["reason"], str(row["value"])))


def scores_by_key(rows: pa.Table) -> dict[int | str, float]:
    """Return the score of each key; a key that stands twice fails."""
    scores = dict(zip(rows["customer_id"].to_pylist(), rows[SCORE].to_pylist(), strict=True))
    assert len(scores) == len(rows)
    return scores


def scored_directly(population: pa.Table, scorer: Scorer) -> dict[int | str, float]:
    """Return the scores that the population's rows must have."""
    scores = scorer.score(encode_arrow(scorer.contract, population))
    return dict(zip(population["customer_id"].to_pylist(), scores.tolist(), strict=True))


def parts_on_disk(lake: Lakehouse, table: str = PREDICTIONS) -> list[Path]:
    """Return all data files of a table's folder, named by the table or not."""
    return sorted(Path(urlparse(lake.location(table)).path).glob("data/**/*.parquet"))


def audit_branches(lake: Lakehouse, day: date | None = None) -> set[str]:
    """Return the branches that runs have left on the predictions: of one day, or of all."""
    prefix = f"{AUDIT_BRANCH}{day:%Y%m%d}_" if day else AUDIT_BRANCH
    return {name for name in lake.load(PREDICTIONS).refs() if name.startswith(prefix)}


def parts_on_branches(lake: Lakehouse) -> set[Path]:
    """Return the data files that the branches of runs name."""
    loaded = lake.load(PREDICTIONS)
    tasks = [task for branch in audit_branches(lake) for task in loaded.scan().use_ref(branch).plan_files()]
    return {Path(urlparse(task.file.file_path).path) for task in tasks}
