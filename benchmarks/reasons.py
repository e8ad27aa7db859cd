"""`python -m benchmarks.reasons`: how near a champion's reasons are to exact Shapley values, and what they take.

Exact means: of the same game, on the same reference rows. Up to `ENUMERATED` features every set of them is looked at;
beyond, `ORDERS` further orders for each reference row stand for all, whose own error is about a twelfth of what is
measured.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from assets.examples import held_out, read_examples
from assets.resources import Backends
from backends.settings import Settings, quiet
from models.declaration import load_declaration
from models.encoding import Encoded
from models.reasons import Explainer, Reasons, log_odds_of
from models.reference import Reference, reference_in
from models.scoring import Scorer
from models.training.graph import with_metadata

ENUMERATED = 12
ORDERS = 150
TIMED = 200  # rows

Values = npt.NDArray[np.float64]  # [features], in the order of the graph's inputs


@dataclass(frozen=True)
class Figures:
    """How near the reasons of some rows are, and how long they take."""

    features: int
    reference_rows: int
    mean_error: float  # absolute, of a contribution, by the largest one of its row
    largest_error: float  # mean over rows of the largest of a row, by the same
    same_first: float  # share of rows whose first reason is the exact one
    same_three: float  # share of the exact three that are among the first three
    milliseconds: float  # of CPU for a row, median
    slowest: float  # 99th percentile of the same

    def __str__(self) -> str:
        """One line for a person."""
        return (
            f"{self.features} features, {self.reference_rows} reference rows: error {self.mean_error:.2%} on average, "
            f"{self.largest_error:.2%} where a row's is largest, by its largest contribution; the first reason is the "
            f"same in {self.same_first:.0%}, the first three are in {self.same_three:.0%}; {self.milliseconds:.2f} ms "
            f"of CPU a row, p99 {self.slowest:.2f} ms"
        )


def main(
    model: Annotated[str, typer.Option(help="A model with a champion.")] = "churn",
    rows: Annotated[int, typer.Option(help="How many rows of the test set to compare.", min=1)] = 20,
) -> None:
    """Compare the champion's reasons on rows of its test set, and print the figures."""
    quiet()
    backends = Backends(Settings())
    declaration = load_declaration(backends.settings.models / f"{model}.yaml")
    registry = backends.registry()
    version = registry.champion(model)
    onnx = registry.read_version(version)
    contract = Scorer(onnx).contract
    with backends.lakehouse() as lake:
        table = read_examples(lake, declaration, int(contract.training_snapshot))
    test = held_out(declaration, contract, table, "test").encoded
    picked = np.random.default_rng(0).choice(len(test), min(len(test), max(rows, TIMED)), replace=False)
    typer.echo(f"{model} version {version.version}: {measure(onnx, test[picked], rows)}")


def measure(onnx: bytes, rows: Encoded, compared: int) -> Figures:
    """Compare the first rows with what is exact, and time all of them."""
    scorer = Scorer(onnx)
    explainer, reference = Explainer(scorer), reference_in(scorer.metadata, scorer.contract)
    scores = scorer.score(rows)
    explainer.explain(rows[:1], scores[:1])
    seconds = []
    for i in range(len(rows)):
        begun = time.thread_time()
        explainer.explain(rows[i : i + 1], scores[i : i + 1])
        seconds.append(time.thread_time() - begun)
    few = rows[:compared]
    found = [_values(scorer, reasons) for reasons in explainer.explain(few, scores[:compared])]
    return _figures(found, exact_values(onnx, reference, few), seconds, reference.rows)


def exact_values(onnx: bytes, reference: Reference, rows: Encoded) -> list[Values]:
    """Return the Shapley values of each row, or for many features what is next to them."""
    scorer = Scorer(onnx)
    if len(scorer.contract.features) <= ENUMERATED:
        return [_enumerated(scorer, reference.encoded, rows[i : i + 1]) for i in range(len(rows))]
    rng, scores, total = np.random.default_rng(1), scorer.score(rows), 0.0
    for _ in range(ORDERS):
        orders = [tuple(rng.permutation(len(order)).tolist()) for order in reference.orders]
        other = Scorer(with_metadata(onnx, reference.model_copy(update={"orders": tuple(orders)}).to_metadata()))
        total = total + np.stack([_values(scorer, found) for found in Explainer(other).explain(rows, scores)])
    return list(total / ORDERS)


def _enumerated(scorer: Scorer, reference: Encoded, row: Encoded) -> Values:
    """Weigh what each feature adds to every set of the others."""
    count, split = len(scorer.contract.features), reference.numbers.shape[1]
    sets = [known for size in range(count + 1) for known in combinations(range(count), size)]
    worth = {}
    for known in sets:
        own = np.isin(np.arange(count), known)
        numbers = np.where(own[:split], row.numbers, reference.numbers)
        categories = np.where(own[split:], row.categories, reference.categories)
        worth[known] = float(log_odds_of(scorer.score(Encoded(numbers, categories))).mean())
    values = np.zeros(count)
    for known in sets:
        weight = (
            factorial(len(known)) * factorial(count - len(known) - 1) / factorial(count) if len(known) < count else 0
        )
        for i in set(range(count)) - set(known):
            values[i] += weight * (worth[tuple(sorted((*known, i)))] - worth[known])
    return values


def _values(scorer: Scorer, reasons: Reasons) -> Values:
    by_name = dict(reasons.most(len(reasons.features)))
    return np.array([by_name[name] for name in (*scorer.contract.numbers, *scorer.contract.categories)])


def _figures(found: Sequence[Values], exact: Sequence[Values], seconds: Sequence[float], rows: int) -> Figures:
    pairs = list(zip(found, exact, strict=True))
    errors = np.array([np.abs(one - other) / np.abs(other).max() for one, other in pairs])
    first = [[set(np.argsort(-np.abs(values))[:size]) for values in pair] for size in (1, 3) for pair in pairs]
    shares = [len(one & other) / len(other) for one, other in first]
    return Figures(
        features=errors.shape[1],
        reference_rows=rows,
        mean_error=float(errors.mean()),
        largest_error=float(errors.max(axis=1).mean()),
        same_first=float(np.mean(shares[: len(pairs)])),
        same_three=float(np.mean(shares[len(pairs) :])),
        milliseconds=1000 * float(np.median(seconds)),
        slowest=1000 * float(np.percentile(seconds, 99)),
    )


if __name__ == "__main__":
    typer.run(main)
