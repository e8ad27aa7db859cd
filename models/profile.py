"""What the training set looked like, in bins: the profile that travels inside the ONNX file beside the contract.

A night's rows, or requests, are counted into the same bins (`models.counting`) and compared with it (`models.drift`).
It is no part of the contract: nothing that scores a row reads it, and a file without one scores as well.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from pydantic import ValidationError

from models.audit import Counts
from models.contract import Frozen

METADATA_KEY = "tandem.profile"


class NumberBins(Frozen):
    """Bins of a number, or of the score: above each edge up to the next, itself included; the last is for missing."""

    edges: tuple[float, ...]  # float32, ascending, distinct
    counts: tuple[int, ...]  # rows of the training set, [edges + 2]


class CategoryBins(Frozen):
    """Bins of a category: some values, then all further ones of the vocabulary, then `other`, then missing."""

    values: int  # of the vocabulary
    codes: tuple[int, ...]  # of the values with a bin of their own
    counts: tuple[int, ...]  # rows of the training set, [codes + 3]


Bins = NumberBins | CategoryBins


class Profile(Frozen):
    """The training set in bins: its features by name, in contract order, and the file's own scores of it."""

    format: Literal[1] = 1
    features: dict[str, Bins]
    score: NumberBins

    @property
    def all_bins(self) -> list[Bins]:
        """The bins of each feature, then those of the score."""
        return [*self.features.values(), self.score]

    @property
    def histograms(self) -> "Histograms":
        """The training set's own counts."""
        features = {name: np.array(bins.counts, np.int64) for name, bins in self.features.items()}
        return Histograms(features, np.array(self.score.counts, np.int64))

    def to_metadata(self) -> dict[str, str]:
        """Return the entry for the ONNX file's `metadata_props`."""
        return {METADATA_KEY: self.model_dump_json()}


def profile_in(metadata: Mapping[str, str]) -> Profile | None:
    """Read the profile out of an ONNX file's metadata.

    None where there is none that this version of Tandem can read: drift is not worth a night.
    """
    try:
        return Profile.model_validate_json(metadata[METADATA_KEY])
    except (KeyError, ValidationError):
        return None


@dataclass(frozen=True)
class Histograms:
    """Rows counted into a profile's bins: int64 [bins] of each feature by name, and of the score."""

    features: dict[str, Counts]
    score: Counts

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return int(self.score.sum())

    def fit(self, profile: Profile) -> bool:
        """Tell whether the bins are those of a profile."""
        own = {name: len(counts) for name, counts in self.features.items()}
        return len(self.score) == len(profile.score.counts) and own == {
            name: len(bins.counts) for name, bins in profile.features.items()
        }

    def to_text(self) -> str:
        """Write them for a snapshot's properties."""
        features = {name: counts.tolist() for name, counts in self.features.items()}
        return json.dumps({"features": features, "score": self.score.tolist()}, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "Histograms":
        """Read what `to_text` wrote."""
        read = json.loads(text)
        features = {name: np.array(counts, np.int64) for name, counts in read["features"].items()}
        return cls(features, np.array(read["score"], np.int64))

    @classmethod
    def from_flat(cls, profile: Profile, counts: Counts) -> "Histograms":
        """Take apart what a `BinCounter` has counted."""
        ends = np.cumsum([len(bins.counts) for bins in profile.all_bins])[:-1]
        *features, score = np.split(counts, ends)
        return cls(dict(zip(profile.features, features, strict=True)), score)


def bin_names(bins: Bins, values: Sequence[str] = ()) -> list[str]:
    """Name each bin for a person; `values` is the vocabulary of a category."""
    if isinstance(bins, CategoryBins):
        return [*(values[code] for code in bins.codes), "further", "unseen", "missing"]
    texts = [f"{edge:.3g}" for edge in bins.edges]
    if not texts:
        return ["any value", "missing"]
    if len(set(texts)) < len(texts):
        texts = [f"{edge:.9g}" for edge in bins.edges]  # all that tells one float32 from another
    inner = [f"above {low} up to {high}" for low, high in pairwise(texts)]
    return [f"up to {texts[0]}", *inner, f"above {texts[-1]}", "missing"]
