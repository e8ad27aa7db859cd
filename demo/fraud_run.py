"""`make demo MODEL=fraud`: the life of a model of events, on a made stream of card swipes."""

import time
from dataclasses import dataclass
from datetime import timedelta

import dagster as dg
from rich.console import Group, RenderableType
from rich.panel import Panel

from assets.metadata import table_key
from assets.sources import report_tables
from backends.engines import LocalEngine
from backends.settings import Settings
from demo.card_lake import TRANSACTIONS, write_transactions
from demo.fraud_report import Yardstick, fraud_report, report_table
from demo.run import Demo, keep
from demo.transactions import Stream
from models.scoring import Scorer
from orchestration.home import prepare
from orchestration.life import screen, stay_up
from orchestration.progress import Stages
from orchestration.runs import run_job, succeeded
from orchestration.summary import Facts, parity

MODEL = "fraud"


@dataclass(frozen=True)
class FraudDemo:
    """One run: the demo's machinery, and the stream that it is about."""

    demo: Demo
    stream: Stream
    instance: dg.DagsterInstance

    def write(self) -> None:
        """Write the stream, and tell Dagster."""
        demo, engine = self.demo, LocalEngine(self.demo.settings.threads)
        progress = demo.stages.stage(f"{self.stream.rows:,} card swipes", total=self.stream.rows)
        with progress as stage, demo.backends.lakehouse() as lake:
            write_transactions(lake, engine, self.stream, stage.advance)
        report_tables(demo.backends, self.instance, (TRANSACTIONS,))

    def count_histories(self) -> float:
        """Make the feature table: all days in one run, as a backfill does. Return its seconds."""
        bounds = {"start": self.stream.first_day, "end": self.stream.last_day}
        tags = {f"dagster/asset_partition_range_{name}": day.isoformat() for name, day in bounds.items()}
        begun = time.monotonic()
        with self.demo.stages.stage("histories of all swipes"):
            succeeded(run_job(self.demo.definitions, self.instance, f"{MODEL}_features", tags=tags))
        return time.monotonic() - begun

    def measure(self) -> list[Yardstick]:
        """Measure the champion beside trees and the best that is possible."""
        backends, declaration = self.demo.backends, self.demo.declaration
        registry = backends.registry()
        version = registry.champion(MODEL)
        scorer = Scorer(registry.read_version(version), version.sha256)
        with self.demo.stages.stage("trees, and the best possible"), backends.lakehouse() as lake:
            return fraud_report(lake, declaration, scorer, self.stream)


def run_fraud_demo(settings: Settings, *, rows: int, seed: int, stay: bool = False) -> None:
    """Make a stream, count histories, train, score a day, publish, measure and sum up."""
    begun = time.monotonic()
    prepare(settings)
    console = screen()
    with Stages(console) as stages:
        demo = Demo(settings, stages, MODEL)
        demo.check_port()
        last_day = demo.today - timedelta(days=1)  # the newest whose swipes are all there
        run = FraudDemo(demo, Stream(rows, last_day, seed), dg.DagsterInstance.get())
        run.write()
        counting = run.count_histories()
        demo.run_job(run.instance, "train, quantize, promote, build", f"{MODEL}_training")
        with demo.api() as process:
            demo.run_job(run.instance, "score, publish, load, prove", f"{MODEL}_nightly", last_day.isoformat())
            yardsticks = run.measure()
            stages.close()
            facts = Facts(demo.declaration, demo.backends, run.instance, demo.url, time.monotonic() - begun)
            shown = _summary(facts, run.stream, counting, yardsticks)
            console.print(shown)
            keep(shown, settings.home / f"demo-{MODEL}.svg")
            if stay:
                stay_up(console, demo.url, process.wait)


def _summary(facts: Facts, stream: Stream, counting: float, yardsticks: list[Yardstick]) -> RenderableType:
    gold, quantized = facts.of(table_key(facts.declaration.predictions_table)), facts.stage("quantized_model")
    online = facts.stage("online_features")
    swipes, cards = online["dagster/row_count"], online["entities"]
    costs = facts.declaration.decision_costs
    assert costs is not None
    prices = f"a missed fraud costs {costs.missed:g}, a false alarm {costs.false_alarm:g}"
    lines = (
        f"\nhistories  of {stream.rows:,} swipes in {counting:.0f} s",
        f"served     {quantized['precision']}, {quantized['speedup']:.2f} x as fast as float32",
        f"scored     {gold['dagster/partition_row_count']:,} swipes of {stream.last_day} in {gold['seconds']:.1f} s, "
        f"audited and published as {facts.declaration.predictions_table}",
        f"online     {swipes:,} swipes of {cards:,} cards in {online['seconds']:.1f} s",
        parity(facts),
        f"\n[bold]models/{MODEL}.yaml[/bold] is all that says what this model is",
    )
    return Panel(
        Group(report_table(yardsticks), f"[dim]{prices}[/dim]", *lines),
        title=f"[bold]{MODEL}[/bold] in {facts.seconds:.0f} s",
        padding=(0, 1),
    )
