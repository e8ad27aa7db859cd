"""`make demo`: the whole life of one model on a made population, with its progress, and a summary of a screenful."""

import io
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
from rich.console import Console, RenderableType

from assets.resources import Backends
from assets.sources import report_tables
from backends.engines import LocalEngine
from backends.settings import Settings
from bento.client import ApiClient
from demo.jobs import run_job, succeeded
from demo.lake import CUSTOMERS, EXAMPLES, write_customers, write_examples
from demo.population import best_possible_auc, last_labelled_month
from demo.progress import Stages
from demo.summary import Facts, summary
from models.declaration import Declaration, load_declaration
from models.errors import ServiceUnreachableError, TandemError
from orchestration.definitions import assemble
from orchestration.home import prepare
from orchestration.processes import api_command

MODEL = "churn"
START_SECONDS = 60.0  # most that a service may take to answer


@dataclass
class Demo:
    """One run of the demo: its settings and what it has found so far."""

    settings: Settings
    stages: Stages
    model: str = MODEL
    today: date = field(default_factory=lambda: datetime.now(UTC).date())

    def __post_init__(self) -> None:
        self.declaration: Declaration = load_declaration(self.settings.models / f"{self.model}.yaml")
        self.backends = Backends(self.settings)
        self.definitions = assemble(self.settings, loggers={"console": self.stages.logger()})

    @property
    def url(self) -> str:
        """Where the API is to answer."""
        return self.settings.url_of_api(self.model, self.declaration.api.port)

    def population(self, rows: int, examples: int, seed: int) -> float:
        """Write both tables; return the best AUC that any model can reach on the test months."""
        engine = LocalEngine(self.settings.threads)
        with self.backends.lakehouse() as lake:
            with self.stages.stage(f"{rows:,} customers", total=rows) as stage:
                write_customers(lake, engine, rows, seed, self.today, stage.advance)
            with self.stages.stage(f"{examples:,} labelled examples", total=examples) as stage:
                write_examples(lake, engine, examples, seed, self.today, stage.advance)
        split = self.declaration.examples.split
        months = split.test_months if split.method == "time" else 12
        month = last_labelled_month(self.today)
        return best_possible_auc(examples, seed=seed, last_month=month, test_months=months)

    def run_job(self, instance: dg.DagsterInstance, title: str, job: str, partition: str | None = None) -> None:
        """Run one of Dagster's jobs here, with its steps shown."""
        with self.stages.stage(title):
            succeeded(run_job(self.definitions, instance, job, partition))

    @contextmanager
    def api(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the newest Bento; the process is stopped at the end."""
        command, environment = api_command(self.settings, self.model, self.declaration.api.port)
        log = (self.settings.home / "api.log").open("wb")
        with log, subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT) as process:
            try:
                with self.stages.stage("API starts"):
                    self._wait_for(process)
                yield process
            finally:
                process.terminate()
                process.wait(30)

    def _wait_for(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with ApiClient(self.url) as client:
                    client.lineage()
                return
            except ServiceUnreachableError:
                time.sleep(0.1)
        raise TandemError(f"The API does not answer at {self.url}; its log is {self.settings.home / 'api.log'}.")


def run_demo(settings: Settings, *, rows: int, examples: int, seed: int, stay: bool) -> None:
    """Make, train, score, publish, serve, prove and sum up."""
    begun = time.monotonic()
    prepare(settings)
    console = Console() if sys.stdout.isatty() else Console(width=110)
    with Stages(console) as stages:
        demo = Demo(settings, stages)
        ceiling = demo.population(rows, examples, seed)
        instance = dg.DagsterInstance.get()
        report_tables(demo.backends, instance, (CUSTOMERS, EXAMPLES))
        demo.run_job(instance, "train, quantize, promote, build", f"{MODEL}_training")
        with demo.api() as process:
            demo.run_job(instance, "score, publish, load, prove", f"{MODEL}_nightly", demo.today.isoformat())
            demo.run_job(instance, "drift, outcomes, costs", f"{MODEL}_watch", demo.today.isoformat())
            stages.close()
            facts = Facts(demo.declaration, demo.backends, instance, demo.url, ceiling, time.monotonic() - begun)
            screen = summary(facts)
            console.print(screen)
            keep(screen, settings.home / "demo.svg")
            if stay:
                stay_up(console, demo.url, process.wait)


def keep(screen: RenderableType, path: Path) -> None:
    """Keep the summary as a picture."""
    recorder = Console(record=True, width=112, file=io.StringIO())
    recorder.print(screen)
    recorder.save_svg(str(path), title="make demo")


def stay_up(console: Console, url: str, wait: Callable[[], Any]) -> None:
    """Leave the API running until Ctrl-C, or until it ends by itself."""
    console.print(f"The API stays at [link]{url}[/link]; Ctrl-C stops it.")
    try:
        wait()
    except KeyboardInterrupt:
        sys.stdout.write("\n")
