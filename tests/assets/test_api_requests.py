"""The asset of logged requests: what it reports, and that it says so when a line cannot be read."""

import time

import dagster as dg

from assets.resources import Backends
from tests.backends.test_request_logs import answered, logged
from tests.lives import TINY, checks, declare, run_job
from tests.tiny_model import FEATURES, tiny_contract


def facts_of(result: dg.ExecuteInProcessResult) -> dict:
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def test_the_asset_lands_each_request_once_and_says_what_it_did(home, instance):
    declare(home, TINY)
    logged(home.request_log_of("tiny"), answered(tiny_contract(), 12, at=time.time()))
    first = run_job(home, instance, "tiny_requests")
    again = run_job(home, instance, "tiny_requests")
    assert first.success
    assert again.success
    facts, later = facts_of(first), facts_of(again)
    assert (facts["rows_added"], facts["files"], facts["dagster/row_count"]) == (12, 1, 12)
    assert (later["rows_added"], later["files"], later["dagster/row_count"]) == (0, 0, 12)
    described = {column.name: column.description for column in facts["dagster/column_schema"].columns}
    assert described["balance"] == "As it was scored. A number from -10000 to 10000."
    assert described["tenure_months"] == "As it was scored. Months since the first contract. A number from 0 to 600."
    assert described["plan"] == "As it was scored. Tariff. One of basic, plus, pro."
    sources = facts["dagster/column_lineage"].deps_by_column
    assert {(dep.asset_key.to_user_string(), dep.column_name) for dep in sources["tiny_probability"]} == {
        ("tiny/online_features", name) for name in FEATURES
    }
    assert all(described.values())
    assert checks(first)["every_logged_line_is_read"].passed
    with Backends(home).lakehouse() as lake:
        assert lake.read("silver.tiny_requests").num_rows == 12


def test_rows_older_than_declared_are_forgotten(home, instance):
    declare(home, TINY, api={"log_days": 30})
    logged(home.request_log_of("tiny"), answered(tiny_contract(), 2, at=time.time() - 31 * 86_400))
    logged(home.request_log_of("tiny"), answered(tiny_contract(), 5, at=time.time() - 29 * 86_400))
    facts = facts_of(run_job(home, instance, "tiny_requests"))
    assert (facts["rows_added"], facts["rows_forgotten"], facts["dagster/row_count"]) == (7, 2, 5)


def test_nothing_logged_is_no_table_and_no_error(home, instance):
    declare(home, TINY)
    facts = facts_of(run_job(home, instance, "tiny_requests"))
    assert (facts["rows_added"], "dagster/row_count" in facts) == (0, False)


def test_a_line_that_cannot_be_read_fails_the_check_and_not_the_asset(home, instance):
    declare(home, TINY)
    folder = home.request_log_of("tiny")
    logged(folder, answered(tiny_contract(), 3, at=time.time()))
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    result = run_job(home, instance, "tiny_requests")
    assert result.success
    check = checks(result)["every_logged_line_is_read"]
    assert not check.passed
    assert path.name in check.metadata["reasons"].value
    assert facts_of(result)["rows_added"] == 2
