"""The demo's two tables, chunk by chunk: active customers to score, and labelled examples to learn from.

Arrow in memory only; writing them to the lake is `demo/lake.py`. A chunk depends on the seed, its index and
its dates alone, so chunks can be made in any order and by any number of threads.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from demo.churn_process import churn_probability, expected_auc
from demo.customers import draw_features
from demo.draws import Draws

CHUNK_ROWS = 250_000  # 26 MB of Arrow, 5 MB of Parquet
EXAMPLE_ROWS = 300_000
OUTCOME_DAYS = 30  # a label is known this many days after its observation

_ACTIVE, _EXAMPLE = 0, 1  # which table: part of the random key, and which half of each block of ids
_SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Chunk:
    """A run of neighbouring rows: number `index` of its table, `rows` long."""

    index: int
    rows: int


def customer_chunks(rows: int) -> list[Chunk]:
    """Cut a table of `rows` rows, of either kind, into chunks of `CHUNK_ROWS`; the last may be shorter."""
    return [Chunk(start // CHUNK_ROWS, min(CHUNK_ROWS, rows - start)) for start in range(0, rows, CHUNK_ROWS)]


def active_customers(chunk: Chunk, *, seed: int, as_of: date) -> pa.Table:
    """Return customers as they stand at the start of `as_of` (UTC): `customer_id`, `updated_at`, the features.

    `customer_id` is int64, unique and increasing over all chunks; `updated_at` (timestamp[us, UTC]) is on the day
    before. Categories are dictionary<int8, string>. The same seed gives the same customers on another day.
    """
    draws = Draws(chunk.rows, seed, _ACTIVE, chunk.index)
    ids = _customer_ids(draws, chunk, _ACTIVE)
    day = _day_number(as_of)
    updated = (day * _SECONDS_A_DAY - 1 - draws.whole(_SECONDS_A_DAY)) * 1_000_000
    times = pa.array(updated).cast(pa.timestamp("us", "UTC"))
    return pa.table({"customer_id": ids, "updated_at": times, **draw_features(draws, day)})


def churn_examples(chunk: Chunk, *, seed: int, last_month: date, months: int = 12) -> pa.Table:
    """Return labelled customers: `customer_id`, `observed_on`, the features as they stood on that day, `churned`.

    `observed_on` (date32) is any day of the `months` calendar months that end with `last_month`'s. The customers are
    others than the active ones: who left is not there any more. `churned` (bool) is drawn from the finished columns.
    """
    draws = Draws(chunk.rows, seed, _EXAMPLE, chunk.index)
    ids = _customer_ids(draws, chunk, _EXAMPLE)
    days = _observation_days(draws, last_month, months)
    observed = pa.array(days.astype(np.int32)).cast(pa.date32())
    chance = draws.uniform()
    table = pa.table({"customer_id": ids, "observed_on": observed, **draw_features(draws, days)})
    return table.append_column("churned", pa.array(chance < churn_probability(table)))


def last_labelled_month(as_of: date) -> date:
    """Return the first day of the latest calendar month whose every label is known on `as_of`."""
    first_unknown = as_of - timedelta(days=OUTCOME_DAYS - 1)
    return (first_unknown.replace(day=1) - timedelta(days=1)).replace(day=1)


def best_possible_auc(
    rows: int = EXAMPLE_ROWS, *, seed: int, last_month: date, months: int = 12, test_months: int = 2
) -> float:
    """Return the AUC that no model can pass, in expectation, on the latest `test_months` months of the examples.

    See `demo.churn_process.expected_auc` for the formula. Makes the examples again: about a second for 300,000.
    """
    first = np.datetime64(last_month, "M") - np.timedelta64(test_months - 1, "M")
    truth = []
    for chunk in customer_chunks(rows):
        table = churn_examples(chunk, seed=seed, last_month=last_month, months=months)
        latest = table["observed_on"].to_numpy() >= first
        truth.append(churn_probability(table.filter(pa.array(latest))))
    return expected_auc(np.concatenate(truth))


def _customer_ids(draws: Draws, chunk: Chunk, table: int) -> npt.NDArray[np.int64]:
    """Return int64 [rows]: blocks of eight ids, one customer each; active ones in the lower half of a block."""
    row = np.arange(chunk.rows) + chunk.index * CHUNK_ROWS
    return 10_000_000 + 8 * row + 4 * table + draws.whole(4)


def _observation_days(draws: Draws, last_month: date, months: int) -> npt.NDArray[np.int64]:
    """Return int64 [rows]: days since 1970-01-01, any month alike, then any day of it."""
    following = np.arange(1 - months, 2).astype("timedelta64[M]")
    starts = (np.datetime64(last_month, "M") + following).astype("datetime64[D]").astype(np.int64)
    month = draws.whole(months)
    return starts[month] + (draws.uniform() * np.diff(starts)[month]).astype(np.int64)


def _day_number(day: date) -> int:
    """Return days since 1970-01-01."""
    return (day - date(1970, 1, 1)).days
