"""Judge a candidate against the champion on the same fresh rows, never on stored metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from assets.examples import held_out, read_examples
from assets.manifests import Candidate
from backends.lakehouse.catalog import Lakehouse
from backends.registry import Registry, Version
from models.declaration import Declaration
from models.encoding import screen_arrow
from models.errors import ColumnError, Problem
from models.scoring import Scorer, Scores
from models.training.comparison import NAMES, Gains, behind, compare, outcome
from models.training.evaluation import candidate_verdict, evaluate
from models.training.split import Labels, split_examples

Ruling = Literal["unopposed", "better", "tie", "same", "rejected"]
CANDIDATE, CHAMPION = "candidate", "champion"


@dataclass(frozen=True)
class Contest:
    """Scores, float32 [rows], on the test rows that both models take; without gains the candidate stands alone."""

    y: Labels
    scores: Mapping[str, Scores]
    gains: Gains = field(default_factory=dict)
    left_out: int = 0  # test rows that the champion's contract refuses
    why_alone: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the gates say; `problems` is empty when the candidate has passed all that block. `reason` is for people.

    better, tie: than the champion, with it. same: its very bytes. unopposed: no champion that can read these rows.
    """

    ruling: Ruling
    reason: str
    problems: list[Problem]
    champion: Version | None
    contest: Contest
    metrics: dict[str, dict[str, float]]  # by model, on the contest's rows
    beats: bool  # the champion; True where there is none to beat, or it is the champion itself


def judge(
    lake: Lakehouse, registry: Registry, declaration: Declaration, candidate: Candidate, champion: Version | None
) -> Verdict:
    """Score the candidate, and the champion where there is one, on the candidate's test rows."""
    ours = Scorer(registry.read_onnx(candidate.mlflow_run_id, candidate.artifact, candidate.sha256), candidate.sha256)
    rival = None if champion is None or champion.sha256 == candidate.sha256 else champion
    theirs = Scorer(registry.read_version(rival), rival.sha256) if rival else None
    wanted = theirs.contract.features if theirs else {}
    table = read_examples(lake, declaration, candidate.training_set.snapshot_id, wanted)
    test = held_out(declaration, ours.contract, table, "test")
    scores, threshold = ours.score(test.encoded), ours.contract.decision_threshold
    contest = _contest(declaration, table, test.labels, scores, theirs)
    problems = candidate_verdict(declaration.gates, evaluate(test.labels, scores, threshold))
    if contest.gains:
        problems += behind(declaration.gates, contest.gains)
    return Verdict(
        *_ruling(declaration, problems, contest, candidate, champion),
        problems,
        champion,
        contest,
        {name: evaluate(contest.y, values, threshold) for name, values in contest.scores.items()},
        outcome(declaration.gates, contest.gains) == "better" if contest.gains else not contest.why_alone,
    )


def _contest(declaration: Declaration, table: pa.Table, y: Labels, ours: Scores, theirs: Scorer | None) -> Contest:
    """Compare on the test rows that the champion's contract takes too, if both outcomes are among them."""
    alone = {CANDIDATE: ours}
    if theirs is None:
        return Contest(y, alone)
    picked = table.take(pa.array(split_examples(declaration, table).test))
    try:
        screened = screen_arrow(theirs.contract, picked)
    except ColumnError as error:
        return Contest(y, alone, why_alone=str(error))
    kept = np.ones(len(y), np.bool_)
    for violation in screened.violations:
        kept[violation.rows] = False
    left_out = int((~kept).sum())
    if len(np.unique(y[kept])) < 2:
        return Contest(y, alone, why_alone=f"Its contract refuses {left_out} of {len(y)} test rows.")
    scores = {CANDIDATE: ours[kept], CHAMPION: theirs.score(screened.encoded[kept])}
    gains = compare(y[kept], scores[CANDIDATE], scores[CHAMPION], declaration.gates.comparison)
    return Contest(y[kept], scores, gains, left_out)


def _ruling(
    declaration: Declaration,
    problems: list[Problem],
    contest: Contest,
    candidate: Candidate,
    champion: Version | None,
) -> tuple[Ruling, str]:
    if problems:
        return "rejected", "; ".join(map(str, problems))
    if champion is None:
        return "unopposed", "The first champion: there was none to compare it with."
    if champion.sha256 == candidate.sha256:
        return "same", f"The very bytes of version {champion.version}, the champion."
    if contest.why_alone:
        unread = f"Not compared with version {champion.version}, which cannot read the rows"
        return "unopposed", f"{unread}: {contest.why_alone}"
    found = _said(declaration, contest)
    if outcome(declaration.gates, contest.gains) == "better":
        return "better", f"Better than version {champion.version}: {found}."
    return "tie", f"A tie with version {champion.version}, which stays: {found}."


def _said(declaration: Declaration, contest: Contest) -> str:
    share = f"{declaration.gates.comparison.confidence:.0%}"
    gains = [
        f"{NAMES[metric]} {gain.value:+.4f} ({share} of the resamples from {gain.lower:+.4f} to {gain.upper:+.4f})"
        for metric, gain in contest.gains.items()
    ]
    refused = f", without {contest.left_out} rows that the champion's contract refuses" if contest.left_out else ""
    return f"gains on {len(contest.y)} rows{refused}: {', '.join(gains)}"
