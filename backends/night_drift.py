"""How far a night's rows were from the training set: what its snapshot's properties say, and how they are written.

`drift` has the indices, `drift_histograms` the counts that they come from; both are JSON. A night whose model has no
profile has neither.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import Snapshot
from backends.nights import published_nights
from backends.scored_parts import ScoredPart
from models.counting import BinCounter, stride_for
from models.drift import shift_index
from models.profile import Histograms, Profile, profile_in
from models.scoring import Scorer

INDICES, HISTOGRAMS = "drift", "drift_histograms"


@dataclass(frozen=True)
class NightDrift:
    """The population stability indices of one night."""

    rows: int  # that were counted
    score: float
    features: dict[str, float]


def counter_for(scorer: Scorer, rows: int) -> BinCounter | None:
    """Return what counts a population of so many rows while it is scored; None where the model has no profile."""
    profile = profile_in(scorer.metadata)
    return BinCounter(profile, stride_for(rows)) if profile else None


def drift_properties(counter: BinCounter | None, written: Sequence[ScoredPart]) -> dict[str, str]:
    """Return what a night's snapshot keeps of what was counted."""
    if counter is None:
        return {}
    found = Histograms.from_flat(counter.profile, sum((part.bins for part in written), counter.nothing))
    indices = {"rows": found.rows, **_indices(counter.profile, found)}
    return {INDICES: json.dumps(indices, separators=(",", ":")), HISTOGRAMS: found.to_text()}


def _indices(profile: Profile, found: Histograms) -> dict[str, object]:
    training = profile.histograms
    features = {name: round(shift_index(training.features[name], now), 4) for name, now in found.features.items()}
    return {"score": round(shift_index(training.score, found.score), 4), "features": features}


def histograms_of(night: Snapshot) -> Histograms | None:
    """Return what was counted of a night's rows; None where nothing was."""
    text = night.properties.get(HISTOGRAMS)
    return Histograms.from_text(text) if text else None


def drift_history(lake: Lakehouse, table: str) -> dict[str, NightDrift]:
    """Return the indices of every published night that has them, by ISO date, oldest first."""
    nights = published_nights(lake, table)
    texts = {day: nights[day].properties.get(INDICES) for day in sorted(nights)}
    return {day: NightDrift(**json.loads(text)) for day, text in texts.items() if text}
