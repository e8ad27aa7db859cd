"""What the demo found, on one screen."""

import json
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel

from orchestration.summary import Facts, models_table, night_table, one_entity, parity, side_by_side


def summary(facts: Facts, best_possible_auc: float) -> RenderableType:
    """Return the screenful; no model can reach more than the best possible AUC."""
    gold, answer = one_entity(facts)
    return Panel(
        Group(
            models_table(facts, best_possible_auc),
            night_table(facts, "customers"),
            parity(facts),
            side_by_side(facts, gold, answer),
            _next(facts, gold),
        ),
        title=f"[bold]{facts.declaration.name}[/bold] in {facts.seconds:.0f} s",
        padding=(0, 1),
    )


def _next(facts: Facts, gold: dict[str, Any]) -> str:
    name, key = facts.declaration.name, facts.declaration.entity_key
    body = f'{{"{key}": {json.dumps(gold[key])}}}'
    return (
        "\n[bold]make dev[/bold]    Dagster, MLflow and the API in the browser\n"
        f"[bold]make serve[/bold]  the API alone, then  curl {facts.url}/predict --json '{body}'\n"
        f"[bold]models/{name}.yaml[/bold] is all that says what this model is"
    )
