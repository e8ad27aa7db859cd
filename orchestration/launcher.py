"""Runs as processes of the code server, and whether they are still alive: a run that was killed fails, and is retried.

Dagster's own launcher does not tell: after a power cut a run would count as running until it times out, and its table
would wait for it.
"""

import grpc
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.storage.dagster_run import DagsterRun
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

SECONDS = 10  # that a busy server may take to answer


class WatchedRunLauncher(DefaultRunLauncher):
    """Dagster's launcher, which also answers whether a run's process is alive."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Yes: `run_monitoring` asks."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Ask the code server that started the run; a server that is gone has taken its runs with it."""
        client = self._get_grpc_client_for_termination(run.run_id)
        if client is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "not started by a code server")
        try:
            answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), timeout=SECONDS)
        except DagsterUserCodeUnreachableError as error:
            if _nobody_listens(error):
                return CheckRunHealthResult(WorkerStatus.FAILED, "the code server that started it is gone")
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the code server that started it does not answer in time")
        if deserialize_value(answer, CanCancelExecutionResult).can_cancel:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "its process has ended without a word")


def _nobody_listens(error: DagsterUserCodeUnreachableError) -> bool:
    """Tell a server that is gone from one that is busy."""
    cause = error.__cause__
    return isinstance(cause, grpc.RpcError) and cause.code() is grpc.StatusCode.UNAVAILABLE
