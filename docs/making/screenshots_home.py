"""The home that the pictures are taken of: a model that has lived two weeks, drifted, and had a candidate refused."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import yaml
from rich.console import Console

from assets.metadata import table_key
from assets.sources import report_tables
from backends.engines import LocalEngine
from backends.settings import Settings
from demo.lake import CUSTOMERS, EXAMPLES, write_chunks, write_examples
from demo.living_population import Campaign, living_customers
from demo.population import Chunk
from demo.run import MODEL, Demo
from orchestration.definitions import assemble
from orchestration.home import prepare
from orchestration.progress import Stages
from orchestration.runs import run_job, succeeded

ROWS, LABELLED, SEED, NIGHTS = 200_000, 60_000, 7, 14
CALM_NIGHTS = 5  # before the population begins to change
LEAST_AUC = 0.95  # that no candidate reaches
READY = "ready"  # a file: the home is complete


@dataclass(frozen=True)
class Homes:
    """Where the model has lived, and the same after a candidate was refused: other events, the same tables."""

    lived: Settings
    refused: Settings
    dagster_of_refused: Path


def ready_homes(settings: Settings) -> Homes:
    """Return the pictures' homes, inside the given one; they are made when there are none."""
    home = settings.home / "screenshots"
    lived = Settings(**{**settings.model_dump(), "home": home, "threads": 2})
    refused = Settings(**{**lived.model_dump(), "models": home / "strict"})
    homes = Homes(lived, refused, home / "dagster_refused")
    if not (home / READY).exists():
        shutil.rmtree(home, ignore_errors=True)
        prepare(lived)
        with Stages(Console()) as stages:
            demo = Demo(lived, stages)
            _live(demo)
            with stages.stage("a candidate that is refused"):
                _refuse(demo, homes)
        (home / READY).touch()
    return homes


def _live(demo: Demo) -> None:
    """Train, score two weeks of nights in which the customers change, serve and prove today's."""
    first = demo.today - timedelta(days=NIGHTS)
    campaign = Campaign(first + timedelta(days=CALM_NIGHTS), grows_days=NIGHTS - CALM_NIGHTS)
    instance = dg.DagsterInstance.get()
    _examples(demo, SEED)
    _customers(demo, lambda chunk: living_customers(chunk, seed=SEED, day=first, campaign=campaign))
    report_tables(demo.backends, instance, (CUSTOMERS, EXAMPLES))
    demo.run_job(instance, "train, quantize, promote, build", f"{MODEL}_training")
    gold, watched = table_key(demo.declaration.predictions_table), ("drift", "costs")
    for day in (first + timedelta(days=number) for number in range(NIGHTS)):
        with demo.stages.stage(f"the night of {day}"):
            _customers(demo, lambda chunk, day=day: living_customers(chunk, seed=SEED, day=day, campaign=campaign))  # type: ignore[misc]
            report_tables(demo.backends, instance, (CUSTOMERS,))
            _run(demo, instance, f"{MODEL}_nightly", day.isoformat(), [gold])
            _run(demo, instance, f"{MODEL}_watch", day.isoformat(), [dg.AssetKey([MODEL, stage]) for stage in watched])
    with demo.api():
        demo.run_job(instance, "today's night, proved", f"{MODEL}_nightly", demo.today.isoformat())
        demo.run_job(instance, "today's drift, costs and outcomes", f"{MODEL}_watch", demo.today.isoformat())
        demo.run_job(instance, "the requests", f"{MODEL}_requests")
        _look(demo, instance, f"{MODEL}_api_observer", f"{MODEL}_readiness_observer")


def _run(demo: Demo, instance: dg.DagsterInstance, job: str, day: str, keys: list[dg.AssetKey]) -> None:
    succeeded(run_job(demo.definitions, instance, job, day, keys))


def _examples(demo: Demo, seed: int) -> None:
    with demo.backends.lakehouse() as lake:
        write_examples(lake, LocalEngine(2), LABELLED, seed, demo.today, lambda _: None)


def _customers(demo: Demo, make: Callable[[Chunk], pa.Table]) -> None:
    with demo.backends.lakehouse() as lake:
        write_chunks(lake, LocalEngine(2), CUSTOMERS, ROWS, make, lambda _: None)


def _look(demo: Demo, instance: dg.DagsterInstance, *sensors: str) -> None:
    """Evaluate sensors as Dagster's daemon does."""
    for name in sensors:
        sensor = demo.definitions.resolve_sensor_def(name)
        resources = {"backends": demo.backends}
        with dg.build_sensor_context(instance, sensor_name=name, resources=resources) as context:
            for event in sensor.evaluate_tick(context).asset_events:
                instance.report_runless_asset_event(event)


def _refuse(demo: Demo, homes: Homes) -> None:
    """Train on other examples against a gate that nothing passes, beside a copy of what Dagster has recorded."""
    shutil.copytree(homes.lived.dagster_home, homes.dagster_of_refused)
    homes.refused.models.mkdir()
    raw: dict[str, Any] = yaml.safe_load((demo.settings.models / f"{MODEL}.yaml").read_text())
    raw["gates"]["min_auc"] = LEAST_AUC
    (homes.refused.models / f"{MODEL}.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    _examples(demo, SEED + 1)
    with dg.DagsterInstance.from_config(str(homes.dagster_of_refused)) as instance:
        done = run_job(
            assemble(homes.refused, loggers={"console": demo.stages.logger()}), instance, f"{MODEL}_training"
        )
    if done.success:
        raise SystemExit(f"A candidate has reached an AUC of {LEAST_AUC}: raise that gate.")


if __name__ == "__main__":
    print(ready_homes(Settings()).lived.home)
