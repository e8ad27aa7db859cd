"""One model's life in this process, with its progress: run its jobs, start its API and wait until it answers."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console

from assets.resources import Backends
from backends.settings import Settings
from bento.building.build import find_bento
from bento.client import ApiClient
from bento.lineage import Lineage
from bento.serve import serve_command
from models.declaration import Declaration, load_declaration
from models.errors import PortTakenError, ServiceUnreachableError, TandemError
from orchestration.definitions import assemble
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
        return self.settings.home / f"api-{self.model}.log"

    def run_job(
        self,
        instance: dg.DagsterInstance,
        title: str,
        job: str,
        partition: str | None = None,
        days: tuple[date, date] | None = None,
    ) -> None:
        """Run one of Dagster's jobs here, of one partition or of a range of days, with its steps shown."""
        bounds = dict(zip(("start", "end"), days or (), strict=False))
        tags = {f"dagster/asset_partition_range_{name}": day.isoformat() for name, day in bounds.items()}
        with self.stages.stage(title):
            succeeded(run_job(self.definitions, instance, job, partition, tags=tags))

    def check_port(self) -> None:
        """Raise `PortTakenError`, with what answers there, when somebody listens where the API is to, or its gRPC."""
        from bento.open_inference.lane import check_port_is_free, grpc_port

        port = self.declaration.api.port
        with socket.socket() as trial:
            trial.settimeout(1)
            is_taken = not trial.connect_ex(("127.0.0.1", port))
        if is_taken:
            raise PortTakenError(
                f"Port {port} is taken: {_who_answers(port)} is there. Stop it, or give {self.model!r} another port "
                f"(`api: {{port: ...}}` in models/{self.model}.yaml)."
            )
        if beside := grpc_port(self.settings, self.declaration):
            check_port_is_free(beside)

    @contextmanager
    def api(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the newest Bento, and nobody else's; the process is stopped at the end."""
        self.check_port()
        bento = find_bento(self.settings.bentoml_home, self.model)
        command, environment = serve_command(bento, self.settings, self.declaration.api.port)
        built = Lineage.read(bento.model_folder)
        log = self.api_log.open("wb")
        with log, subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT) as process:
            try:
                with self.stages.stage("API starts"):
                    self._wait_for(process, built)
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()

    def _wait_for(self, process: subprocess.Popen[bytes], built: Lineage) -> None:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with ApiClient(self.url) as client:
                    found = client.lineage()
            except ServiceUnreachableError:
                time.sleep(0.1)
                continue
            if (found["model"], found["sha256"]) == (built.model, built.sha256):
                return
            raise TandemError(
                f"At {self.url} answers {_named(found)}, not {_named(built.model_dump())} that was started on port "
                f"{self.declaration.api.port}. Stop the one, or correct TANDEM_API_URL."
            )
        raise TandemError(f"The API does not answer at {self.url}; its log is {self.api_log}.{self._last_words()}")

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.api_log.read_text(errors="replace").splitlines() if line.strip()]
        return f" It ends with: {lines[-1]}" if lines else ""


def _named(lineage: Mapping[str, Any]) -> str:
    return f"the service of {lineage['model']!r}, version {lineage['version']} ({str(lineage['sha256'])[:8]})"


def _who_answers(port: int) -> str:
    """Ask the port itself: the API's address may be that of a gateway."""
    try:
        with ApiClient(f"http://127.0.0.1:{port}") as client:
            return _named(client.lineage())
    except TandemError:
        return "no service of Tandem, or one that does not say which,"


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
