"""A new snapshot of a source is reported once, whoever committed it, and only if its rows may have changed."""

import json
from pathlib import Path
from urllib.parse import urlparse

import dagster as dg
import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog

from assets.resources import Backends
from assets.sources import report_tables
from models.errors import LakehouseError
from orchestration.sensors.sources import source_observer, source_observers
from tests.event_model import DECLARED
from tests.lives import TINY, changed, declare, write_table

TABLE = "silver.active_customers"
KEY = dg.AssetKey(["silver", "active_customers"])
ROWS = pa.table({"customer_id": [1, 2, 3]})


@pytest.fixture
def others(home):
    """The catalog as another tool sees it."""
    catalog = load_catalog("tandem", type="sql", uri=home.catalog, warehouse=home.lake)
    catalog.create_namespace_if_not_exists("silver")
    yield catalog
    catalog.close()


@pytest.fixture
def look(tick):
    sensor = source_observer(TABLE)
    return lambda *settings: tick(sensor, *settings)


def reported(data) -> dict:
    (event,) = data.asset_events
    assert event.asset_key == KEY
    facts = {name: getattr(value, "value", value) for name, value in event.metadata.items()}
    assert event.tags["dagster/data_version"] == f"iceberg:{facts['iceberg_snapshot']}"
    return facts


def test_each_table_has_one_sensor_however_many_models_read_it(home):
    tiny = declare(home, TINY)
    other = declare(home, TINY, name="other", outcomes={"table": "silver.outcomes"})
    names = [sensor.name for sensor in source_observers([tiny, other])]
    assert names == ["silver_active_customers_observer", "silver_outcomes_observer", "silver_tiny_examples_observer"]


def test_the_features_of_events_are_made_here_and_not_watched(home):
    names = [sensor.name for sensor in source_observers([declare(home, DECLARED)])]
    assert names == ["silver_card_swipes_observer"]


def test_a_table_that_is_not_there_yet_is_waited_for(look, others):
    assert "no table" in look().skip_message
    others.create_table(TABLE, ROWS.schema)
    assert "no snapshot yet" in look().skip_message
    others.load_table(TABLE).append(ROWS)
    assert reported(look())["dagster/row_count"] == 3


def test_a_commit_of_another_tool_is_reported_once(look, others):
    others.create_table(TABLE, ROWS.schema).append(ROWS)
    facts = reported(look())
    assert facts["change"] == "seen for the first time"
    assert facts["operation"] == "append"
    assert facts["iceberg_snapshot"] == str(others.load_table(TABLE).current_snapshot().snapshot_id)
    again = look()
    assert again.asset_events == []
    assert again.skip_message == f"No new snapshot of {TABLE}."


def test_several_commits_between_two_looks_are_told_as_one(look, others):
    others.create_table(TABLE, ROWS.schema).append(ROWS)
    look()
    for _ in range(3):
        others.load_table(TABLE).append(ROWS)
    facts = reported(look())
    assert (facts["commits"], facts["added_rows"], facts["dagster/row_count"]) == (3, 9, 12)
    assert facts["change"] == "3 commits since the last look"


def test_a_table_that_was_dropped_and_made_anew_is_reported(look, others):
    others.create_table(TABLE, ROWS.schema).append(ROWS)
    look()
    others.drop_table(TABLE)
    assert "no table" in look().skip_message
    others.create_table(TABLE, ROWS.schema).append(ROWS.slice(0, 1))
    facts = reported(look())
    assert (facts["change"], facts["dagster/row_count"]) == ("the table was made anew", 1)
    assert "commits" not in facts


def test_a_main_that_was_put_back_is_reported(look, others):
    table = others.create_table(TABLE, ROWS.schema)
    table.append(ROWS)
    first = table.current_snapshot().snapshot_id
    table.append(ROWS)
    look()
    others.load_table(TABLE).manage_snapshots().rollback_to_snapshot(first).commit()
    facts = reported(look())
    assert (facts["change"], facts["iceberg_snapshot"]) == ("put back to an earlier state", str(first))
    assert facts["dagster/row_count"] == 3


def test_a_main_on_another_line_is_reported(look, others):
    table = others.create_table(TABLE, ROWS.schema)
    table.append(ROWS)
    table.manage_snapshots().create_branch(table.current_snapshot().snapshot_id, "side").commit()
    table.append(ROWS)
    look()
    table.append(ROWS.slice(0, 1), branch="side")
    others.load_table(TABLE).manage_snapshots().set_current_snapshot(ref_name="side").commit()
    assert "does not descend" in reported(look())["change"]


def test_commits_beyond_the_history_are_not_counted(look, others):
    table = others.create_table(TABLE, ROWS.schema)
    table.append(ROWS)
    seen = table.current_snapshot().snapshot_id
    look()
    table.append(ROWS)
    others.load_table(TABLE).maintenance.expire_snapshots().by_id(seen).commit()
    facts = reported(look())
    assert "expired" in facts["change"]
    assert "commits" not in facts


def test_a_compaction_is_no_news(look, others):
    table = others.create_table(TABLE, ROWS.schema)
    table.append(ROWS)
    look()
    table.append(ROWS)  # pyiceberg does not compact: let this commit say that it did
    raw = json.loads(Path(urlparse(table.metadata_location).path).read_text())
    raw["snapshots"][-1]["summary"]["operation"] = "replace"
    Path(urlparse(table.metadata_location).path).write_text(json.dumps(raw))
    assert "its rows are the same" in look().skip_message
    others.load_table(TABLE).append(ROWS)
    assert reported(look())["commits"] == 1


def test_what_was_recorded_already_is_not_reported_again(home, instance, look):
    write_table(home, TABLE, ROWS)
    report_tables(Backends(home), instance, [TABLE])
    assert "recorded already" in look().skip_message
    assert look().skip_message == f"No new snapshot of {TABLE}."


def test_a_catalog_that_is_away_fails_the_tick_and_is_found_again(home, look, others):
    others.create_table(TABLE, ROWS.schema).append(ROWS)
    with pytest.raises(LakehouseError, match="does not answer"):
        look(changed(home, catalog_uri="http://127.0.0.1:9"))
    assert reported(look())["dagster/row_count"] == 3
