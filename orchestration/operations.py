"""What the verbs `rollback` and `maintenance` do: they run Dagster's jobs, and put what these found into lines."""

import getpass
from collections.abc import Iterator

from assets.resources import Backends
from backends.settings import Settings
from models.declaration import load_declaration
from orchestration.jobs import UPKEEP, rollback_config, rollback_name
from orchestration.runs import observed, run_here


def possible_rollbacks(settings: Settings, model: str) -> str:
    """List the past rollbacks of a model's Gold table, and the states that it can be put to, newest first."""
    from backends.lakehouse.publishing import rollbacks
    from backends.rollbacks import targets

    table = load_declaration(settings.models / f"{model}.yaml").predictions_table
    with Backends(settings).lakehouse() as lake:
        past, there, now = rollbacks(lake, table), targets(lake, table), lake.snapshot(table)
    before = [f"  {r['at'][:19]} UTC, from {r['from']} to {r['to']} by {r['by']}: {r['reason']}" for r in past]
    states = [f"  {target}" for target in there] or ["  none: it never had another state"]
    heading = ["Past rollbacks, the last one at the end:", *before] if before else []
    return "\n".join([f"{table} shows snapshot {now.id}.", *heading, "It can be put --to one of these:", *states])


def roll_back(settings: Settings, model: str, to: str, reason: str, by: str) -> str:
    """Run the model's rollback job; return what it did."""
    load_declaration(settings.models / f"{model}.yaml")
    config = rollback_config(model, to, reason, by or getpass.getuser())
    (facts,) = observed(run_here(settings, rollback_name(model), config))
    return "\n".join(f"{name:>16}  {value}" for name, value in facts.items())


def tidy(settings: Settings, apply: bool, history_days: float, leftover_hours: float, names: bool) -> Iterator[str]:
    """Say what each table has that nobody needs; with `apply`, run the job that removes it."""
    config = {"apply": apply, "history_days": history_days, "leftover_hours": leftover_hours}
    for facts in observed(run_here(settings, UPKEEP, config)):
        done = "removed" if apply else "would be removed (a dry run: --apply removes it)"
        size = facts["bytes_freed" if apply else "bytes_to_free"]
        yield f"{facts['table']}: {size:,} bytes {done}"
        for record in facts["removed" if apply else "would_be_removed"].records:
            yield f"  {record.data['number']:>7} x {record.data['kind']:<14}{record.data['bytes']:>17,} bytes"
        yield from (f"    {name}" for name in (facts["names"].splitlines() if names else ()))
