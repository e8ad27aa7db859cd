"""Write the demo's card transactions into the lake: one Iceberg table, a file for each day, in one commit."""

from collections.abc import Callable
from itertools import chain

import pyarrow as pa

from backends.engines import Engine
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.publishing import write_whole
from backends.lakehouse.reading import Snapshot
from demo.transactions import Stream

TRANSACTIONS = "silver.card_transactions"


def write_transactions(lake: Lakehouse, engine: Engine, stream: Stream, tick: Callable[[int], None]) -> Snapshot:
    """Replace `silver.card_transactions` by the stream; `tick` is told the rows of each finished day."""
    schema = stream.table(0).schema
    plain = pa.schema([f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in schema])
    lake.ensure_table(TRANSACTIONS, plain)
    with lake.parts(TRANSACTIONS, "", schema, distinct=("transaction_id", "occurred_at")) as parts:

        def write(day: int) -> list[str]:
            made = stream.table(day)
            addresses = parts.write(day, made.to_batches())
            tick(len(made))
            return addresses

        return write_whole(lake, TRANSACTIONS, list(chain.from_iterable(engine.map(write, stream.days))), {})
