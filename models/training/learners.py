"""Learners that the teacher blends with boosted trees (`trees`): lines, straight or over pieces of numbers; a network.

Each learns from some rows and is judged on others, and what it has learnt is a function from rows to scores. Trees are
good at steps and at what only counts together, lines at what is smooth and adds up (the straight one where few rows
have anything to tell), the network at what is smooth and counts together. What they make of each other is in `teacher`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from models.contract import Contract, NumberFeature
from models.encoding import Encoded
from models.scoring import ROWS_PER_CALL, Scores
from models.training.graph import Encode, Layer, dense_encoder
from models.training.layout import learn_layout
from models.training.network import LEAST_EPOCHS, logits, sigmoid, train_network
from models.training.rates import Rates, cross_fitted, learn_rates, many_valued
from models.training.split import Labels

MOST_PIECES, FEWEST_BINS, MOST_BINS = 300, 6, 32  # of the line and the network: bins by how many numbers share them
MOST_ROWS = 50_000  # that a line and a network learn from: of more, so many drawn ones
MOST_COLUMNS = 600  # up to which Newton's method is the faster way to a line
HIDDEN = (128, 32)

Score = Callable[[Encoded], Scores]


class Part(NamedTuple):
    """Rows with their outcomes."""

    rows: Encoded
    y: Labels


@dataclass(frozen=True)
class Fold:
    """What the learners of one fold see: rows to learn from and rows to be judged on, with rates beside the numbers."""

    inside: Part
    outside: Part
    rates: Rates
    encode: Encode  # to the columns of line and network
    whole: Encode  # to those of the straight line, one for each number

    @classmethod
    def of(cls, contract: Contract, inside: Part, outside: Part, seed: int) -> "Fold":
        """Learn from `inside` what the learners have in common."""
        many, widths = many_valued(inside.rows), contract.code_counts
        rates = learn_rates(*inside, many, widths)
        rows = cross_fitted(*inside, many, widths, seed)
        wider = with_rates(contract, len(many))
        bins = int(np.clip(MOST_PIECES // max(len(wider.numbers), 1), FEWEST_BINS, MOST_BINS))
        encode, whole = (dense_encoder(wider, learn_layout(wider, rows, pieces)) for pieces in (bins, 1))
        return cls(Part(rows, inside.y), Part(rates.added_to(outside.rows), outside.y), rates, encode, whole)


def with_rates(contract: Contract, count: int) -> Contract:
    """Return a contract with `count` more numbers behind the others."""
    if not count:
        return contract
    numbers = {f"rate {i}": NumberFeature(kind="number") for i in range(count)}
    return Contract.model_validate(contract.model_dump() | {"features": contract.features | numbers})


@dataclass(frozen=True)
class Layers:
    """A network over the fold's columns; a line is one without hidden layers."""

    layers: list[Layer]
    encode: Encode

    def __call__(self, rows: Encoded) -> Scores:
        """Return probabilities, float32 [rows]."""
        return sigmoid(logits(self.layers, self.encode, rows))


def fit_line(fold: Fold, strength: float, seed: int) -> Layers:
    """Fit a logistic regression on the pieces; `strength` is the inverse of its L2 penalty."""
    return _line(fold.inside, fold.encode, strength, seed)


def fit_straight_line(fold: Fold, strength: float, seed: int) -> Layers:
    """Fit a logistic regression on the numbers as they are, each between its extremes."""
    return _line(fold.inside, fold.whole, strength, seed, np.float64)  # a weak penalty leaves float32 ill-conditioned


def _line(part: Part, encode: Encode, strength: float, seed: int, dtype: npt.DTypeLike = np.float32) -> Layers:
    (rows, y), risen = drawn(part, MOST_ROWS, seed)
    chunks = range(0, len(rows), ROWS_PER_CALL)  # onnxruntime keeps the memory of the largest call
    dense = np.concatenate([encode(rows[start : start + ROWS_PER_CALL]).astype(dtype, copy=False) for start in chunks])
    solver = "newton-cholesky" if dense.shape[1] <= MOST_COLUMNS else "lbfgs"
    line = LogisticRegression(C=strength, solver=solver, max_iter=1000).fit(dense, y)
    return Layers([(line.coef_.T.astype(np.float32), line.intercept_.astype(np.float32) - risen)], encode)


class Schooling(NamedTuple):
    """How long a network learns: so many epochs, and so many presentations at least; and what keeps it from noise."""

    epochs: int
    presentations: int
    dropout: float
    weight_decay: float


def fit_network(fold: Fold, schooling: Schooling, budget: int, seed: int) -> Layers:
    """Train a network on the outcomes themselves, with at most about `budget` presentations."""
    (rows, y), risen = drawn(fold.inside, min(MOST_ROWS, max(budget // LEAST_EPOCHS, 1)), seed)
    network = train_network(
        fold.encode,
        rows,
        y,
        hidden=HIDDEN,
        presentations=min(max(schooling.epochs * len(rows), schooling.presentations), budget),
        seed=seed,
        dropout=schooling.dropout,
        weight_decay=schooling.weight_decay,
    )
    *hidden, (weights, bias) = network.layers
    return Layers([*hidden, (weights, bias - risen)], fold.encode)


def drawn(part: Part, most: int, seed: int) -> tuple[Part, np.float32]:
    """Draw rows where there are more than so many, the rarer outcome first; and by how much its log-odds rise by it.

    A model of rows that were drawn by their outcomes has another intercept and nothing else (Prentice and Pyke, 1979).
    """
    if len(part.rows) <= most:
        return part, np.float32(0)
    rng = np.random.default_rng(seed)
    by_outcome = [rng.permutation(np.flatnonzero(part.y == outcome)) for outcome in (0, 1)]
    rarer = min(most // 2, *map(len, by_outcome))
    kept = [
        rows[: rarer if len(rows) <= len(other) else most - rarer] for rows, other in (by_outcome, by_outcome[::-1])
    ]
    negatives, positives = (len(some) / len(rows) for some, rows in zip(kept, by_outcome, strict=True))
    drawn = np.sort(np.concatenate(kept))
    return Part(part.rows[drawn], part.y[drawn]), np.float32(np.log(positives / negatives))
