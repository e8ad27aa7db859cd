"""Runs whose process is gone: they fail, so that run retries start them again; all others are left alone."""

import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import dagster as dg
import grpc
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.monitoring.run_monitoring import monitor_started_run  # what the daemon does with the answer
from dagster._grpc.__generated__.dagster_api_pb2 import CanCancelExecutionReply
from dagster._grpc.__generated__.dagster_api_pb2_grpc import DagsterApiServicer, add_DagsterApiServicer_to_server
from dagster._grpc.types import CanCancelExecutionResult
from dagster._serdes import serialize_value

from tests.serving import free_port


@pytest.fixture(scope="module")
def instance(tmp_path_factory) -> Iterator[dg.DagsterInstance]:
    config = {"run_launcher": {"module": "orchestration.launcher", "class": "WatchedRunLauncher"}}
    config |= {"run_monitoring": {"enabled": True}, "telemetry": {"enabled": False}}
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("instance")), overrides=config) as instance:
        yield instance


class CodeServer(DagsterApiServicer):
    """Answers one question of a code server: whether a run is in its hands."""

    def __init__(self, alive: bool, seconds: float) -> None:
        self.answer, self.seconds = serialize_value(CanCancelExecutionResult(can_cancel=alive)), seconds

    def CanCancelExecution(self, request, context) -> CanCancelExecutionReply:  # noqa: N802  its name in the protocol
        time.sleep(self.seconds)
        return CanCancelExecutionReply(serialized_can_cancel_execution_result=self.answer)


@contextmanager
def code_server(alive: bool, seconds: float = 0) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(1))
    add_DagsterApiServicer_to_server(CodeServer(alive, seconds), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def started(instance, **server) -> dg.DagsterRun:
    tags = {".dagster/grpc_info": json.dumps({"host": "localhost", **server})} if server else {}
    return create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, tags=tags)


def look(instance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    record = instance.get_run_record_by_id(run.run_id)
    monitor_started_run(instance, None, record, logging.getLogger("test"))
    return instance.get_run_by_id(run.run_id).status


def test_a_run_of_a_server_that_is_gone_fails(instance, tmp_path):
    for gone in ({"socket": str(tmp_path / "gone")}, {"port": free_port()}):
        run = started(instance, **gone)
        assert instance.run_launcher.check_run_worker_health(run).status is WorkerStatus.FAILED
        assert look(instance, run) is dg.DagsterRunStatus.FAILURE


def test_a_run_of_the_command_line_is_left_alone(instance):
    run = started(instance)
    assert look(instance, run) is dg.DagsterRunStatus.STARTED


@pytest.mark.parametrize(("alive", "status"), [(True, "STARTED"), (False, "FAILURE")])
def test_the_server_that_started_a_run_is_asked_for_it(instance, alive, status):
    with code_server(alive) as port:
        assert look(instance, started(instance, port=port)).value == status


def test_a_server_that_is_busy_is_believed_to_have_its_runs(instance, monkeypatch):
    monkeypatch.setattr("orchestration.launcher.SECONDS", 0.1)
    with code_server(alive=False, seconds=0.5) as port:
        assert look(instance, started(instance, port=port)) is dg.DagsterRunStatus.STARTED
