"""What the declaration says of a column: a number or a category, its bounds, its values, and why."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onboarding.columns import Column, words_of
from onboarding.findings import LEAST_ROWS, MOST_VALUES

CODES = {"zip", "zipcode", "postal", "postcode", "plz", "code", "type", "class", "kind", "category", "group", "cluster"}
CODES |= {
    "segment",
    "region",
    "branch",
    "store",
    "shop",
    "channel",
    "country",
    "state",
    "district",
    "sector",
    "product",
}
CODES |= {"id", "status", "model"}
AMOUNTS = {
    "age",
    "tenure",
    "months",
    "days",
    "hours",
    "minutes",
    "seconds",
    "weeks",
    "years",
    "count",
    "amount",
}
AMOUNTS |= {"charge", "charges", "price", "cost", "costs", "fee", "fees", "income", "salary", "spend", "spent", "paid"}
AMOUNTS |= {"payment", "payments", "quantity", "qty", "duration", "distance", "length", "height", "weight", "size"}
AMOUNTS |= {"area", "visits", "calls", "orders", "clicks", "loan", "limit", "discount", "share", "usage"}
SIGNED = {"net", "change", "delta", "diff", "difference", "growth", "trend", "profit", "margin", "log", "to"}
LEAST_VALUES = 24  # fewer have a bin each, so that a number loses nothing
ROUGH, ROUGH_SHARE = 6.0, 0.3  # standard deviations, and share of all differences, by which neighbours of codes differ

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Feature:
    """One line of a declaration, and the comment behind it."""

    name: str
    fields: dict[str, Any]
    comment: str = ""


def feature_of(column: Column) -> Feature:
    """Declare a column; its comment says what was decided."""
    reasons = [column.reading.comment] if column.reading.comment else []
    kind, why = _kind(column)
    reasons += [why] if why else []
    fields: dict[str, Any] = {"kind": kind}
    if kind == "number":
        fields |= _bounds(column)
    else:
        fields["values"], covered = _values(column)
        reasons += [covered] if covered else []
    if column.infinite:
        reasons.append(f"infinite in {column.infinite:,} rows, which is read as missing")
    if column.absent.rows:
        fields["missing"] = True
        reasons.append(f"missing in {column.absent.rows:,} of {column.all_rows:,} rows")
    return Feature(column.name, fields, "; ".join(reasons))


def _kind(column: Column) -> tuple[str, str]:
    if not column.is_number:
        return "category", ""
    if not column.is_whole or column.distinct > MOST_VALUES or not pa.types.is_integer(column.type):
        return "number", ""
    if column.distinct == 2:
        return "category", "two whole numbers, read as yes and no" if _are_01(column) else "two whole numbers"
    if words_of(column.name) & CODES:
        return "category", f"{column.distinct} whole numbers, named like a code; `kind: number` if they are amounts"
    if _are_rough(column):
        return "category", (
            f"{column.distinct} whole numbers whose neighbours have different outcomes, as codes do; "
            "`kind: number` if they are amounts"
        )
    return "number", ""


def _are_01(column: Column) -> bool:
    return bool(column.values.to_pylist() == [0, 1])


def _are_rough(column: Column) -> bool:
    """Whether the positive rates of neighbouring values differ as much as those of any values do, and not by chance.

    Each value's rate is compared with that of two neighbours on either side: a chi-square, whose mean is 1
    where they have the same.
    """
    enough = column.labelled >= LEAST_ROWS
    n, k = column.labelled[enough].astype(float), column.positives[enough].astype(float)
    if len(n) < LEAST_VALUES:
        return False
    around_n, around_k = (np.convolve(x, np.ones(5), "same") - x for x in (n, k))
    nearby, overall = _chi_square(n, k, around_n, around_k), _chi_square(n, k, n.sum() - n, k.sum() - k)
    by_chance = ROUGH * np.sqrt(2 / len(n))
    return bool(nearby - 1 > by_chance and nearby - 1 > ROUGH_SHARE * (overall - 1))


def _chi_square(n: Counts, k: Counts, other_n: Counts, other_k: Counts) -> float:
    """Return the mean chi-square of the difference of two rates, `k` of `n` and `other_k` of `other_n`."""
    pooled = (k + other_k) / (n + other_n)
    variance = pooled * (1 - pooled) * n * (1 + n / other_n)
    squared = (k - n * other_k / other_n) ** 2 / np.where(variance > 0, variance, 1)
    return float(squared.mean())


def _bounds(column: Column) -> dict[str, Any]:
    """Return a bound that nature gives: amounts are never negative. Any other could refuse tomorrow's rows."""
    never_negative = column.numbers[0] >= 0 and column.present >= 1000
    words = words_of(column.name)
    return {"min": 0} if never_negative and words & AMOUNTS and not words & SIGNED else {}


def _values(column: Column) -> tuple[list[Any], str]:
    """Return the vocabulary, in the order of the values, and what is not in it."""
    order = column.most_frequent
    common = [i for i in order if column.rows[i] >= min(LEAST_ROWS, max(1, column.all_rows // 100))][:MOST_VALUES]
    common = common or list(order[:MOST_VALUES])
    values = [column.values[int(i)].as_py() for i in sorted(common)]
    left = column.distinct - len(values)
    if not left:
        return values, ""
    rows = int(column.rows.sum() - column.rows[common].sum())
    return values, f"{left:,} rarer values ({rows:,} rows) fall into `other`"
