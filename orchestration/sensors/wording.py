"""How a failed run, a failed check and a new champion are told: what, why, whose, and where to look."""

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import table_key
from assets.recorded import text_of
from backends.notifications import Message
from models.declaration import Declaration

if TYPE_CHECKING:
    from dagster._core.events.log import EventLogEntry

LONGEST_REASON, MOST_REASONS = 600, 8
OWN_ERRORS = ("models.errors.", "dagster._core.definitions.events.Failure")  # sentences for a person
OF_CHECKS = "DagsterAssetCheckFailedError"  # the check itself says more


def about_run(
    run: dg.DagsterRun, log: Sequence["EventLogEntry"], failed: Collection[dg.AssetCheckEvaluation], words: "Words"
) -> Message | None:
    """Tell of a run that failed, or in which checks failed; None when there is nothing to tell."""
    broke = run.status == dg.DagsterRunStatus.FAILURE
    if not broke and not failed:
        return None
    steps = {dg.AssetKey(key.split("__")) for entry in log if (key := entry.step_key)}
    keys = {*(run.asset_selection or steps), *(check.asset_key for check in failed)}
    name, retries = _name(run, keys), run.tags.get("dagster/retry_number")
    title = f"{name} failed" if broke else f"{name}: {_count(len(failed), 'check')} failed"
    lines = [*(_errors(log) if broke else ()), *map(_failed, failed)]
    shown = lines[:MOST_REASONS] + ([f"and {len(lines) - MOST_REASONS} more"] if len(lines) > MOST_REASONS else [])
    after = [f"That was retry {retries}; there is no other."] if broke and retries else []
    severe = broke or any(check.severity == dg.AssetCheckSeverity.ERROR for check in failed)
    body = [*shown, *after, *words.whose(keys, run.job_name), f"{words.ui}/runs/{run.run_id}"]
    return Message(title, "\n".join(body), "failure" if severe else "warning")


def about_check(check: dg.AssetCheckEvaluation, words: "Words") -> Message:
    """Tell that a check, which no run evaluated, has failed or passes again."""
    asset = check.asset_key.to_user_string()
    plain = f"{asset}: {check.check_name} {'passes' if check.passed else 'failed'}"
    title = text_of(check.metadata, "headline") or plain
    said = _reason(check.metadata) if check.passed else _failed(check)
    body = [said, *words.whose({check.asset_key}), f"{words.ui}/assets/{asset}?view=checks"]
    return Message(title, "\n".join(filter(None, body)), "info" if check.passed else _kind(check))


def about_observation(event: dg.AssetObservation, words: "Words") -> Message:
    """Tell what a sensor saw and gave a headline."""
    body = [_reason(event.metadata), *words.whose({event.asset_key}), words.page(event.asset_key)]
    return Message(text_of(event.metadata, "headline"), "\n".join(filter(None, body)), "warning")


def about_champion(model: str, before: str, event: dg.AssetMaterialization, words: "Words") -> Message:
    """Tell that another version is the champion; `before` is the version that was, empty for none."""
    version = text_of(event.metadata, "model_version")
    by, how = text_of(event.metadata, "by"), text_of(event.metadata, "verdict")
    who = f"{how[:1].upper()}{how[1:]}" + (f" by {by}" if by not in ("", "unknown") else "")
    why = ": ".join(filter(None, [who, _reason(event.metadata)]))
    was = f"It was version {before}." if before else "It is the first that is told of."
    body = [was, *filter(None, [why]), *words.whose({event.asset_key}), words.page(event.asset_key)]
    return Message(f"{model}: version {version or '?'} is the champion", "\n".join(body), "info")


class Words:
    """What every message needs: whose model it is, and where Dagster's pages are."""

    def __init__(self, declarations: Sequence[Declaration], ui: str) -> None:
        self.declarations = declarations
        self.ui = ui.rstrip("/")

    def page(self, key: dg.AssetKey) -> str:
        """Return the address of an asset's page."""
        return f"{self.ui}/assets/{key.to_user_string()}"

    def whose(self, keys: Iterable[dg.AssetKey], job: str = "") -> list[str]:
        """Return a line for each model that assets or a job belong to."""
        found, asked = [], set(keys)
        for declaration in self.declarations:
            name, tables = declaration.name, _tables(declaration)
            of_assets = any(key in tables or key.path[0] == name for key in asked)
            if of_assets or job in _jobs(name):
                owner = f", owner {declaration.owner}" if declaration.owner else ""
                found.append(f"Model {name}{owner}.")
        return found


def _jobs(model: str) -> set[str]:
    own = {f"{model}_{job}" for job in ("training", "nightly", "features", "watch", "requests")}
    return own | {f"promote_{model}", f"rollback_{model}_model", f"rollback_{model}_predictions"}


def _tables(declaration: Declaration) -> set[dg.AssetKey]:
    tables = (declaration.predictions_table, declaration.rejects_table, declaration.requests_table)
    made = (declaration.features_table,) if declaration.events else ()
    return set(map(table_key, (*tables, *made, declaration.promotions_table)))


def _name(run: dg.DagsterRun, keys: Collection[dg.AssetKey]) -> str:
    """Name a run by its job; one of chosen assets by those."""
    day = run.tags.get("dagster/partition")
    name = run.job_name
    if name.startswith("__"):
        chosen = sorted(key.to_user_string() for key in keys)
        more = f" and {len(chosen) - 2} more" if len(chosen) > 2 else ""
        name = ", ".join(chosen[:2]) + more if chosen else "A run of assets"
    return f"{name} ({day})" if day else name


def _errors(log: Sequence["EventLogEntry"]) -> list[str]:
    """Return the innermost error of each step that failed; of a run without steps, what Dagster says of it."""
    steps = [event for entry in log if (event := entry.dagster_event) and event.is_step_failure]
    found = [
        f"{_step(event.step_key)}: {_innermost(event.step_failure_data.error)}"
        for event in steps
        if OF_CHECKS not in str(getattr(event.step_failure_data.error, "cls_name", ""))
    ]
    if steps:
        return found
    ends = [event for entry in log if (event := entry.dagster_event) and event.is_run_failure]
    return [_cut(event.message or "Dagster does not say why.") for event in ends]


def _step(key: str | None) -> str:
    return (key or "a step").replace("__", "/")


def _innermost(error: Any) -> str:
    """Return the innermost of our own errors, which are written for people; without any, the innermost of all."""
    texts = []
    while error is not None:
        texts.append(error.message.strip())
        error = error.cause
    own = [text.partition(": ")[2] for text in texts if text.startswith(OWN_ERRORS)]
    return _cut([*texts[-1:], *own][-1]) if texts else "Dagster does not say why."


def _failed(check: dg.AssetCheckEvaluation) -> str:
    reason = _reason(check.metadata) or check.description or "see its metadata"
    return f"{check.check_name} of {check.asset_key.to_user_string()} failed ({check.severity.value}): {reason}"


def _kind(check: dg.AssetCheckEvaluation) -> Any:
    return "failure" if check.severity == dg.AssetCheckSeverity.ERROR else "warning"


def _reason(metadata: object) -> str:
    return _cut(text_of(metadata, "reason"))


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= LONGEST_REASON else flat[: LONGEST_REASON - 3] + "..."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
