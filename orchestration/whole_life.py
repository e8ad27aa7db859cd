"""What `tandem run` does: the whole life of one declared model with one command."""

import json
import time
from datetime import date

import dagster as dg
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from assets.predictions import partitions
from assets.resources import Backends
from assets.sources import report_tables, tables_of_others
from backends.settings import Settings
from models.declaration import Declaration
from models.errors import TandemError
from orchestration.home import prepare
from orchestration.life import Life, screen, stay_up
from orchestration.progress import Stages
from orchestration.summary import Facts, agrees, models_table, night_table, one_entity, parity, side_by_side


def run_model(settings: Settings, model: str, *, stay: bool) -> None:
    """Train, promote, serve, score a day, publish, prove and sum up; `TandemError` says why a step failed.

    The day is today, or of events the newest one that is over; their histories are counted first, those of all days.
    """
    begun = time.monotonic()
    prepare(settings)
    console = screen()
    with Stages(console) as stages:
        life = Life(settings, stages, model)
        instance = dg.DagsterInstance.get()
        life.check_port()
        report_tables(life.backends, instance, tables_to_report(life.backends, life.declaration))
        day = _count_histories(life, instance) if life.declaration.events else life.today
        _train(life, instance, console)
        with life.api() as process:
            life.run_job(instance, "score, publish, load, prove", f"{model}_nightly", day.isoformat())
            life.run_job(instance, "drift, outcomes, costs", f"{model}_watch", day.isoformat())
            stages.close()
            facts = Facts(life.declaration, life.backends, instance, life.url, time.monotonic() - begun)
            console.print(_summary(facts))
            if not agrees(facts):
                raise TandemError(f"The API does not agree with {life.declaration.predictions_table}: see above.")
            if stay:
                stay_up(console, life.url, process.wait)


def _train(life: Life, instance: dg.DagsterInstance, console: Console) -> None:
    """Run the training; of a model that is not promoted the report is shown all the same."""
    begun = time.time()
    try:
        life.run_job(instance, "train, quantize, promote, build", f"{life.model}_training")
    except TandemError:
        life.stages.close()
        for sentence in words_since(instance, life.model, begun):
            console.print(Text(sentence))
        raise


def tables_to_report(backends: Backends, declaration: Declaration) -> list[str]:
    """Return the tables that a model reads and others write; that of outcomes alone need not be there yet."""
    from backends.lakehouse.loading import has_rows

    needed = (declaration.source_table, declaration.examples.table)
    with backends.lakehouse() as lake:
        return [t for t in tables_of_others([declaration]) if t in needed or has_rows(lake, t)]


def _count_histories(life: Life, instance: dg.DagsterInstance) -> date:
    """Count the histories of all days that are over, in one run; return the newest."""
    from backends.event_span import days_with_events

    with life.backends.lakehouse() as lake:
        first, last = days_with_events(lake, life.declaration)
    days = days_to_count(life.declaration, first, last)
    life.run_job(instance, f"histories of {(days[1] - days[0]).days + 1} days", f"{life.model}_features", days=days)
    return days[1]


def days_to_count(declaration: Declaration, first: date, last: date) -> tuple[date, date]:
    """Return those of the days with events that are partitions, and over; `TandemError` when none is."""
    newest = partitions(declaration).get_last_partition_key()
    begin, end = max(first, declaration.predictions.first_day), min(last, date.fromisoformat(newest or str(date.min)))
    if begin > end:
        raise TandemError(
            f"The events of {declaration.source_table} are of {first} to {last}, of which no day is over and since "
            f"predictions.first_day, {declaration.predictions.first_day}. Set that to an earlier day, or wait."
        )
    return begin, end


def words_since(instance: dg.DagsterInstance, model: str, moment: float) -> list[str]:
    """Return the report of a model that was trained after a moment, though it was not promoted."""
    event = instance.get_latest_materialization_event(dg.AssetKey([model, "trained_model"]))
    if event is None or event.timestamp < moment or event.asset_materialization is None:
        return []
    return str(event.asset_materialization.metadata["in_words"].value).split("\n\n")


def _summary(facts: Facts) -> RenderableType:
    return Panel(
        Group(
            *(Text(sentence) for sentence in _in_words(facts)),
            "",
            models_table(facts),
            night_table(facts, "events" if facts.declaration.events else "rows"),
            parity(facts),
            *_asked(facts),
        ),
        title=f"[bold]{facts.declaration.name}[/bold] in {facts.seconds:.0f} s",
        padding=(0, 1),
    )


def _in_words(facts: Facts) -> list[str]:
    """Return the trained model's report, and what kept int8 from being served."""
    words = str(facts.stage("trained_model")["in_words"]).split("\n\n")
    quantized = facts.stage("quantized_model")
    if quantized["precision"] == "int8":
        return words
    return [*words, f"Warning: float32 is served, not int8. {quantized['reason']}"]


def _asked(facts: Facts) -> list[RenderableType]:
    """Return one entity in both lanes, and what to ask next; an event that the API was asked about cannot be again."""
    if facts.declaration.events:
        return [_next(facts, "docs/api.md says how it is asked about an event")]
    gold, answer = one_entity(facts)
    key = facts.declaration.entity_key
    body = json.dumps({key: gold[key]}, ensure_ascii=False)
    return [side_by_side(facts, gold, answer), _next(facts, f"then  curl {facts.url}/predict --json '{body}'")]


def _next(facts: Facts, asking: str) -> str:
    name = facts.declaration.name
    return (
        f"\n[bold]tandem serve {name}[/bold]  the API alone, {escape(asking)}\n"
        "[bold]tandem dev[/bold]           Dagster, MLflow and the API in the browser\n"
        f"[bold]models/{name}.yaml[/bold] is all that says what this model is"
    )
