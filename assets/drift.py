"""`<model>/drift`: how far the customers of a night, and their scores, are from the training set."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.drift_report import NO_PROFILE, drift_facts, pictures_of, too_few, verdict
from assets.metadata import common, picture, table_key
from assets.predictions import partitions, rows_scored
from assets.resources import Backends
from models.declaration import Declaration
from models.declaration import Drift as Limits

if TYPE_CHECKING:
    from backends.lakehouse.reading import Snapshot
    from backends.night_drift import NightDrift
    from models.drift import Drift

FEATURES, SCORES = "features_resemble_the_training_set", "scores_resemble_the_training_set"
NIGHTS_SHOWN = 60


def drift(declaration: Declaration) -> dg.AssetsDefinition:
    """Make the asset that reports the drift of a night. Its checks warn, and block nothing."""
    key, limits = dg.AssetKey([declaration.name, "drift"]), declaration.drift
    texts = {
        FEATURES: f"No feature's population stability index is above {limits.max_feature_shift:g}.",
        SCORES: f"The score's population stability index is at most {limits.max_score_shift:g}.",
    }

    @dg.asset(
        key=key,
        deps=[table_key(declaration.predictions_table)],
        partitions_def=partitions(declaration),
        check_specs=[dg.AssetCheckSpec(check, asset=key, description=text) for check, text in texts.items()],
        description="How far a night's rows and scores are from the training set, counted while they were scored.",
        **common(declaration, "iceberg", "onnx"),
    )
    def _drift(context: dg.AssetExecutionContext, backends: dg.ResourceParam[Backends]) -> dg.MaterializeResult:
        from backends.night_drift import drift_history
        from backends.nights import night_of

        table = declaration.predictions_table
        with backends.lakehouse() as lake:
            night = night_of(lake, table, context.partition_key)
            history = drift_history(lake, table)
        found = _drift_of(backends, declaration, night)
        about = {
            "model_version": int(night.properties["model_version"]),
            "model_sha256": night.properties["model_sha256"],
        }
        if found is None:
            return _not_possible(declaration, about)
        return dg.MaterializeResult(
            metadata={
                **drift_facts(found, limits),
                **about,
                **pictures_of(found, limits),
                **_over_time(history, limits),
            },
            check_results=list(_verdicts(declaration, found, rows_scored(night), about)),
        )

    return _drift


def _drift_of(backends: Backends, declaration: Declaration, night: "Snapshot") -> "Drift | None":
    """Compare what was counted with the profile in the very file that scored; None where it has none."""
    from backends.night_drift import histograms_of
    from models.drift import drift_of
    from models.profile import profile_in
    from models.scoring import Scorer

    registry, counted = backends.registry(), histograms_of(night)
    if counted is None:
        return None
    version = registry.version(declaration.name, int(night.properties["model_version"]))
    scorer = Scorer(registry.read_version(version), night.properties["model_sha256"])
    profile = profile_in(scorer.metadata)
    return drift_of(scorer.contract, profile, counted) if profile and counted.fit(profile) else None


def _not_possible(declaration: Declaration, about: dict[str, Any]) -> dg.MaterializeResult:
    why_not = NO_PROFILE.format(version=about["model_version"], model=declaration.name)
    return dg.MaterializeResult(
        metadata={"reason": why_not, **about},
        check_results=[verdict(check, [], why_not, about) for check in (FEATURES, SCORES)],
    )


def _verdicts(
    declaration: Declaration, found: "Drift", rows: int, about: dict[str, Any]
) -> Iterator[dg.AssetCheckResult]:
    from models.drift import feature_problems, score_problems

    limits = declaration.drift
    why_not = too_few(rows, limits, "rows were scored")
    most = found.features[0]
    features = {"largest_psi": round(most.index, 4), "feature": most.name, "limit": limits.max_feature_shift}
    scores = {"score_psi": round(found.score.index, 4), "limit": limits.max_score_shift}
    yield verdict(FEATURES, feature_problems(found, limits.max_feature_shift), why_not, features | about)
    yield verdict(SCORES, score_problems(found, limits.max_score_shift), why_not, scores | about)


def _over_time(history: "dict[str, NightDrift]", limits: Limits) -> dict[str, dg.MetadataValue]:
    """Draw the published nights so far; one alone has no history."""
    from models.training.drift_plots import drift_history

    nights = dict(list(history.items())[-NIGHTS_SHOWN:])
    if len(nights) < 2:
        return {}
    largest = {day: max(night.features.values()) for day, night in nights.items()}
    scores = {day: night.score for day, night in nights.items()}
    return {"history": picture("history", drift_history(scores, largest, limits.max_feature_shift))}
