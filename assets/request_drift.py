"""`<model>/request_drift`: how far what the API is asked is from the training set, where requests are logged."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.drift_report import NO_PROFILE, drift_facts, pictures_of, too_few, verdict
from assets.metadata import common, table_key
from assets.resources import Backends
from models.declaration import Declaration

if TYPE_CHECKING:
    from backends.registry import Version
    from backends.request_drift import Requests
    from models.drift import Drift

CHECK = "requests_resemble_the_training_set"
DAYS = 7
NOTHING_LOGGED = (
    f"not judged: no request was logged in the last {DAYS} days (api.log_sample is the share that is logged)"
)


def request_drift(declaration: Declaration) -> dg.AssetsDefinition:
    """Make the asset that reports the drift of the last days' requests. Its check warns, and blocks nothing."""
    key, limits = dg.AssetKey([declaration.name, "request_drift"]), declaration.drift
    text = (
        f"Of what the champion was asked in the last {DAYS} days, no feature's population stability index is above "
        f"{limits.max_feature_shift:g}, and that of its answers at most {limits.max_score_shift:g}."
    )

    @dg.asset(
        key=key,
        deps=[table_key(declaration.requests_table), dg.AssetKey([declaration.name, "champion"])],
        check_specs=[dg.AssetCheckSpec(CHECK, asset=key, description=text)],
        description=f"How far the requests of the last {DAYS} days, as they were logged, are from the training set.",
        **common(declaration, "iceberg", "onnx"),
    )
    def _request_drift(backends: dg.ResourceParam[Backends]) -> dg.MaterializeResult:
        from backends.request_drift import requests_between
        from models.drift import drift_of
        from models.profile import profile_in
        from models.scoring import Scorer

        registry = backends.registry()
        champion = registry.champion(declaration.name)
        scorer = Scorer(registry.read_version(champion), champion.sha256)
        profile = profile_in(scorer.metadata)
        with backends.lakehouse() as lake:
            requests = requests_between(lake, declaration.requests_table, scorer, profile, *_last_days())
        found = drift_of(scorer.contract, profile, requests.found) if profile and requests.found else None
        why_not = _why_not(declaration, champion, requests, has_profile=profile is not None)
        return dg.MaterializeResult(
            metadata={
                **({"reason": why_not} if why_not else {}),
                **(drift_facts(found, limits) if found else {}),
                **_asked(requests),
                "model_version": champion.version,
                "model_sha256": champion.sha256,
                **(pictures_of(found, limits) if found else {}),
            },
            check_results=[_verdict(declaration, found, why_not, requests)],
        )

    return _request_drift


def _last_days() -> tuple[date, date]:
    """Return the first day of the window, and the day after its last: today, as far as it has come."""
    today = datetime.now(UTC).date()
    return today - timedelta(days=DAYS - 1), today + timedelta(days=1)


def _why_not(declaration: Declaration, champion: "Version", requests: "Requests", *, has_profile: bool) -> str:
    """Say why nothing is judged; nothing where it is."""
    if not requests.rows:
        return NOTHING_LOGGED
    if not has_profile:
        return NO_PROFILE.format(version=champion.version, model=declaration.name)
    return too_few(requests.answered, declaration.drift, f"logged requests were answered by version {champion.version}")


def _asked(requests: "Requests") -> dict[str, Any]:
    """Say who answered how much of what was logged."""
    facts = {"days": DAYS, "requests": requests.rows, "requests_to_the_champion": requests.answered}
    if not requests.rows:
        return facts
    return {**facts, "by_version": _table(requests.versions), "by_protocol": _table(requests.protocols)}


def _table(counts: Counter[str]) -> dg.MetadataValue:
    records = [dg.TableRecord({"name": name, "requests": rows}) for name, rows in counts.most_common()]
    return dg.MetadataValue.table(records)


def _verdict(
    declaration: Declaration, found: "Drift | None", why_not: str, requests: "Requests"
) -> dg.AssetCheckResult:
    from models.drift import feature_problems, score_problems

    limits, facts = declaration.drift, {"requests": requests.answered}
    if found is None:
        return verdict(CHECK, [], why_not, facts)
    problems = [
        *feature_problems(found, limits.max_feature_shift),
        *score_problems(found, limits.max_score_shift),
    ]
    largest = {"largest_psi": round(found.features[0].index, 4), "score_psi": round(found.score.index, 4)}
    return verdict(CHECK, problems, why_not, facts | largest | {"limit": limits.max_feature_shift})
