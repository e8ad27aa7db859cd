"""The few verbs of the `tandem` command; the Makefile calls them."""

import os
import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from backends.settings import Settings, quiet, thrifty
from models.errors import DeclarationError, TandemError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Declarative MLOps on Dagster."
)


class Made(StrEnum):
    """What the demo can make: a model's name."""

    churn = "churn"
    fraud = "fraud"


@app.command()
def demo(
    model: Annotated[
        Made, typer.Option(help="Customers who may leave, or card swipes that may be fraud.")
    ] = Made.churn,
    rows: Annotated[
        int | None, typer.Option(help="Customers (5,000,000), or card swipes (2,000,000), to make.")
    ] = None,
    examples: Annotated[int, typer.Option(help="Labelled customers to learn from.")] = 300_000,
    seed: Annotated[int, typer.Option(help="Seed of what is made.")] = 7,
    stay: Annotated[bool, typer.Option(help="Leave the API running at the end, until Ctrl-C.")] = False,
) -> None:
    """Make a population, train, score, publish, serve, and prove that both lanes agree."""
    if model is Made.fraud:
        from demo.fraud_run import run_fraud_demo

        run_fraud_demo(Settings(), rows=2_000_000 if rows is None else rows, seed=seed, stay=stay)
        return
    from demo.run import run_demo

    run_demo(Settings(), rows=5_000_000 if rows is None else rows, examples=examples, seed=seed, stay=stay)


@app.command()
def demo_weeks(
    weeks: Annotated[int, typer.Option(help="How many weeks the company lives.", min=1)] = 24,
    rows: Annotated[int, typer.Option(help="Its customers.")] = 60_000,
    seed: Annotated[int, typer.Option(help="Seed of the population.")] = 7,
) -> None:
    """Let the demo's customers live for weeks: drift sets in, is seen, retrains, is promoted, recovers."""
    from demo.weeks import run_weeks

    run_weeks(Settings(), weeks=weeks, rows=rows, seed=seed)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the model: lower-case letters, digits and underscores.")],
    source: Annotated[str, typer.Option("--from", help="A CSV or Parquet file, or a table like silver.orders.")],
    key: Annotated[str, typer.Option(help="Column that names the entity, like a customer's number.")],
    label: Annotated[str, typer.Option(help="Column with the outcome: yes or no, 0 or 1, or two texts.")],
    time: Annotated[str | None, typer.Option(help="Column that says when a row was true, if it has one.")] = None,
    positive: Annotated[str | None, typer.Option(help="The label's value that means yes, if it is not plain.")] = None,
    missing: Annotated[
        list[str] | None, typer.Option(help="A word that means there is no value. Can be repeated.")
    ] = None,
    replace: Annotated[bool, typer.Option(help="Write declaration and tables anew where they are there.")] = False,
) -> None:
    """Profile a file or a table, load it into Iceberg, and declare a model that works as it stands."""
    from onboarding.profiling import Request
    from orchestration.new_model import make_model

    make_model(Settings(), Request(name, source, key, label, time, positive, tuple(missing or ()), replace))


@app.command()
def run(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    stay: Annotated[bool, typer.Option(help="Leave the API running at the end, until Ctrl-C.")] = False,
) -> None:
    """Train a model, serve it, score today's rows or the newest day's events, and prove that both lanes agree."""
    from orchestration.whole_life import run_model

    run_model(Settings(), model, stay=stay)


@app.command()
def dev() -> None:
    """Run Dagster's UI and daemon, MLflow's pages and the APIs on loopback; Ctrl-C stops all."""
    from orchestration.processes import addresses, run_all

    settings = Settings()
    for name, address in addresses(settings).items():
        typer.echo(f"{name:>12}  {address}")
    raise typer.Exit(run_all(settings))


@app.command()
def serve(model: Annotated[str, typer.Argument(help="Name of the model.")] = "churn") -> None:
    """Run a model's newest Bento in this process."""
    from models.declaration import load_declaration
    from orchestration.processes import api_command

    settings = Settings()
    declaration = load_declaration(settings.models / f"{model}.yaml")
    command, environment = api_command(settings, model, declaration.api.port)
    typer.echo(f"{model} API  {settings.url_of_api(model, declaration.api.port)}")
    sys.stdout.flush()
    os.execvpe(command[0], command, environment)  # noqa: S606  our own command, without a shell


@app.command()
def image(
    model: Annotated[str, typer.Argument(help="Name of the model.")] = "churn",
    name: Annotated[str, typer.Option(help="Name of the image: [registry/]repository[:tag].")] = "",
) -> None:
    """Build the container image of a model's newest Bento."""
    from bento.building.build import find_bento
    from bento.building.containerize import MOST_BYTES, containerize

    settings = Settings()
    built = containerize(find_bento(settings.bentoml_home, model), settings, name)
    typer.echo(f"{built.name}  {built.bytes / 1e6:.0f} MB  {built.engine}  {built.id}")
    if built.is_too_large:
        most = f"{MOST_BYTES / 1e6:.0f} MB"
        typer.echo(f"warning: more than {most}; `{built.engine} history {built.name}` says what is large", err=True)


@app.command()
def api_key(name: Annotated[str, typer.Argument(help="Who is to have it.")]) -> None:
    """Make an API key: print it, once, and below it the line for TANDEM_API_KEYS_FILE."""
    from bento.guard.keys import new_key

    for line in new_key(name):
        typer.echo(line)


@app.command()
def check(
    path: Annotated[Path | None, typer.Argument(help="A declaration, or a folder of them.", exists=True)] = None,
) -> None:
    """Validate the declarations and say every error in them."""
    from models.declaration import load_declaration

    place, broken = path or Settings().models, False
    for file in sorted(place.glob("*.yaml")) if place.is_dir() else [place]:
        try:
            declaration = load_declaration(file)
            typer.echo(f"{declaration.name}: {len(declaration.features)} features -> {declaration.predictions_table}")
        except DeclarationError as error:
            typer.echo(f"error: {error}", err=True)
            broken = True
    if broken:
        raise typer.Exit(1)


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    to: Annotated[str | None, typer.Option(help="A snapshot's id, a published day, or a tag. None lists them.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the table.")] = "",
    by: Annotated[str, typer.Option(help="Who; it is kept in the table. Default: the user of this shell.")] = "",
) -> None:
    """Put a model's Gold table back to an earlier state, or forward again. Nothing is deleted."""
    from orchestration.operations import possible_rollbacks, roll_back

    settings = Settings()
    if to is None:
        typer.echo(possible_rollbacks(settings, model))
        raise typer.Exit(1)
    typer.echo(roll_back(settings, model, to, reason, by))


@app.command()
def promote(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    to: Annotated[int | None, typer.Option(help="A version that passed its gates. None lists them.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the ledger.")] = "",
    by: Annotated[str, typer.Option(help="Who; it is kept in the ledger. Default: the user of this shell.")] = "",
) -> None:
    """Make a version the champion that passed its gates, and tied. What was rejected cannot be named."""
    from orchestration import promotion_verbs

    settings = Settings()
    if to is None:
        typer.echo(promotion_verbs.possible_promotions(settings, model))
        raise typer.Exit(1)
    typer.echo(promotion_verbs.promote(settings, model, to, reason, by))


@app.command()
def rollback_model(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    to: Annotated[int | None, typer.Option(help="An earlier champion. None lists them.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the ledger.")] = "",
    by: Annotated[str, typer.Option(help="Who; it is kept in the ledger. Default: the user of this shell.")] = "",
) -> None:
    """Make an earlier champion the champion again."""
    from orchestration import promotion_verbs

    settings = Settings()
    if to is None:
        typer.echo(promotion_verbs.possible_model_rollbacks(settings, model))
        raise typer.Exit(1)
    typer.echo(promotion_verbs.roll_back_model(settings, model, to, reason, by))


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    key: Annotated[str | None, typer.Argument(help="Key of a row of the Gold table.")] = None,
    day: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="A published day; else the newest.")
    ] = None,
    features: Annotated[str | None, typer.Option(help="Instead of a key: values by feature name, in JSON.")] = None,
    url: Annotated[str | None, typer.Option(help="Ask the service at this address, in place of the table.")] = None,
    most: Annotated[int, typer.Option(help="How many features to show; the others are summed up.", min=1)] = 10,
) -> None:
    """Say why a row has its score: which features moved it most, and by how much."""
    from rich.console import Console

    from orchestration.explaining import explained, pictured

    found = explained(Settings(), model, key, day.date() if day else None, features, url)
    Console(width=None if sys.stdout.isatty() else 110).print(pictured(found, most))


@app.command()
def maintenance(
    apply: Annotated[bool, typer.Option(help="Remove it; otherwise say what would be removed.")] = False,
    history_days: Annotated[float, typer.Option(help="How long what main showed can be read again.")] = 90,
    leftover_hours: Annotated[float, typer.Option(help="Age at which what main never showed goes.")] = 72,
    names: Annotated[bool, typer.Option(help="Name each thing.")] = False,
) -> None:
    """Remove what no reader of the models' tables can need: old snapshots, stale branches, orphan files."""
    from orchestration.operations import tidy

    for line in tidy(Settings(), apply, history_days, leftover_hours, names):
        typer.echo(line)


@app.command()
def schema() -> None:
    """Print the JSON Schema of declarations."""
    from models.declaration import json_schema

    typer.echo(json_schema(), nl=False)


def main() -> None:
    """Run a verb; what Tandem refuses is said in one message, without a traceback."""
    quiet()
    thrifty()
    try:
        app()
    except TandemError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
