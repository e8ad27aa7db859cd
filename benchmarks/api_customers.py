"""The home of churn in `make bench-api`: customers, whose features are in the store before anybody asks.

No lake is needed: the demo's customers are encoded and loaded as they are made, and are the same on any day.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import ClassVar

import numpy as np
import pyarrow as pa

from backends.online_store import Batch, OnlineStore, open_store
from backends.settings import ROOT
from benchmarks.api_home import SAMPLE_ROWS, ApiHome
from benchmarks.batch_home import EXAMPLE_ROWS, MODEL, SEED, network
from demo.population import active_customers, churn_examples, customer_chunks, last_labelled_month
from models.declaration import load_declaration
from models.encoding import encode_arrow
from models.errors import TandemError

DAY = date(2026, 11, 1)  # on which the customers stand
PROVED_ROWS = 1000  # that a store which is found is compared with
LONGEST_KEPT = np.timedelta64(24, "h")  # half of what the churn model takes for stale


@dataclass(frozen=True)
class CustomerHome(ApiHome):
    """See the module."""

    model: ClassVar[str] = MODEL
    what: ClassVar[str] = "customers"

    def train(self) -> bytes:
        """See `ApiHome`."""
        declared, month = load_declaration(ROOT / "models" / f"{MODEL}.yaml"), last_labelled_month(DAY)
        examples = [churn_examples(chunk, seed=SEED, last_month=month) for chunk in customer_chunks(EXAMPLE_ROWS)]
        return network(declared, pa.concat_tables(examples), snapshot=str(DAY))["int8"]

    def draw(self) -> pa.Table:
        """Return as many customers from each part of the population, in no order."""
        random, share = np.random.default_rng(SEED), min(1.0, SAMPLE_ROWS / self.rows)
        parts = [table.take(random.permutation(len(table))[: round(share * len(table))]) for table in self._customers()]
        drawn = pa.concat_tables(parts)
        return drawn.take(random.permutation(len(drawn)))

    def load(self, stores: Sequence[str]) -> None:
        """Load a store unless it has today's population."""
        for store in (open_store(self.settings(store).online, MODEL) for store in stores):
            if not self._is_loaded(store):
                store.load(self.contract, self._batches(), {"source_snapshot": str(DAY)})

    def _customers(self) -> Iterator[pa.Table]:
        return (active_customers(chunk, seed=SEED, as_of=DAY) for chunk in customer_chunks(self.rows))

    def _batches(self) -> Iterator[Batch]:
        """Encode everybody, as of now: nothing is stale."""
        now = _now()
        for table in self._customers():
            keys = table[self.contract.entity_key].to_numpy()
            yield keys, encode_arrow(self.contract, table), np.full(len(keys), now)

    def _is_loaded(self, store: OnlineStore) -> bool:
        """Whether a store has this population, packed for this network and as today's code packs it."""
        proved, sample = slice(PROVED_ROWS), self.sample
        try:
            found = store.get_many(self.contract, sample.keys[proved].tolist())
            loaded = int(store.describe()["rows"])
        except TandemError:
            return False
        same = np.array_equal(found.rows.categories, sample.rows.categories[proved])
        fresh = bool((found.event_times > _now() - LONGEST_KEPT).all())
        return same and fresh and loaded == self.rows


def _now() -> np.datetime64:
    return np.datetime64(time.time_ns() // 1_000_000, "ms")
