"""The first layer over columns that all rise: what the int8 graph computes in place of one-hot columns.

A piece of a number rises from 0 to 1 as the number grows. So does `code > t`, which is `clip(code - t, 0, 1)`: a
category's weights, one row for each code, are sums of the steps from code to code. So one matrix product makes the
columns of all features, the categories' too; and as a feature switches its columns on one after the other, what it
adds up to is a running sum of weights, along which rounding errors can be made to cancel (`rounded`). Where many codes
share columns, their places in the order of the columns are read instead, so that there are no more steps than columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]
WORTH_A_LOOK = 16  # steps that are saved by looking up the place of each code, which takes time too
Constants = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class RisingColumns:
    """`clip(features @ slopes + starts, 0, 1) @ weights + bias`; features are the numbers as read, then the codes."""

    slopes: Matrix  # [features, columns]
    starts: Matrix  # [columns]
    weights: Matrix  # [columns, units]
    bias: Matrix  # [units]
    runs: list[slice]  # columns of one feature, in the order in which it switches them on
    places: npt.NDArray[np.float32] | None = (
        None  # [codes of all categories], read in place of the codes if it is there
    )


def rising_columns(constants: Constants) -> RisingColumns:
    """Read the constants of the float graph: the encoder's and the first layer's."""
    weights, bias = constants["weights1"].astype(np.float64), constants["bias1"].astype(np.float64)
    slopes, starts = _of_numbers(constants)
    columns = _columns_of_codes(constants)
    places = [_places(of_codes) for of_codes in columns]
    codes = [weights[_in_order(of_codes, at)] for of_codes, at in zip(columns, places, strict=True)]
    steps = [np.diff(rows, axis=0) for rows in codes]
    changes = [np.flatnonzero(step.any(1)) for step in steps]
    ends = np.cumsum([len(starts), *map(len, changes)])
    rises = np.zeros((len(slopes) + len(codes), ends[-1]))
    rises[: len(slopes), : len(starts)] = slopes
    of_codes = [slice(int(a), int(b)) for a, b in pairwise(ends)]
    for row, run in enumerate(of_codes, len(slopes)):
        rises[row, run] = 1
    return RisingColumns(
        slopes=rises,
        starts=np.concatenate([starts, *(-change.astype(np.float64) for change in changes)]),
        weights=np.concatenate(
            [weights[: len(starts)], *(step[change] for step, change in zip(steps, changes, strict=True))]
        ),
        bias=bias + sum((rows[0] for rows in codes), np.zeros_like(bias)),
        runs=[*_runs(slopes), *of_codes],
        places=None if all(map(_as_they_are, places)) else np.concatenate(places).astype(np.float32),
    )


def rounded(weights: Matrix, runs: list[slice]) -> Matrix:
    """Round so that the running sums over each run are the exact ones, rounded: errors do not add up along it.

    Rows of no run are rounded one by one. A rounded weight is at most 1 from the exact one.
    """
    whole = np.rint(weights)
    for run in runs:
        whole[run] = np.diff(np.rint(np.cumsum(weights[run], axis=0)), axis=0, prepend=0)
    return whole


def _of_numbers(constants: Constants) -> tuple[Matrix, Matrix]:
    """Return slopes and starts of the numbers' own columns, which are the first ones."""
    if "slopes" not in constants:
        return np.zeros((0, 0)), np.zeros(0)
    slopes, starts = constants["slopes"].astype(np.float64), constants["starts"].astype(np.float64)
    own = np.flatnonzero(slopes.any(0))
    return slopes[:, own], starts[own]


def _runs(slopes: Matrix) -> list[slice]:
    """Return the pieces of each number, which stand side by side; an indicator, which falls, is a run of its own."""
    if not slopes.size:
        return []
    owner = np.abs(slopes).argmax(0)
    falls = slopes.min(0) < 0
    begins = np.flatnonzero((np.diff(owner, prepend=-1) != 0) | falls)
    return [slice(int(a), int(b)) for a, b in zip(begins, [*begins[1:], len(owner)], strict=True)]


def _columns_of_codes(constants: Constants) -> list[Positions]:
    """Return the column of each category's codes, int64 [codes]."""
    if "code_columns" not in constants:
        return []
    columns, offsets = constants["code_columns"].astype(np.int64), constants["code_offsets"].astype(np.int64)
    return np.split(columns, offsets[1:])


def _places(columns: Positions) -> Positions:
    """Return what is read for each code: its column's place if that saves many steps, else the code itself."""
    found, places = np.unique(columns, return_inverse=True)
    steps = np.count_nonzero(np.diff(columns))
    return places if steps >= len(found) - 1 + WORTH_A_LOOK else np.arange(len(columns))


def _as_they_are(places: Positions) -> bool:
    return bool((places == np.arange(len(places))).all())


def _in_order(columns: Positions, places: Positions) -> Positions:
    """Return the columns in the order of the places."""
    return columns[np.unique(places, return_index=True)[1]]
