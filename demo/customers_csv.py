"""The demo's customers as a file that a department hands over: `python -m demo.customers_csv customers.csv`.

It has what such files have: yes and no, a contract's number that identifies, a currency that never changes, the day of
the cancellation, which only who has left can have, and customers whose outcome is still open.
"""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.csv as pc
import typer

from demo.draws import Draws
from demo.population import Chunk, active_customers, churn_examples, last_labelled_month

SEED, OPEN_SHARE = 7, 0.2
LEFT_WITHIN_DAYS = 30
UNITS = {"tenure_months": ("tenure_years", 12), "days_to_contract_end": ("months_to_contract_end", 30.4)}


def customers_table(rows: int, today: date, seed: int = SEED) -> pa.Table:
    """Return `rows` customers as the file has them; of the last fifth the outcome is not known yet."""
    still_open = round(rows * OPEN_SHARE)
    past = churn_examples(Chunk(0, rows - still_open), seed=seed, last_month=last_labelled_month(today))
    now = active_customers(Chunk(0, still_open), seed=seed, as_of=today).drop_columns(["updated_at"])
    now = now.add_column(1, "observed_on", pa.array([today] * still_open, pa.date32()))
    now = now.append_column("churned", pa.nulls(still_open, pa.bool_()))
    plain = [table.cast(_without_dictionaries(table.schema)) for table in (past, now)]
    return _as_handed_over(pa.concat_tables(plain), Draws(rows, seed, 2, 0))


def _as_handed_over(table: pa.Table, draws: Draws) -> pa.Table:
    """Add what nobody asked for, and spell the outcome as people do."""
    left = table["churned"].to_pylist()
    days = table["observed_on"].to_numpy() + draws.whole(LEFT_WITHIN_DAYS)
    numbers = 40_000_000 + 16 * np.arange(len(table)) + draws.whole(16)
    added = {
        "contract_number": pa.array([f"V-{number}" for number in numbers]),
        "currency": pa.array(["EUR"] * len(table)),
        "cancelled_on": pa.array(days, mask=np.array([not gone for gone in left])),
        "churned": pa.array([None if gone is None else "yes" if gone else "no" for gone in left], pa.string()),
    }
    return pa.table(dict(_in_other_units(name, table[name]) for name in table.column_names) | added)


def _in_other_units(name: str, values: pa.ChunkedArray) -> tuple[str, pa.ChunkedArray]:
    """Rename a column and give it a decimal, where a department counts in years and months."""
    if name not in UNITS:
        return name, values
    other, length = UNITS[name]
    return other, compute.round(compute.divide(values.cast(pa.float64()), length), 1)


def _without_dictionaries(schema: pa.Schema) -> pa.Schema:
    return pa.schema([f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in schema])


def main(
    path: Annotated[Path, typer.Argument(help="The file to write.")],
    rows: Annotated[int, typer.Option(help="Customers in it.", min=100)] = 20_000,
) -> None:
    """Write the file."""
    pc.write_csv(customers_table(rows, datetime.now(UTC).date()), path, pc.WriteOptions(quoting_style="needed"))
    typer.echo(f"{path}: {rows:,} customers, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
