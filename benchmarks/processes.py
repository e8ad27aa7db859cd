"""The processes that a benchmark starts: workers that answer lines with JSON, and servers that answer on a port."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.errors import TandemError

START_SECONDS = 120
STOP_SECONDS = 60
LOOK_EVERY_SECONDS = 0.02
LOG_CHARACTERS = 2000


class Worker:
    """One Python process of ours: it is told something, and answers with its figures in one line of JSON."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self._name, self._process = name, process

    @classmethod
    @contextmanager
    def start(cls, name: str, module: str, *arguments: str) -> Iterator["Worker"]:
        """Run a module; it ends when it has nothing more to read."""
        command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
        environment = os.environ | {"PYSPARK_PYTHON": sys.executable}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            try:
                yield cls(name, process)
            finally:
                assert process.stdin
                process.stdin.close()
                process.wait(STOP_SECONDS)

    def ask(self, line: str) -> dict[str, Any]:
        """Return the answer to one line; `SystemExit` when the process has ended instead."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self._name} ended before it answered; its error is above.")
        return dict(json.loads(answer))


@contextmanager
def serving(
    command: Sequence[str], environment: Mapping[str, str], log: Path, answers: Callable[[], bool]
) -> Iterator[tuple[int, float]]:
    """Run a server; give its process id and the seconds until it answered. SIGTERM ends it."""
    begun = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(list(command), env=dict(environment), stdout=file, stderr=file)
    try:
        while not answers():
            if process.poll() is not None or time.perf_counter() - begun > START_SECONDS:
                raise TandemError(f"`{' '.join(command)}` does not answer: {log.read_text()[-LOG_CHARACTERS:]}")
            time.sleep(LOOK_EVERY_SECONDS)
        yield process.pid, time.perf_counter() - begun
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
