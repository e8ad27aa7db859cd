"""Tables as people have them, for tests: made customers whose outcome depends on them, written in many ways.

The generator knows the truth: which columns matter, which name rows, which leak.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backends.settings import Settings
from onboarding.new_model import Made, new_model
from onboarding.profiling import Request

Table = dict[str, list[Any]]
WORDS = ("blue", "green", "red", "amber", "violet", "ochre", "teal", "plum")


def customers(rows: int = 600, seed: int = 0, rate: float = 0.3) -> Table:
    """Return a plain table: key, two numbers, a category, and an outcome that depends on them."""
    rng = np.random.default_rng(seed)
    age, spend = rng.integers(18, 90, rows), np.round(rng.gamma(2, 40, rows), 2)
    plan = rng.choice(["basic", "plus", "pro"], rows)
    logit = 0.04 * (age - 50) + 0.8 * np.log(np.maximum(spend, 5) / 80) + (plan == "pro") * 1.0
    shift = np.quantile(logit, 1 - rate)
    left = rng.random(rows) < 1 / (1 + np.exp(-4 * (logit - shift)))
    return {
        "customer_id": [f"C{number:06d}" for number in rng.permutation(rows)],
        "age": age.tolist(),
        "spend": spend.tolist(),
        "plan": plan.tolist(),
        "left": ["yes" if one else "no" for one in left],
    }


def wide(rows: int = 3000, columns: int = 80, seed: int = 0, rate: float = 0.2) -> Table:
    """Return many columns of every kind, some of which matter."""
    rng, table = np.random.default_rng(seed), customers(rows, seed, rate)
    label = table.pop("left")
    for j in range(columns - len(table) - 1):
        kind = j % 5
        if kind == 0:
            values: Sequence[Any] = np.round(rng.normal(0, 10, rows), 3).tolist()
        elif kind == 1:
            values = rng.integers(0, 40, rows).tolist()
        elif kind == 2:
            values = rng.choice(WORDS, rows).tolist()
        elif kind == 3:
            drawn, absent = np.round(rng.exponential(5, rows), 2).tolist(), rng.random(rows) < 0.3
            values = [None if none else value for value, none in zip(drawn, absent, strict=True)]
        else:
            values = rng.choice(["Y", "N"], rows).tolist()
        table[f"f{j}"] = list(values)
    return table | {"left": label}


def with_column(table: Table, name: str, make: Callable[[int, Mapping[str, Any]], Any]) -> Table:
    """Return the table with one more column, made of each row's number and values; it stands before the label."""
    names = list(table)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*table.values(), strict=True)]
    made = {name: [make(number, row) for number, row in enumerate(rows)]}
    return {**{n: table[n] for n in names[:-1]}, **made, names[-1]: table[names[-1]]}


def changed(table: Table, name: str, make: Callable[[Any], Any]) -> Table:
    """Return the table with each value of one column changed."""
    return table | {name: [make(value) for value in table[name]]}


def write_csv(path: Path, table: Table, delimiter: str = ",", encoding: str = "utf-8", **options: Any) -> Path:
    """Write a table as people's programs do; None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, **({"lineterminator": "\n"} | options))
    writer.writerow(table)
    writer.writerows(["" if value is None else value for value in row] for row in zip(*table.values(), strict=True))
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def made_from(settings: Settings, source: Path | str, **asked: Any) -> Made:
    """Make a model from a source as `tandem new` does."""
    fields: dict[str, Any] = {"name": "m", "key": "customer_id", "label": "left"}
    return new_model(settings, Request(source=str(source), **(fields | asked)))
