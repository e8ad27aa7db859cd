"""What follows from a verdict: a version, the alias, or neither. A rejected candidate never becomes a version."""

from assets.manifests import Candidate
from assets.promotion import CANDIDATE, Verdict
from assets.promotion_report import figures_of
from backends.manual_moves import PROMOTED, REJECTED, VERDICT
from backends.promotion_ledger import Why
from backends.promotions import Promotions, Standing
from backends.registry import Registry, Version

GATE = "the gate"  # who moved the champion


def carry_out(
    registry: Registry,
    promotions: Promotions,
    standing: Standing,
    model: str,
    candidate: Candidate,
    verdict: Verdict,
    dagster_run_id: str,
) -> Version:
    """Promote what has won, and register what has tied; return the champion.

    `PromotionConflictError` when the champion is not that of `standing` any more.
    """
    if verdict.ruling == "same" and verdict.champion:
        return verdict.champion
    tags = {VERDICT: verdict.ruling} | ({} if verdict.ruling == "tie" else {PROMOTED: dagster_run_id})
    made = registry.register(
        model,
        candidate.mlflow_run_id,
        candidate.artifact,
        candidate.sha256,
        _origin(candidate, verdict) | tags,
    )
    registry.tag_version(made, {name: value for name, value in tags.items() if made.tags.get(name) != value})
    if verdict.ruling == "tie" and verdict.champion:
        return verdict.champion
    promotions.move(standing, made, Why("promotion", GATE, verdict.reason, dagster_run_id, figures_of(verdict)))
    return made


def bar(registry: Registry, model: str, candidate: Candidate, verdict: Verdict) -> None:
    """See that nobody can promote what was rejected: where it is a version, from an earlier tie, that is marked."""
    known = registry.with_bytes(model, candidate.sha256)
    if known and (verdict.champion is None or known.version != verdict.champion.version):
        registry.tag_version(known, {VERDICT: REJECTED})


def _origin(candidate: Candidate, verdict: Verdict) -> dict[str, str]:
    return {
        "precision": candidate.precision,
        "training_snapshot": str(candidate.training_set.snapshot_id),
        "population_snapshot": candidate.training_set.population_snapshot,
        "dagster_run_id": candidate.dagster_run_id,
        **{f"metric.{name}": f"{value:.6f}" for name, value in verdict.metrics[CANDIDATE].items()},
    }
