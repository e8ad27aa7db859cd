"""The demo's customers as a file: what makes it a file from a department, and that it can be made again."""

from datetime import date

import pyarrow.compute as pc

from demo.customers_csv import customers_table, main

TODAY = date(2026, 11, 28)


def test_the_same_day_gives_the_same_file():
    assert customers_table(500, TODAY).equals(customers_table(500, TODAY))


def test_a_fifth_of_the_customers_is_still_open_and_the_keys_are_unique():
    table = customers_table(1000, TODAY)
    assert table["churned"].null_count == 200
    assert set(table["churned"].drop_null().to_pylist()) == {"yes", "no"}
    assert len(pc.unique(table["customer_id"])) == len(pc.unique(table["contract_number"])) == 1000
    assert pc.unique(table["currency"]).to_pylist() == ["EUR"]


def test_only_who_has_left_has_cancelled_and_after_being_observed():
    for row in customers_table(2000, TODAY).to_pylist():
        assert (row["cancelled_on"] is not None) == (row["churned"] == "yes")
        assert row["cancelled_on"] is None or 0 <= (row["cancelled_on"] - row["observed_on"]).days < 30


def test_the_file_is_a_csv_with_a_row_for_each(tmp_path, capsys):
    main(tmp_path / "customers.csv", 300)
    lines = (tmp_path / "customers.csv").read_text().splitlines()
    assert len(lines) == 301
    assert "300 customers" in capsys.readouterr().out
