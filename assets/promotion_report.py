"""What is told of a verdict: the same figures and pictures in Dagster and, on the candidate's run, in MLflow."""

from typing import Any

import dagster as dg

from assets.manifests import Candidate
from assets.promotion import CANDIDATE, CHAMPION, Verdict
from backends.registry import Registry
from models.declaration import Declaration
from models.training.comparison import NAMES
from models.training.comparison_plots import gain_histograms
from models.training.plots import roc_and_calibration

PREFIX = "gate."  # of the metrics and pictures in MLflow


def verdict_pictures(declaration: Declaration, verdict: Verdict) -> dict[str, bytes]:
    """Draw both models' curves, and the gains where there are any: file name -> PNG."""
    contest, champion = verdict.contest, verdict.champion
    named = {CANDIDATE: CANDIDATE, CHAMPION: f"champion, version {champion.version}" if champion else ""}
    drawn = {
        "champion_and_candidate.png": roc_and_calibration(
            contest.y, {named[name]: scores for name, scores in contest.scores.items()}
        )
    }
    if contest.gains:
        drawn["gains.png"] = gain_histograms(contest.gains, declaration.gates)
    return drawn


def log_verdict(registry: Registry, candidate: Candidate, verdict: Verdict, pictures: dict[str, bytes]) -> None:
    """Add the verdict to the candidate's run, rejected or not."""
    run_id = candidate.mlflow_run_id
    metrics = {f"{PREFIX}{name}.{key}": v for name, values in verdict.metrics.items() for key, v in values.items()}
    metrics |= {f"{PREFIX}{name}": value for name, value in figures_of(verdict).items()}
    against = str(verdict.champion.version) if verdict.champion else "none"
    registry.log_facts(run_id, {}, metrics)
    registry.log_pictures(run_id, {f"{PREFIX}{name}": png for name, png in pictures.items()})
    registry.tag_run(run_id, {"verdict": verdict.ruling, "verdict_reason": verdict.reason, "verdict_against": against})


def figures_of(verdict: Verdict) -> dict[str, float]:
    """Return the gains and their intervals, as the ledger names them."""
    found = {}
    for metric, gain in verdict.contest.gains.items():
        for end, value in (("", gain.value), ("_lower", gain.lower), ("_upper", gain.upper)):
            found[f"{metric}_gain{end}"] = value
    return found


def gains_table(verdict: Verdict) -> dict[str, Any]:
    """Show each metric of both models, and what is gained; nothing where nothing was compared."""
    records = [
        dg.TableRecord(
            {
                "metric": NAMES[metric],
                **{name: round(verdict.metrics[name][metric], 4) for name in (CANDIDATE, CHAMPION)},
                "gain": round(gain.value, 5),
                "from": round(gain.lower, 5),
                "to": round(gain.upper, 5),
                "better in": f"{gain.probability:.1%}",
            }
        )
        for metric, gain in verdict.contest.gains.items()
    ]
    return {"gains": dg.MetadataValue.table(records)} if records else {}


def problems_of(verdict: Verdict, gates: set[str]) -> str:
    """Say what some gates found; nothing when they hold."""
    return "; ".join(str(problem) for problem in verdict.problems if problem.field in gates)
