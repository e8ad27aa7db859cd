"""`make demo`: the whole life of one model on a made population, with its progress, and a summary of a screenful."""

import io
import time
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from rich.console import Console, RenderableType

from assets.sources import report_tables
from backends.engines import LocalEngine
from backends.settings import Settings
from demo.lake import CUSTOMERS, EXAMPLES, write_customers, write_examples
from demo.population import best_possible_auc, last_labelled_month
from demo.summary import summary
from orchestration.home import prepare
from orchestration.life import Life, screen, stay_up
from orchestration.progress import Stages
from orchestration.summary import Facts

MODEL = "churn"


@dataclass
class Demo(Life):
    """One run of the demo: a life that begins with a made population."""

    model: str = MODEL

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


def run_demo(settings: Settings, *, rows: int, examples: int, seed: int, stay: bool) -> None:
    """Make, train, score, publish, serve, prove and sum up."""
    begun = time.monotonic()
    prepare(settings)
    console = screen()
    with Stages(console) as stages:
        demo = Demo(settings, stages)
        demo.check_port()
        ceiling = demo.population(rows, examples, seed)
        instance = dg.DagsterInstance.get()
        report_tables(demo.backends, instance, (CUSTOMERS, EXAMPLES))
        demo.run_job(instance, "train, quantize, promote, build", f"{MODEL}_training")
        with demo.api() as process:
            demo.run_job(instance, "score, publish, load, prove", f"{MODEL}_nightly", demo.today.isoformat())
            demo.run_job(instance, "drift, outcomes, costs", f"{MODEL}_watch", demo.today.isoformat())
            stages.close()
            facts = Facts(demo.declaration, demo.backends, instance, demo.url, time.monotonic() - begun)
            shown = summary(facts, ceiling)
            console.print(shown)
            keep(shown, settings.home / "demo.svg")
            if stay:
                stay_up(console, demo.url, process.wait)


def keep(shown: RenderableType, path: Path) -> None:
    """Keep the summary as a picture."""
    recorder = Console(record=True, width=112, file=io.StringIO())
    recorder.print(shown)
    recorder.save_svg(str(path), title="make demo")
