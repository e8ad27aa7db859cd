"""A small population and the nights that score it, for tests and for the processes that they kill."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.publishing import write_whole
from backends.lakehouse.reading import Snapshot
from backends.nights import Night
from models.audit import Limits
from models.scoring import Scorer
from tests.tiny_model import tiny_contract, tiny_onnx

POPULATION = "silver.active_customers"
PREDICTIONS = "gold.tiny_predictions"
REJECTS = "gold.tiny_rejects"
FRIDAY, SATURDAY = date(2026, 11, 20), date(2026, 11, 21)
SCORED_AT = datetime(2026, 11, 21, 2, 0, 5, 123456, tzinfo=UTC)


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
