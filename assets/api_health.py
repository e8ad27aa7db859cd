"""`<model>/api` seen from outside: whether it answers, how fast, and whether with the champion."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import dagster as dg
from pydantic import SecretStr

from assets.patience import within
from assets.recorded import DATA_VERSION, RecordedChampion, recorded_champion
from assets.resources import Backends
from models.declaration import Declaration
from models.errors import TandemError

CHECK = "api_answers"
GRACE = timedelta(hours=1)  # for a new champion's Bento to be built and deployed
PATIENCE_SECONDS = 2.0
CALL_SECONDS = 1.0
CALLS = 5


@dataclass(frozen=True)
class Answer:
    """What a service said. `sha256` is empty when it is down; `problem` says why it does not answer as it should."""

    url: str
    sha256: str = ""
    version: str = ""
    latency_ms: float | None = None  # median, of going the whole way of a request
    online: dict[str, str] | None = None  # of the online features
    problem: str = ""

    @property
    def state(self) -> str:
        """Return down, not ready or ready."""
        return "ready" if not self.problem else "not ready" if self.sha256 else "down"


@dataclass(frozen=True)
class Verdict:
    """Whether the API answers as it should. `occasion` tells one trouble from another."""

    passed: bool
    reason: str
    headline: str
    occasion: str = ""


def ask(url: str, key: SecretStr, patience: float = PATIENCE_SECONDS) -> Answer:
    """Ask a service who it is and how it does, within `patience` seconds, whatever it does with the connection."""
    try:
        return within(patience, lambda: _asked(url, key))
    except TimeoutError:
        return Answer(url, problem=f"The service at {url} did not answer within {patience:g} s.")


def verdict(model: str, answer: Answer, champion: RecordedChampion | None, now: datetime) -> Verdict:
    """Judge an answer. Right after a promotion the former champion may still answer, for `GRACE`."""
    if answer.problem:
        return Verdict(False, answer.problem, f"{model}: the API is {answer.state}", answer.state)
    fine = f"{model}: the API answers"
    if champion is None:
        return Verdict(True, f"Version {answer.version} answers; Dagster has no champion to compare with.", fine)
    if answer.sha256 == champion.sha256:
        return Verdict(True, f"Version {answer.version}, the champion, answers.", fine)
    until = champion.since + GRACE
    served = f"Version {answer.version} ({answer.sha256[:12]}) answers"
    if now < until:
        return Verdict(True, f"{served} until version {champion.version} is deployed, by {until:%H:%M} UTC.", fine)
    return Verdict(
        False,
        f"{served}, but since {champion.since:%Y-%m-%d %H:%M} UTC the champion is version {champion.version} "
        f"({champion.sha256[:12]}). Deploy the newest Bento; where there is none, materialize {model}/bento.",
        f"{model}: the API serves version {answer.version}, not the champion {champion.version}",
        f"{answer.sha256[:12]} is not {champion.sha256[:12]}",
    )


def api_answers(declaration: Declaration) -> dg.AssetChecksDefinition:
    """Make the check that the sensor evaluates, for a person to run by hand."""

    @dg.asset_check(
        asset=dg.AssetKey([declaration.name, "api"]),
        name=CHECK,
        description="The service is ready and answers with the champion, an hour after a promotion at the latest.",
    )
    def _check(context: dg.AssetCheckExecutionContext, backends: dg.ResourceParam[Backends]) -> dg.AssetCheckResult:
        answer, found, champion = examine(declaration, backends, context.instance, datetime.now(UTC))
        context.op_execution_context.log_event(observation(declaration, answer, context.instance))
        return dg.AssetCheckResult(passed=found.passed, metadata=evidence(answer, found, champion))

    return _check


def examine(
    declaration: Declaration, backends: Backends, instance: dg.DagsterInstance, now: datetime
) -> tuple[Answer, Verdict, RecordedChampion | None]:
    """Ask a model's service and judge what it says."""
    settings = backends.settings
    answer = ask(settings.url_of_api(declaration.name, declaration.api.port), settings.api_key)
    champion = recorded_champion(instance, declaration.name)
    return answer, verdict(declaration.name, answer, champion, now), champion


def observation(declaration: Declaration, answer: Answer, instance: dg.DagsterInstance) -> dg.AssetObservation:
    """Report an answer, in figures for Dagster to plot."""
    online = answer.online or {}
    facts: dict[str, Any] = {
        "url": dg.MetadataValue.url(answer.url),
        "health": answer.state,
        "latency_ms": answer.latency_ms,
        "model_version": answer.version or None,
        "model_sha256": answer.sha256 or None,
        "online_features_of": online.get("scored_on"),
        "online_features_age_hours": _age_hours(online.get("loaded_at")),
        "parity": _parity(declaration.name, instance),
        "reason": answer.problem or None,
    }
    known = {name: value for name, value in facts.items() if value is not None}
    key = dg.AssetKey([declaration.name, "api"])
    return dg.AssetObservation(key, metadata=known, tags={DATA_VERSION: answer.sha256 or answer.state})


def evidence(answer: Answer, found: Verdict, champion: RecordedChampion | None) -> dict[str, Any]:
    """Return what a verdict rests on."""
    facts = {
        "headline": found.headline,
        "reason": found.reason,
        "url": dg.MetadataValue.url(answer.url),
        "latency_ms": answer.latency_ms,
        "served_version": answer.version or "none",
        "champion_version": champion.version if champion else "none",
        "occasion": found.occasion,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _asked(url: str, key: SecretStr) -> Answer:
    from bento.client import ApiClient

    answer, times = Answer(url), []
    try:
        with ApiClient(url, timeout=CALL_SECONDS, key=key) as client:
            lineage = client.lineage()
            answer = Answer(url, str(lineage["sha256"]), str(lineage["version"]), online=lineage.get("online_features"))
            for _ in range(CALLS):
                begun = time.perf_counter()
                client.ready()
                times.append(1000 * (time.perf_counter() - begun))
    except TandemError as error:
        return Answer(url, answer.sha256, answer.version, online=answer.online, problem=str(error))
    return Answer(url, answer.sha256, answer.version, median(times), answer.online)


def _age_hours(loaded_at: str | None) -> float | None:
    return (datetime.now(UTC) - datetime.fromisoformat(loaded_at)).total_seconds() / 3600 if loaded_at else None


def _parity(model: str, instance: dg.DagsterInstance) -> str:
    """Say what the replay of published customers found last."""
    key = dg.AssetCheckKey(dg.AssetKey([model, "api"]), "api_agrees_with_gold")
    record = instance.get_latest_asset_check_evaluation_record(key)
    event = record.event if record else None
    found = event.asset_check_evaluation if event else None
    if event is None or found is None:
        return "not proved yet"
    at = datetime.fromtimestamp(event.timestamp, UTC)
    return f"{'agrees' if found.passed else 'does not agree'} with Gold ({at:%Y-%m-%d %H:%M} UTC)"
