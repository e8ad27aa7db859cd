"""One model's life in this process, with its progress: run its jobs, start its API and wait until it answers."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console

from assets.resources import Backends
from backends.settings import Settings
from bento.client import ApiClient
from models.declaration import Declaration, load_declaration
from models.errors import ServiceUnreachableError, TandemError
from orchestration.definitions import assemble
from orchestration.processes import api_command
from orchestration.progress import Stages
from orchestration.runs import run_job, succeeded

START_SECONDS = 60.0  # most that a service may take to answer
WIDTH = 110  # of a screen that is no terminal


@dataclass
class Life:
    """A model, where it lives, and the screen that shows what happens."""

    settings: Settings
    stages: Stages
    model: str
    today: date = field(default_factory=lambda: datetime.now(UTC).date())

    def __post_init__(self) -> None:
        self.declaration: Declaration = load_declaration(self.settings.models / f"{self.model}.yaml")
        self.backends = Backends(self.settings)
        self.definitions = assemble(self.settings, loggers={"console": self.stages.logger()})

    @property
    def url(self) -> str:
        """Where the API is to answer."""
        return self.settings.url_of_api(self.model, self.declaration.api.port)

    @property
    def api_log(self) -> Path:
        """What the API writes on its console."""
        return self.settings.home / "api.log"

    def run_job(self, instance: dg.DagsterInstance, title: str, job: str, partition: str | None = None) -> None:
        """Run one of Dagster's jobs here, with its steps shown."""
        with self.stages.stage(title):
            succeeded(run_job(self.definitions, instance, job, partition))

    @contextmanager
    def api(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the newest Bento; the process is stopped at the end."""
        command, environment = api_command(self.settings, self.model, self.declaration.api.port)
        log = self.api_log.open("wb")
        with log, subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT) as process:
            try:
                with self.stages.stage("API starts"):
                    self._wait_for(process)
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()

    def _wait_for(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with ApiClient(self.url) as client:
                    client.lineage()
                return
            except ServiceUnreachableError:
                time.sleep(0.1)
        raise TandemError(f"The API does not answer at {self.url}; its log is {self.api_log}.{self._last_words()}")

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.api_log.read_text(errors="replace").splitlines() if line.strip()]
        return f" It ends with: {lines[-1]}" if lines else ""


def screen() -> Console:
    """Return the terminal, or a screen of a fixed width where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=WIDTH)


def stay_up(console: Console, url: str, wait: Callable[[], Any]) -> None:
    """Leave the API running until Ctrl-C, or until it ends by itself."""
    console.print(f"The API stays at [link]{url}[/link]; Ctrl-C stops it.")
    try:
        wait()
    except KeyboardInterrupt:
        sys.stdout.write("\n")
