"""The home of fraud in `make bench-api`: card swipes, of which each answer adds one to its card's history.

The demo's stream goes through the lake as it does in a home of Tandem's: features counted, a day scored and published,
histories loaded. The stores are loaded anew in every run, so what an earlier one has recorded does not count.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from math import inf
from typing import ClassVar

import numpy as np
import pyarrow as pa

from assets.examples import read_examples
from backends.batch_scoring import score_and_publish
from backends.engines import LocalEngine
from backends.event_features import write_event_features
from backends.history_loading import load_histories
from backends.lakehouse.catalog import Lakehouse
from backends.nights import Night
from backends.settings import ROOT
from benchmarks.api_home import LMDB, REDIS, SAMPLE_ROWS, ApiHome
from benchmarks.api_requests import HOT, Swipes
from benchmarks.batch_home import EXAMPLE_ROWS, SEED, network
from demo.card_lake import TRANSACTIONS, write_transactions
from demo.transactions import Stream
from models.audit import Limits
from models.declaration import Declaration, load_declaration
from models.event_rules import EVENT_DAY

MODEL = "fraud"
LAST_DAY = date(2026, 6, 30)  # of the stream; requests go on from there, so far from now that they are never ahead
THREADS = 2
DAY, LONGEST_STEP = 86_400_000_000, 10_000_000  # microseconds
HOT_EVENTS, HOT_FOR = 600, 10 * DAY  # of each of the hot cards, and how long before the end of the stream they begin


@dataclass(frozen=True)
class SwipeHome(ApiHome):
    """See the module."""

    model: ClassVar[str] = MODEL
    what: ClassVar[str] = "card swipes"

    @cached_property
    def declaration(self) -> Declaration:
        """The demo's."""
        return load_declaration(ROOT / "models" / f"{MODEL}.yaml")

    @property
    def stream(self) -> Stream:
        """The swipes that the lake has."""
        return Stream(self.rows, LAST_DAY, SEED)

    def train(self) -> bytes:
        """Train on some of the swipes whose outcome is known, of a stream that is made now."""
        declared = self.declaration
        with self._lakehouse() as lake:
            self._write(lake)
            snapshot = lake.snapshot(declared.features_table)
            examples = read_examples(lake, declared, snapshot.id)
        return network(declared, _some(examples, EXAMPLE_ROWS), str(snapshot.id))["int8"]

    def draw(self) -> pa.Table:
        """Return swipes of all days, with their features."""
        with self._lakehouse() as lake:
            self._write(lake)
            return _some(lake.read(self.declaration.features_table), SAMPLE_ROWS)

    def load(self, stores: Sequence[str]) -> None:
        """Load the stores with the histories that the newest night has counted from, and fill those of hot cards."""
        self._forget(stores)
        with self._lakehouse() as lake:
            self._write(lake)
            self._publish(lake)
            for store in stores:
                scratch = self.settings(LMDB).scratch
                load_histories(lake, self.histories(store), self.declaration, scratch, THREADS, {})
                self._heat(store)

    def swipes(self, store: str) -> Swipes:
        """Return the swipes that happen after those of the lake, at the pace of the stream."""
        until = np.datetime64(self.histories(store).describe()["history_until"].removesuffix("Z"), "us").astype(int)
        pace = len(self.stream.days) * DAY // self.rows
        return Swipes(self.contract, self.sample.values, int(until), min(pace, LONGEST_STEP))

    def _lakehouse(self) -> Lakehouse:
        return Lakehouse.open(self.settings(LMDB))

    def _write(self, lake: Lakehouse) -> None:
        """Make the stream, and count the histories of all its days."""
        if self._is_written(lake):
            return
        write_transactions(lake, LocalEngine(THREADS), self.stream, lambda _: None)
        days = [self.stream.first_day + timedelta(days=day) for day in self.stream.days]
        write_event_features(lake, self.declaration, days, self.settings(LMDB).scratch, THREADS)

    def _is_written(self, lake: Lakehouse) -> bool:
        """Whether the lake has a stream of as many swipes, and the histories of that one."""
        if not all(map(lake.catalog.table_exists, (TRANSACTIONS, self.declaration.features_table))):
            return False
        stream, features = lake.snapshot(TRANSACTIONS), lake.snapshot(self.declaration.features_table)
        return stream.rows == self.rows and features.properties.get("source_snapshot") == str(stream.id)

    def _publish(self, lake: Lakehouse) -> None:
        """Score the last day: the histories are loaded up to its end."""
        declared = self.declaration
        night = Night(
            population=declared.scored_table,
            predictions=declared.predictions_table,
            rejects=declared.rejects_table,
            scorer=self.scorer,
            version=1,
            scored_on=LAST_DAY,
            scored_at=datetime.now(UTC),
            limits=Limits(max_shift=inf, max_rejected_share=1),
            day_column=EVENT_DAY,
        )
        score_and_publish(lake, LocalEngine(THREADS), night)

    def _forget(self, stores: Sequence[str]) -> None:
        """Empty the stores: a load would keep what was recorded since the end of the lake."""
        for left in self.folder.glob("*.requests*"):
            left.unlink()
        if LMDB in stores:
            shutil.rmtree(self.folder / "online", ignore_errors=True)
        if REDIS in stores:
            import redis

            with redis.Redis(port=self.redis_port) as client:
                client.flushall()

    def _heat(self, store: str) -> None:
        """Give hot cards more events than are looked at, as they have been hot for long."""
        swipes = self.swipes(store)
        past = [swipes.hot(card, i) for card in range(HOT) for i in range(HOT_EVENTS)]
        times = swipes.begin - HOT_FOR + np.tile(np.arange(HOT_EVENTS) * (HOT_FOR // HOT_EVENTS), HOT)
        events = np.concatenate([swipes.remembered(swipe) for swipe in past])
        events["time"] = times
        self.histories(store).fetch_and_append([swipe.entity for swipe in past], events, [True] * len(past))


def _some(table: pa.Table, rows: int) -> pa.Table:
    """Return some rows, in no order."""
    return table.take(np.random.default_rng(SEED).permutation(len(table))[:rows])
