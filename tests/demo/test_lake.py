"""The demo's tables as they stand in the lake."""

from datetime import date

from backends.engines import LocalEngine
from backends.lakehouse.catalog import Lakehouse
from backends.settings import Settings
from demo.customers import MAY_BE_MISSING
from demo.lake import CUSTOMERS, EXAMPLES, write_customers, write_examples


def test_columns_that_are_never_missing_are_required(tmp_path):
    with Lakehouse.open(Settings(home=tmp_path)) as lake:
        for write, table in ((write_customers, CUSTOMERS), (write_examples, EXAMPLES)):
            for _ in range(2):  # the second replaces the first
                write(lake, LocalEngine(1), 300, 7, date(2026, 11, 24), lambda _: None)
            schema = lake.schema(table)
            assert {field.name for field in schema if field.nullable} == set(MAY_BE_MISSING)
            assert lake.read(table).num_rows == 300
