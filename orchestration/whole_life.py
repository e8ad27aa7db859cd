"""What `tandem run` does: the whole life of one declared model with one command."""

import json
import time

import dagster as dg
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from assets.sources import report_tables
from backends.settings import Settings
from models.errors import TandemError
from orchestration.home import prepare
from orchestration.life import Life, screen, stay_up
from orchestration.progress import Stages
from orchestration.summary import Facts, agrees, models_table, night_table, one_entity, parity, side_by_side


def run_model(settings: Settings, model: str, *, stay: bool) -> None:
    """Train, promote, serve, score today, publish, prove and sum up; `TandemError` says why a step failed."""
    begun = time.monotonic()
    prepare(settings)
    console = screen()
    with Stages(console) as stages:
        life = Life(settings, stages, model)
        instance = dg.DagsterInstance.get()
        if life.declaration.events:
            raise TandemError(_about_events(model))
        tables = (life.declaration.source_table, life.declaration.examples.table)
        report_tables(life.backends, instance, dict.fromkeys(tables))
        _train(life, instance, console)
        with life.api() as process:
            life.run_job(instance, "score, publish, load, prove", f"{model}_nightly", life.today.isoformat())
            life.run_job(instance, "drift, outcomes, costs", f"{model}_watch", life.today.isoformat())
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


def _about_events(model: str) -> str:
    return (
        f"{model!r} is a model of events, whose features are counted first: run the jobs {model}_features for the days "
        f"that there are, {model}_training and {model}_nightly in Dagster (`tandem dev`)."
    )


def words_since(instance: dg.DagsterInstance, model: str, moment: float) -> list[str]:
    """Return the report of a model that was trained after a moment, though it was not promoted."""
    event = instance.get_latest_materialization_event(dg.AssetKey([model, "trained_model"]))
    if event is None or event.timestamp < moment or event.asset_materialization is None:
        return []
    return str(event.asset_materialization.metadata["in_words"].value).split("\n\n")


def _summary(facts: Facts) -> RenderableType:
    gold, answer = one_entity(facts)
    return Panel(
        Group(
            *(Text(sentence) for sentence in _in_words(facts)),
            "",
            models_table(facts),
            night_table(facts, "rows"),
            parity(facts),
            side_by_side(facts, gold, answer),
            _next(facts, gold[facts.declaration.entity_key]),
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


def _next(facts: Facts, key: int | str) -> str:
    name = facts.declaration.name
    body = json.dumps({facts.declaration.entity_key: key}, ensure_ascii=False)
    return (
        f"\n[bold]tandem serve {name}[/bold]  the API alone, then  curl {facts.url}/predict --json '{body}'\n"
        "[bold]tandem dev[/bold]           Dagster, MLflow and the API in the browser\n"
        f"[bold]models/{name}.yaml[/bold] is all that says what this model is"
    )
