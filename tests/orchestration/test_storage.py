"""Dagster's history in a real PostgreSQL: written by one process, read by another, by one variable."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus

from backends.settings import QUIET, ROOT
from orchestration.home import prepare
from tests.lives import TINY, changed, declare, reason_of, run_job
from tests.orchestration.daemon import Daemon
from tests.postgres import ENCODED, postgres

NAMES = ("TANDEM_HOME", "DAGSTER_HOME", "BENTOML_HOME", "DAGSTER_PG_URL", *QUIET)
READER = """
import json, sys
import dagster as dg
from backends.settings import Settings
from orchestration.home import prepare
prepare(Settings())
with dg.DagsterInstance.get() as instance:
    event = instance.get_latest_materialization_event(dg.AssetKey(["silver", "tiny_requests"]))
    ticks = [tick.status.value for tick in instance.get_ticks("tiny origin", "tiny selector")]
    print(json.dumps([type(instance.event_log_storage).__module__, event.run_id, ticks]))
"""


@pytest.fixture(scope="module")
def server():
    with postgres() as server:
        yield server


@pytest.fixture
def shared(home, server, monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    url = server.new_database().replace("postgresql+psycopg://", "postgresql://")
    return changed(home, dagster_storage=url)


def test_a_second_process_reads_the_runs_and_ticks_of_the_first(shared):
    declare(shared, TINY)
    prepare(shared)
    with dg.DagsterInstance.get() as instance:
        done = run_job(shared, instance, "tiny_requests")
        assert done.success, reason_of(done)
        tick = TickData(
            instigator_origin_id="tiny origin",
            instigator_name="tiny_training_schedule",
            instigator_type=InstigatorType.SCHEDULE,
            status=TickStatus.SUCCESS,
            timestamp=datetime.now(UTC).timestamp(),
            run_ids=[done.run_id],
            selector_id="tiny selector",
        )
        instance.create_tick(tick)
    variables = {"TANDEM_HOME": str(shared.home), "TANDEM_DAGSTER_STORAGE": shared.dagster_storage.get_secret_value()}
    reader = subprocess.run(
        [sys.executable, "-c", READER],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
    )
    assert reader.returncode == 0, reader.stderr
    assert json.loads(reader.stdout.splitlines()[-1]) == [
        "dagster_postgres.event_log.event_log",
        done.run_id,
        ["SUCCESS"],
    ]


def test_the_password_is_written_nowhere_and_sqlite_is_left_alone(shared):
    prepare(shared)
    with dg.DagsterInstance.get() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("anything"))
    files = [path for path in shared.dagster_home.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if path.suffix == ".db"]
    assert not [path for path in files if ENCODED.encode() in path.read_bytes()]


def test_a_night_is_requested_as_from_sqlite(shared):
    declare(shared, TINY)
    prepare(shared)
    with dg.DagsterInstance.get() as instance:
        daemon = Daemon(shared, instance, datetime(2026, 11, 20, 0, 30, tzinfo=UTC))
        daemon.look()
        daemon.tell("silver/active_customers", "iceberg:1")
        daemon.tell("tiny/champion", "a" * 64)
        assert daemon.requested_at(datetime(2026, 11, 20, 1, 59, tzinfo=UTC), "gold/tiny_predictions") == set()
        at_the_hour = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)
        assert daemon.requested_at(at_the_hour, "gold/tiny_predictions") == {"2026-11-20"}
