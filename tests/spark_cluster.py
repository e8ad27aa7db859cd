"""A real Spark cluster for tests: a standalone master and workers, started from the pyspark package on loopback.

Each worker has an address of its own, as another machine would: Spark runs no second copy of a task on the same host.
"""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.serving import free_port

START_SECONDS = 120
QUICK_START = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
SMALL = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "512m",
    "spark.driver.extraJavaOptions": QUICK_START,
    "spark.executor.cores": "1",
    "spark.executor.memory": "512m",
    "spark.executor.extraJavaOptions": QUICK_START,
}


@dataclass(frozen=True)
class Cluster:
    """A running master and its workers."""

    master: str
    workers: tuple[subprocess.Popen[bytes], ...]

    def executors(self) -> list[psutil.Process]:
        """Return the executors that run now: the workers' children."""
        children = [child for worker in self.workers for child in psutil.Process(worker.pid).children()]
        return [child for child in children if child.name() == "java" and child.status() != psutil.STATUS_ZOMBIE]

    def executor_of(self, pid: int) -> psutil.Process:
        """Return the executor that the Python process `pid` works for."""
        executors = self.executors()
        return next(parent for parent in psutil.Process(pid).parents() if parent in executors)


@contextmanager
def running_cluster(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    """Start a master and workers of one core each; stop them by their pids."""
    port, page = free_port(), free_port()
    master, started = f"spark://127.0.0.1:{port}", []
    try:
        arguments = ["master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", str(page)]
        started.append(_started(folder / "master", arguments, "127.0.0.1"))
        _wait(lambda: _status(page) is not None, started, folder)
        for number in range(workers):
            host = f"127.0.0.{number + 1}"
            arguments = ["worker.Worker", "--host", host, "--webui-port", "0", "--cores", "1", "--memory", "1g", master]
            started.append(_started(folder / f"worker-{number}", arguments, host))
        _wait(lambda: (_status(page) or {}).get("aliveworkers") == workers, started, folder)
        yield Cluster(master, tuple(started[1:]))
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(60)


def _started(folder: Path, arguments: list[str], host: str) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True)
    environment = {
        **os.environ,
        "SPARK_LOCAL_IP": host,
        "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_DAEMON_JAVA_OPTS": f"{QUICK_START} -Dspark.master.rest.enabled=false",
        "SPARK_WORKER_DIR": str(folder / "work"),
        "SPARK_LOCAL_DIRS": str(folder / "local"),
    }
    command = [str(spark_class()), f"org.apache.spark.deploy.{arguments[0]}", *arguments[1:]]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def spark_class() -> Path:
    """Return the program in the pyspark package that starts one of Spark's own."""
    import pyspark

    return Path(pyspark.__file__).parent / "bin" / "spark-class"


def java_is_missing() -> bool:
    """Tell whether Spark cannot run here."""
    return shutil.which("java") is None


def _status(page: int) -> dict[str, object] | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{page}/json/", timeout=10) as answer:
            return dict(json.load(answer))
    except OSError:
        return None


def _wait(ready: Callable[[], bool], processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        logs = "\n".join(log.read_text() for log in sorted(folder.glob("*/log")))
        assert all(process.poll() is None for process in processes), logs
        assert time.monotonic() < deadline, logs
        time.sleep(0.1)
