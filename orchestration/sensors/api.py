"""The running service: what it answers with, how fast, and whether that is the champion."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg

from assets.api_health import CHECK, Verdict, evidence, examine, observation
from assets.resources import Backends
from models.declaration import Declaration

SECONDS = 60
AT_LEAST_EVERY = timedelta(minutes=15)  # so that Dagster can plot it


def api_observer(declaration: Declaration) -> dg.SensorDefinition:
    """Make the sensor that observes a model's service and judges it: whenever that changes, and every 15 minutes."""

    @dg.sensor(
        name=f"{declaration.name}_api_observer",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Observes the running service of {declaration.name}: its version, latency and health.",
    )
    def _observer(
        context: dg.SensorEvaluationContext, backends: dg.ResourceParam[Backends]
    ) -> dg.SensorResult | dg.SkipReason:
        now, before = datetime.now(UTC), json.loads(context.cursor or "{}")
        answer, found, champion = examine(declaration, backends, context.instance, now)
        state = f"{answer.state} {answer.sha256} {found.passed} {found.occasion}"
        if state == before.get("state") and now - datetime.fromisoformat(before["told"]) < AT_LEAST_EVERY:
            return dg.SkipReason(f"unchanged: {answer.sha256 or answer.state}")
        answered = before.get("answered", False) or answer.state == "ready"
        check = dg.AssetCheckEvaluation(
            dg.AssetKey([declaration.name, "api"]),
            CHECK,
            passed=found.passed,
            severity=dg.AssetCheckSeverity.ERROR if answered else dg.AssetCheckSeverity.WARN,
            metadata=evidence(answer, _quiet(found) if not answered else found, champion),
        )
        cursor = {"state": state, "told": now.isoformat(), "answered": answered}
        events = [observation(declaration, answer, context.instance), check]
        return dg.SensorResult(cursor=json.dumps(cursor), asset_events=events)

    return _observer


def _quiet(found: Verdict) -> Verdict:
    """Return a verdict of which nobody is told: a service that never answered may not be wanted at all."""
    return Verdict(found.passed, f"{found.reason} It has never answered yet.", found.headline, "")
