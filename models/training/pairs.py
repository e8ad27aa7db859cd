"""A learner that knows what two categories mean together: a factorization machine (Rendle, 2010) on top of the line.

Most pairs of values of large categories come in a row or two, or never. So each value has a few factors, learnt from
all of its rows, and what two values mean together is the product of theirs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from models.encoding import Encoded
from models.scoring import Scores
from models.training.blend import log_odds
from models.training.learners import MOST_ROWS, Fold, Layers, drawn, fit_line
from models.training.network import sigmoid
from models.training.split import Labels

FACTORS = 4  # of each value
LINE = 0.1  # strength of the line below (`fit_line`)
PENALTY = 3.0  # on what a value means by itself; the line knows most of it
STEPS = 200  # of L-BFGS at most
SCALE = 0.1  # of the factors at the start, which must not be 0: there the gradient is

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """`line + intercept + sum of effects[code] + sum over pairs of categories of factors[code] @ factors[code']`."""

    line: Layers
    starts: npt.NDArray[np.int64]  # of each category's codes among all codes, [categories + 1]
    intercept: float
    effects: Reals  # [codes of all categories]
    factors: Reals  # [codes of all categories, FACTORS]

    def __call__(self, rows: Encoded) -> Scores:
        """Return probabilities, float32 [rows]."""
        values = _values(rows, self.starts)
        line = log_odds([self.line(rows)])[:, 0]
        logit = line + self.intercept + values @ self.effects + _pairs(values, self.factors)
        return sigmoid(logit).astype(np.float32)


@dataclass(frozen=True)
class Misfit:
    """The penalized log-loss of rows over a line, in nats, as a function of all parameters in one vector."""

    values: csr_array  # which codes a row holds, [rows, codes]
    line: Reals  # log-odds, [rows]
    y: Labels
    penalty: float  # of the factors' squares, in nats

    def __call__(self, at: Reals) -> tuple[float, Reals]:
        """Return it at float64 [1 + codes + codes * FACTORS], intercept, effects and factors, with its gradient."""
        intercept, effects, factors = unpacked(at)
        logit = self.line + intercept + self.values @ effects + _pairs(self.values, factors)
        loss = (np.logaddexp(0, logit) - self.y * logit).sum()
        loss += (PENALTY * (effects @ effects) + self.penalty * (factors**2).sum()) / 2
        wrong = sigmoid(logit) - self.y
        by_code = self.values.T @ np.column_stack([wrong, wrong[:, None] * (self.values @ factors)])
        by_effect = by_code[:, 0] + PENALTY * effects
        by_factor = by_code[:, 1:] - by_code[:, :1] * factors + self.penalty * factors
        return float(loss), np.concatenate([[wrong.sum()], by_effect, by_factor.ravel()])


def unpacked(at: Reals) -> tuple[float, Reals, Reals]:
    """Return intercept, effects [codes] and factors [codes, FACTORS] of one vector."""
    codes = (len(at) - 1) // (1 + FACTORS)
    return float(at[0]), at[1 : codes + 1], at[codes + 1 :].reshape(codes, FACTORS)


def fit_pairs(fold: Fold, penalty: float, widths: list[int], seed: int) -> Pairs:
    """Fit effects and factors to the fold's rows; `widths` are the numbers of codes of all categories.

    `penalty` is that of the factors' squares, in nats.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    line = fit_line(fold, LINE, seed)
    (rows, y), risen = drawn(fold.inside, MOST_ROWS, seed)
    starts = np.cumsum([0, *widths])
    values = _values(rows, starts)
    factors = np.random.default_rng(seed).normal(0, SCALE, (int(starts[-1]), FACTORS))
    factors[values.sum(0) == 0] = 0  # nothing is known of a value that never came, and stays so
    start = np.concatenate([np.zeros(1 + len(factors)), factors.ravel()])
    misfit = Misfit(values, log_odds([line(rows)])[:, 0] + risen, y, penalty)
    found = minimize(misfit, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
    return Pairs(line, starts, *unpacked(found))


def _values(rows: Encoded, starts: npt.NDArray[np.int64]) -> csr_array:
    """Return which codes of all categories a row holds, 0 or 1, [rows, codes]."""
    count, categories = rows.categories.shape
    columns = (rows.categories + starts[:-1]).ravel()
    ends = np.arange(count + 1) * categories
    return csr_array((np.ones(len(columns)), columns, ends), shape=(count, int(starts[-1])))


def _pairs(values: csr_array, factors: Reals) -> Reals:
    """Return the sum over pairs of a row's values of the products of their factors, float64 [rows]."""
    together: Reals = ((values @ factors) ** 2).sum(1) - values @ (factors**2).sum(1)
    return together / 2
