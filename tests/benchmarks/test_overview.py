"""A home's own figures: of a model of events it is the newest day that is scored, and histories are looked up."""

import numpy as np
import pyarrow as pa

from assets.resources import Backends
from benchmarks.api_home import LMDB
from benchmarks.api_swipes import LAST_DAY
from benchmarks.overview import lookups, to_score


def test_of_events_the_newest_day_that_was_scored_is_scored(swipe_home):
    declared = swipe_home.declaration
    with swipe_home._lakehouse() as lake:
        day, plan = to_score(lake, declared, swipe_home.contract)
        events = lake.read(declared.scored_table, ["event_day"])["event_day"]
    assert day == LAST_DAY
    assert 0 < plan.snapshot.rows == events.to_pylist().count(LAST_DAY) < len(events)


def test_histories_are_looked_up_and_nothing_is_added(swipe_home):
    declared, histories = swipe_home.declaration, swipe_home.histories(LMDB)
    files = set(histories._folder.glob("journal-*"))
    with swipe_home._lakehouse() as lake:
        _, plan = to_score(lake, declared, swipe_home.contract)
        cards = pa.concat_tables(pa.Table.from_batches([batch]) for batch in plan.batches(plan.files[-1]))["card_id"]
        before = [_history(histories, card) for card in cards.to_pylist()]
        record = lookups(Backends(swipe_home.settings(LMDB)), declared, swipe_home.scorer, plan, count=30)
    assert record.rows == 30
    assert record.system == f"lookup, one of {int(histories.describe()['entities']):,} histories"
    assert [_history(histories, card) for card in cards.to_pylist()] == before
    assert set(histories._folder.glob("journal-*")) == files


def _history(histories, card: int) -> bytes:
    event = np.zeros(1, histories.history.dtype)
    return histories.fetch_and_append([card], event, [False])[0].events.tobytes()
