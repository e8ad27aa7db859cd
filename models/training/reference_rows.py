"""Rows to explain scores against: each feature drawn by itself, at evenly spaced ranks of its training values.

A Latin hypercube (McKay et al., 1979) of the marginals: every share of a feature's values, missing ones among them, is
there as often as in training. A row is put together from many, and like a customer's only by chance.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from models.contract import Contract
from models.encoding import Encoded
from models.reference import Reference

MOST_ROWS, FEWEST_ROWS = 128, 4
MOST_VALUES = 1280  # of all rows together: the file carries them
MOST_STEPS = 32_000  # rows times features squared: what a reason costs, see docs/reasons.md

Value = TypeVar("Value", bound=np.generic)


def learn_reference(contract: Contract, rows: Encoded, seed: int) -> Reference:
    """Return the reference of training rows. The same arguments give the same one."""
    features, rng = len(contract.features), np.random.default_rng(seed)
    count = reference_rows(features)
    numbers = [_drawn(column, count, rng) for column in rows.numbers.T]
    categories = [_drawn(column, count, rng) for column in rows.categories.T]
    shortest = [tuple(None if np.isnan(v) else float(str(v)) for v in column) for column in numbers]
    return Reference(
        numbers=dict(zip(contract.numbers, shortest, strict=True)),
        categories={n: tuple(c.tolist()) for n, c in zip(contract.categories, categories, strict=True)},
        orders=tuple(tuple(rng.permutation(features).tolist()) for _ in range(count)),
    )


def reference_rows(features: int) -> int:
    """Return how many rows explain a model with so many features within 5 ms, as far as that can be."""
    affordable = min(MOST_VALUES // features, MOST_STEPS // max(1, features * (features - 1)))
    return max(FEWEST_ROWS, min(MOST_ROWS, affordable))


def _drawn(column: npt.NDArray[Value], count: int, rng: np.random.Generator) -> npt.NDArray[Value]:
    """Return values at evenly spaced ranks, shuffled; NaN ranks last."""
    ranks = np.rint((np.arange(count) + 0.5) / count * len(column) - 0.5).astype(np.int64)
    return rng.permutation(np.sort(column)[ranks])
