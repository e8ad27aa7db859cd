"""Write the demo's card transactions into the lake: one Iceberg table, a file for each day, in one commit."""

from collections.abc import Callable

from backends.engines import Engine
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import Snapshot
from demo.lake import write_pieces
from demo.transactions import Stream

TRANSACTIONS = "silver.card_transactions"


def write_transactions(lake: Lakehouse, engine: Engine, stream: Stream, tick: Callable[[int], None]) -> Snapshot:
    """Replace `silver.card_transactions` by the stream; `tick` is told the rows of each finished day."""
    schema, distinct = stream.table(0).schema, ("transaction_id", "occurred_at")
    return write_pieces(lake, engine, TRANSACTIONS, schema, len(stream.days), stream.table, tick, distinct)
