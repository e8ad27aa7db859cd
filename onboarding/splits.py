"""How the examples are split: by time where there is a time that allows it, else a share of each outcome."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np

from onboarding.columns import Column

LEAST_SHARE, MOST_SHARE = 0.15, 0.5  # of the rows that the latest months are the test set of
LEAST_OF_EACH = 10  # rows of each outcome, in the test set and before it
STRATIFIED: Mapping[str, Any] = {"method": "stratified", "test_share": 0.25}


@dataclass(frozen=True)
class Choice:
    """The split, why, and the share of the examples that is the test set."""

    split: Mapping[str, Any]
    why: str
    test_share: float


def choose_split(time: Column | None) -> Choice:
    """Take as few of the latest months as make a good test set; a share of each outcome where none do."""
    if time is None:
        return Choice(STRATIFIED, "a quarter of each outcome is the test set: there is no time", 0.25)
    months = np.array([_month(value) for value in time.values.to_pylist()])
    labelled = time.labelled > 0
    last = int(months[labelled].max())
    for count in range(1, last - int(months[labelled].min()) + 1):
        share = _share_of_test(time, months > last - count)
        if LEAST_SHARE <= share <= MOST_SHARE:
            why = f"the latest {count} calendar months, {share:.0%} of the examples, are the test set"
            return Choice({"method": "time", "test_months": count}, why, share)
    why = f"{time.name!r} has no latest months that hold {LEAST_SHARE:.0%} to {MOST_SHARE:.0%} of the examples, with "
    return Choice(STRATIFIED, f"{why}{LEAST_OF_EACH} of each outcome: a quarter of each outcome is the test set", 0.25)


def _share_of_test(time: Column, test: "np.ndarray[Any, np.dtype[np.bool_]]") -> float:
    """Return the share of the labelled rows that is the test set; 0 where a part has too few of an outcome."""
    for part in (test, ~test):
        positives = int(time.positives[part].sum())
        if min(positives, int(time.labelled[part].sum()) - positives) < LEAST_OF_EACH:
            return 0.0
    return float(time.labelled[test].sum() / time.labelled.sum())


def _month(value: date | datetime) -> int:
    return value.year * 12 + value.month
