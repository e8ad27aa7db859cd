"""Write the demo's population into the lake: two Iceberg tables, each in one commit."""

from collections.abc import Callable, Sequence
from datetime import date
from itertools import chain

import pyarrow as pa

from backends.engines import Engine
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.publishing import write_whole
from backends.lakehouse.reading import Snapshot
from demo.customers import MAY_BE_MISSING
from demo.population import Chunk, active_customers, churn_examples, customer_chunks, last_labelled_month

CUSTOMERS = "silver.active_customers"
EXAMPLES = "silver.churn_examples"
KEY = "customer_id"


def write_customers(
    lake: Lakehouse, engine: Engine, rows: int, seed: int, as_of: date, tick: Callable[[int], None]
) -> Snapshot:
    """Replace `silver.active_customers`; `tick` is told the rows of each finished chunk."""
    return write_chunks(
        lake, engine, CUSTOMERS, rows, lambda chunk: active_customers(chunk, seed=seed, as_of=as_of), tick
    )


def write_examples(
    lake: Lakehouse, engine: Engine, rows: int, seed: int, as_of: date, tick: Callable[[int], None]
) -> Snapshot:
    """Replace `silver.churn_examples`: the twelve months whose outcomes are known on `as_of`."""
    month = last_labelled_month(as_of)
    return write_chunks(
        lake, engine, EXAMPLES, rows, lambda chunk: churn_examples(chunk, seed=seed, last_month=month), tick
    )


def write_chunks(
    lake: Lakehouse,
    engine: Engine,
    table: str,
    rows: int,
    make: Callable[[Chunk], pa.Table],
    tick: Callable[[int], None],
) -> Snapshot:
    """Replace a table by what `make` makes of each chunk of its rows."""
    columns, chunks = make(Chunk(0, 1)).schema, customer_chunks(rows)
    schema = pa.schema([field.with_nullable(field.name in MAY_BE_MISSING) for field in columns])
    return write_pieces(lake, engine, table, schema, len(chunks), lambda index: make(chunks[index]), tick, (KEY,))


def write_pieces(
    lake: Lakehouse,
    engine: Engine,
    table: str,
    schema: pa.Schema,
    pieces: int,
    make: Callable[[int], pa.Table],
    tick: Callable[[int], None],
    distinct: Sequence[str] = (),
) -> Snapshot:
    """Replace a table by what `make` makes of each number below `pieces`; `distinct` columns hardly repeat a value."""
    plain = pa.schema([f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in schema])
    lake.ensure_table(table, plain)
    with lake.parts(table, "", schema, distinct) as parts:

        def write(piece: int) -> list[str]:
            made = make(piece).cast(schema)
            addresses = parts.write(piece, made.to_batches())
            tick(len(made))
            return addresses

        return write_whole(lake, table, list(chain.from_iterable(engine.map(write, range(pieces)))), {})
