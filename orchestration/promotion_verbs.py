"""What the verbs `promote` and `rollback-model` do: they run Dagster's jobs, or list what these can be asked for."""

import getpass
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from assets.resources import Backends
from backends.settings import Settings
from models.declaration import load_declaration
from orchestration.promotions import model_rollback_name, move_config, promotion_name
from orchestration.runs import run_here

if TYPE_CHECKING:
    from backends.manual_moves import Choice
    from backends.registry import Version

SHOWN = ("verdict", "model_version", "previous_version", "by", "reason", "sha256")


def possible_promotions(settings: Settings, model: str) -> str:
    """List the moves of a model's champion, and the versions that can be promoted, newest first."""
    from backends.manual_moves import promotable

    return _possible(settings, model, promotable, "none: no version that passed its gates is waiting")


def possible_model_rollbacks(settings: Settings, model: str) -> str:
    """List the moves of a model's champion, and the earlier champions, newest first."""
    from backends.manual_moves import reachable

    return _possible(settings, model, reachable, "none: it never had another champion")


def promote(settings: Settings, model: str, to: int, reason: str, by: str) -> str:
    """Run the model's job of promotion; return what it did."""
    return _moved(settings, model, promotion_name(model), to, reason, by)


def roll_back_model(settings: Settings, model: str, to: int, reason: str, by: str) -> str:
    """Run the job that goes back to an earlier champion; return what it did."""
    return _moved(settings, model, model_rollback_name(model), to, reason, by)


def _moved(settings: Settings, model: str, job: str, to: int, reason: str, by: str) -> str:
    load_declaration(settings.models / f"{model}.yaml")
    done = run_here(settings, job, move_config(job, to, reason, by or getpass.getuser()))
    (event,) = done.get_asset_materialization_events()
    facts: dict[str, Any] = {name: value.value for name, value in event.materialization.metadata.items()}
    return "\n".join(f"{name:>16}  {facts[name]}" for name in SHOWN)


def _possible(
    settings: Settings,
    model: str,
    choose: "Callable[[Sequence[Choice], Version | None], list[Choice]]",
    nothing: str,
) -> str:
    from backends.manual_moves import choices
    from backends.promotion_ledger import moves_of

    declaration = load_declaration(settings.models / f"{model}.yaml")
    registry = Backends(settings).registry()
    with Backends(settings).lakehouse() as lake:
        moves, champion = moves_of(lake, declaration.promotions_table), registry.champion_or_none(model)
    there = choose(choices(registry, model, moves), champion)
    past = ["Past moves, the last one at the end:", *(f"  {move}" for move in moves)] if moves else []
    heading = f"The champion of {model} is version {champion.version}." if champion else f"{model} has no champion."
    lines = [str(choice) for choice in there] or [f"  {nothing}"]
    return "\n".join([heading, *past, "It can be moved --to one of these:", *lines])
