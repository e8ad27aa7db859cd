"""`tandem run` of a model of events: which days it makes, and one whole life."""

import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from assets.predictions import partitions
from assets.resources import Backends
from assets.sources import report_tables
from backends.event_source import microseconds_of
from backends.event_span import FIRST as FIRST_MOMENT
from backends.event_span import LAST as LAST_MOMENT
from backends.event_span import _moment, days_with_events
from backends.settings import ROOT, Settings
from models.declaration import Declaration
from models.errors import LakehouseError, TableNotFoundError, TandemError
from orchestration.whole_life import days_to_count, tables_to_report
from tests.event_model import DECLARED, labelled_swipes
from tests.lives import SMALL, TINY, changed, declare, merged, write_table
from tests.serving import free_port

LAST = datetime.now(UTC).date() - timedelta(days=1)  # that is over
FIRST = LAST - timedelta(days=7)
SWIPES = DECLARED["events"]["table"]


def declared(settings: Settings, **changes: object) -> Declaration:
    return declare(settings, DECLARED, predictions={"first_day": str(FIRST)} | changes)


def at(*moments: str) -> pa.Table:
    """Return events of one card at some times."""
    times = pa.array([datetime.fromisoformat(moment) for moment in moments], pa.timestamp("us", "UTC"))
    table = labelled_swipes(len(moments), FIRST, 1)
    return table.set_column(table.column_names.index("swiped_at"), "swiped_at", times)


@pytest.mark.parametrize(
    ("timezone", "days"),
    [("UTC", (date(2026, 3, 1), date(2026, 3, 9))), ("Europe/Berlin", (date(2026, 3, 1), date(2026, 3, 10)))],
)
def test_the_days_of_events_are_those_of_the_declared_time_zone_over_all_files(home, timezone, days):
    model = declared(home, timezone=timezone)
    write_table(home, SWIPES, at("2026-03-05T00:00Z", "2026-03-09T23:30Z"), at("2026-03-01T00:00Z"))
    with Backends(home).lakehouse() as lake:
        assert days_with_events(lake, model) == days


@pytest.mark.parametrize("timezone", ["Europe/Berlin", "America/New_York"])
def test_events_with_times_that_mean_never_do_not_break_the_days(home, timezone):
    model = declared(home, timezone=timezone)
    write_table(home, SWIPES, at("0001-01-01T00:00Z", "2026-03-05T00:00Z", "9999-12-31T23:59:59Z"))
    with Backends(home).lakehouse() as lake:
        assert days_with_events(lake, model)[0].year == 1
        assert days_with_events(lake, model)[1].year == 9999
    assert days_to_count(model, FIRST, date(9999, 12, 31))[1] == LAST


def test_a_time_after_the_last_year_is_the_last_day_that_there_is():
    assert _moment(microseconds_of(LAST_MOMENT) * 2) == LAST_MOMENT
    assert _moment(-(2**63)) == FIRST_MOMENT


def test_a_table_without_events_is_said(home):
    model = declared(home)
    write_table(home, SWIPES, at())
    with (
        Backends(home).lakehouse() as lake,
        pytest.raises(LakehouseError, match=r"card_swipes' has no row with a time"),
    ):
        days_with_events(lake, model)


@pytest.mark.parametrize(
    ("first", "last", "days"),
    [
        (FIRST - timedelta(days=9), LAST + timedelta(days=1), (FIRST, LAST)),  # before the first night, and today
        (FIRST + timedelta(days=1), LAST - timedelta(days=1), (FIRST + timedelta(days=1), LAST - timedelta(days=1))),
        (FIRST, date(2999, 1, 1), (FIRST, LAST)),
    ],
)
def test_days_are_made_that_are_over_and_since_the_first_night(home, first, last, days):
    model = declared(home)
    assert days_to_count(model, first, last) == days
    keys = partitions(model).get_partition_keys()
    assert {day.isoformat() for day in days} <= set(keys)


@pytest.mark.parametrize("offset", [-30, 9])
def test_when_no_day_can_be_made_the_remedy_is_said(home, offset):
    first = FIRST + timedelta(days=offset)
    with pytest.raises(TandemError, match=r"no day is over and since predictions.first_day, .* Set that to an earlier"):
        days_to_count(declared(home), first, first + timedelta(days=2))


def test_tables_that_others_write_are_told_of_and_not_the_one_that_is_made(home):
    assert tables_to_report(Backends(home), declared(home)) == [SWIPES]
    tiny = declare(home, TINY)
    assert tables_to_report(Backends(home), tiny) == ["silver.active_customers", "silver.tiny_examples"]


def test_a_table_that_is_needed_and_not_there_is_said_before_anything_runs(home, instance):
    backends = Backends(home)
    with pytest.raises(TableNotFoundError, match=r"silver.active_customers"):
        report_tables(backends, instance, tables_to_report(backends, declare(home, TINY)))


def test_outcomes_are_told_of_once_they_are_there(home):
    needed = tables_to_report(Backends(home), declare(home, TINY))
    tiny = declare(home, TINY, outcomes={"table": "silver.outcomes"})
    assert tables_to_report(Backends(home), tiny) == needed
    write_table(home, "silver.outcomes", pa.table({"id": [1]}))
    assert tables_to_report(Backends(home), tiny) == sorted([*needed, "silver.outcomes"])


@pytest.mark.slow
def test_a_model_of_events_lives_from_its_table_to_a_proven_api(home):
    port = free_port()
    settings = changed(home, api_url=f"http://127.0.0.1:{port}")
    write_table(settings, SWIPES, labelled_swipes(1600, FIRST, 9))  # today's too, which are not over
    examples = {"label": "is_fraud", "split": {"method": "stratified"}}
    small = merged(DECLARED, SMALL) | {"examples": examples, "api": {"port": port}}
    loose = {"min_auc": 0.5, "max_calibration_error": 0.3}
    declare(settings, small, gates=loose, predictions={"first_day": str(FIRST + timedelta(days=1))})
    variables = {"TANDEM_HOME": str(home.home), "TANDEM_MODELS": str(home.models), "TANDEM_API_URL": settings.api_url}
    command = [sys.executable, "-m", "orchestration.cli", "run", "swipes"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("histories of 7 days", "events in", "of 60 entities", "every answer is the same float32 as in Gold"):
        assert said in done.stdout
    with Backends(settings).lakehouse() as lake:
        assert set(lake.read("gold.swipes_predictions")["scored_on"].to_pylist()) == {LAST}
