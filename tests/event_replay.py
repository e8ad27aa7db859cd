"""A few days of card swipes, of which the lake has all but the last, and what the batch lane says of that one."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from backends.histories import HistoryStore, Span, of_lake
from backends.history_windows import Windows, counted
from bento.lineage import Lineage
from models.contract import Contract
from models.encoding import Encoded, encode_arrow
from models.history import with_values
from models.scoring import Scorer
from tests.event_model import DAY, SECOND, events_of, history, random_swipes, swipes

BEGIN = 1_790_000_000 * SECOND // DAY * DAY  # a midnight in 2026
UNTIL = BEGIN + 3 * DAY  # how far the lake goes
SPAN = Span(BEGIN - 10 * DAY, UNTIL, 1)
TIME, KEY, CARD = "swiped_at", "swipe_id", "card_id"
ASKED = ("amount", "tip", "country", "channel")
NEW_CARD = 99


def some_days(count: int = 500, seed: int = 0, **plan: Any) -> pa.Table:
    """Return swipes of four days, in the order of time: many at the same moment, and those of a card that is new."""
    table = random_swipes(count, seed, days=4, step=5 * 60 * SECOND, **plan)
    new = swipes([{"swipe_id": 10_000 + i, "card_id": NEW_CARD, "at": 3 * DAY + i * i * SECOND} for i in range(8)])
    table = pa.concat_tables([table, new])
    at = table[TIME].combine_chunks().view(pa.int64()).to_numpy() + BEGIN
    stamps = pa.array(at).cast(pa.timestamp("us", tz="UTC"))
    moved = table.set_column(table.column_names.index(TIME), TIME, stamps)
    return moved.sort_by([(TIME, "ascending"), (KEY, "ascending")])


def times_of(table: pa.Table) -> np.ndarray:
    """Return when the swipes happened, in microseconds."""
    return table[TIME].combine_chunks().view(pa.int64()).to_numpy()


def last_day(table: pa.Table) -> pa.Table:
    """Return what the lake does not know yet."""
    return table.filter(pa.array(times_of(table) >= UNTIL))


def seed_store(store: HistoryStore, contract: Contract, table: pa.Table, span: Span = SPAN) -> None:
    """Load a store from the swipes before the last day."""
    before = table.filter(pa.array(times_of(table) < span.until))
    events, cards = events_of(contract, before), before[CARD].to_numpy()
    known = history(contract)
    lake = [of_lake(known, card, events[cards == card], span) for card in np.unique(cards).tolist()]
    store.load(lake, span, {"source_snapshot": "7"})


def of_batch(scorer: Scorer, table: pa.Table) -> dict[Any, tuple[bytes, np.float32]]:
    """Return the features, as bytes, and the score of each swipe of the last day, as the batch lane counts them."""
    contract = scorer.contract
    known, names = history(contract), tuple(n for n in table.column_names if n != TIME)
    windows = Windows(known, contract, names, UNTIL, UNTIL + DAY)
    found = {}
    with TemporaryDirectory() as scratch:
        for one in counted(windows, table.schema, table.to_batches(), Path(scratch), 2):
            rows = with_values(known, contract, encode_arrow(contract.asked, one.rows), one.values)
            scores = scorer.score(rows)
            for i, key in enumerate(one.rows[KEY].to_pylist()):
                found[key] = (bytes_of(rows[i : i + 1]), scores[i])
    return found


def bytes_of(rows: Encoded) -> bytes:
    """Return all bits of encoded rows."""
    return rows.numbers.tobytes() + rows.categories.tobytes()


def request_of(row: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the request about a swipe."""
    named = {CARD: row[CARD], KEY: row[KEY], TIME: row[TIME].isoformat()}
    return {**named, "features": {name: row[name] for name in ASKED}, **more}


def requests_of(table: pa.Table, **more: Any) -> list[dict[str, Any]]:
    """Return the requests about swipes, in their order."""
    return [request_of(row, **more) for row in table.to_pylist()]


def lineage_of(onnx: bytes) -> Lineage:
    """Return where a model of swipes comes from."""
    return Lineage(model="swipes", version="7", sha256=Scorer(onnx).sha256)
