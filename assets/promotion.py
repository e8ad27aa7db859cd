"""Judge a candidate against the champion on the same fresh rows, never on stored metrics."""

from dataclasses import dataclass

from assets.examples import held_out, read_examples
from assets.manifests import Candidate
from backends.lakehouse.catalog import Lakehouse
from backends.registry import Registry
from models.declaration import Declaration
from models.errors import ContractError, Problem
from models.scoring import Scorer
from models.training.evaluation import candidate_verdict, evaluate


@dataclass(frozen=True)
class Verdict:
    """What the gates say: `problems` is empty when the candidate may be promoted."""

    metrics: dict[str, dict[str, float]]
    problems: list[Problem]


def judge(lake: Lakehouse, registry: Registry, declaration: Declaration, candidate: Candidate) -> Verdict:
    """Score the candidate, and the champion where there is one, on the candidate's test rows."""
    table = read_examples(lake, declaration, candidate.training_set.snapshot_id)
    scorers = {
        "candidate": Scorer(
            registry.read_onnx(candidate.mlflow_run_id, candidate.artifact, candidate.sha256), candidate.sha256
        )
    }
    champion = registry.champion_or_none(declaration.name)
    if champion:
        scorers["champion"] = Scorer(registry.read_version(champion), champion.sha256)
    metrics = {}
    for name, scorer in scorers.items():
        try:
            rows = held_out(declaration, scorer.contract, table, "test")
        except ContractError:
            if name == "candidate":
                raise
            continue  # the champion reads columns that the declaration has dropped: there is nothing to compare with
        metrics[name] = evaluate(rows.labels, scorer.score(rows.encoded), scorer.contract.decision_threshold)
    return Verdict(metrics, candidate_verdict(declaration.gates, metrics["candidate"], metrics.get("champion")))
