"""The network: a small multi-layer perceptron and its trainer, in NumPy, float32 throughout.

AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019) on soft cross-entropy, with a warm-up and a
cosine schedule. Where the targets come from is in `teacher`; what the columns are, in `layout`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from models.encoding import Encoded
from models.scoring import ROWS_PER_CALL
from models.training.graph import Encode, Layer, Matrix

BATCH = 256
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
WARM_UP = 0.1  # share of the steps
LEAST_EPOCHS = 4
CURVE_POINTS = 200
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

Vector = npt.NDArray[np.float32]
Real = TypeVar("Real", np.float32, np.float64)


@dataclass(frozen=True)
class Network:
    """Layers with ReLU between them, and the mean loss over equal stretches of the training (nats a row)."""

    layers: list[Layer]
    curve: list[float]


def logits(layers: list[Layer], encode: Encode, rows: Encoded) -> Vector:
    """Return the forward pass, float32 [rows]."""
    starts = range(0, len(rows), ROWS_PER_CALL)
    batches = [_activations(layers, encode(rows[start : start + ROWS_PER_CALL]))[-1][:, 0] for start in starts]
    return np.concatenate(batches)


def sigmoid(logit: npt.NDArray[Real]) -> npt.NDArray[Real]:
    """Return the probabilities of logits, float32 or float64 as they are, without overflow."""
    return np.exp(-np.logaddexp(np.float32(0), -logit))


def train_network(
    encode: Encode,
    rows: Encoded,
    targets: Vector,
    *,
    hidden: tuple[int, ...],
    presentations: int,
    seed: int,
    dropout: float = 0.0,
    weight_decay: float = WEIGHT_DECAY,
    progress: Callable[[str], None] = lambda _: None,
) -> Network:
    """Train on `targets`, float32 [rows] in [0, 1]. Batches are encoded when their turn comes, which keeps memory low.

    Every row is shown at least 4 times, and `presentations` rows in all. `dropout` is the share of hidden units that is
    left out of each step (Srivastava et al., 2014). The same seed gives the same network.
    """
    rng = np.random.default_rng(seed)
    epochs = max(LEAST_EPOCHS, round(presentations / len(rows)))
    steps = epochs * -(-len(rows) // BATCH)
    parameters = _Parameters([encode(rows[:1]).shape[1], *hidden, 1], float(targets.mean()), rng)
    losses = np.empty(steps, np.float32)
    with threadpool_limits(1, user_api="blas"):  # the same bits for any number of cores; a second saves a fifth at best
        for step, batch in enumerate(_batches(len(rows), epochs, rng)):
            masks = [_mask(len(batch), units, dropout, rng) for units in hidden] if dropout else []
            losses[step] = parameters.backward(encode(rows[batch]), targets[batch], masks)
            parameters.update(_learning_rate(step, steps), step + 1, weight_decay)
            if step % (steps // 5 + 1) == 0:
                progress(f"network: step {step:,} of {steps:,}, loss {losses[step]:.4f}")
    points = np.array_split(losses, min(CURVE_POINTS, steps))
    return Network([(w.copy(), b.copy()) for w, b in parameters.layers], [float(part.mean()) for part in points])


def _batches(rows: int, epochs: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    for _ in range(epochs):
        order = rng.permutation(rows)
        for start in range(0, rows, BATCH):
            yield order[start : start + BATCH]


def _learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to 0."""
    warm_up = max(int(WARM_UP * steps), 1)
    if step < warm_up:
        return LEARNING_RATE * (step + 1) / warm_up
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


def _mask(rows: int, units: int, dropout: float, rng: np.random.Generator) -> Matrix:
    """Return 0 for a unit that is left out, and for the others what makes up for those."""
    return (rng.random((rows, units), np.float32) >= dropout) * np.float32(1 / (1 - dropout))


def _activations(layers: list[Layer], dense: Matrix, masks: Sequence[Matrix] = ()) -> list[Matrix]:
    """Return the input, what each hidden layer passes on, and the output, each float32 [rows, units]."""
    passed = [dense]
    for i, (weights, bias) in enumerate(layers, 1):
        out = passed[-1] @ weights
        out += bias
        if i < len(layers):
            np.maximum(out, 0, out=out)
            if masks:
                out *= masks[i - 1]
        passed.append(out)
    return passed


class _Parameters:
    """All weights and biases in one flat vector, weights first, so that the optimizer is a few vector operations."""

    def __init__(self, units: list[int], positive_rate: float, rng: np.random.Generator) -> None:
        shapes = list(pairwise(units))
        self._weights = sum(inputs * outputs for inputs, outputs in shapes)
        size = self._weights + sum(units[1:])
        self._values, self._gradient, self._mean, self._square, self._scratch = np.zeros((5, size), np.float32)
        self.layers, self._gradients = self._views(self._values, shapes), self._views(self._gradient, shapes)
        for (inputs, _), (weights, _) in zip(shapes, self.layers, strict=True):
            weights[:] = rng.normal(0, np.sqrt(2 / inputs), weights.shape)  # He et al., 2015
        rate = min(max(positive_rate, 1e-6), 1 - 1e-6)
        self.layers[-1][1][:] = np.log(rate / (1 - rate))

    def _views(self, flat: Vector, shapes: list[tuple[int, int]]) -> list[Layer]:
        views, weight, bias = [], 0, self._weights
        for inputs, outputs in shapes:
            matrix = flat[weight : weight + inputs * outputs].reshape(inputs, outputs)
            views.append((matrix, flat[bias : bias + outputs]))
            weight, bias = weight + inputs * outputs, bias + outputs
        return views

    def backward(self, dense: Matrix, targets: Vector, masks: Sequence[Matrix] = ()) -> float:
        """Fill the gradient of the mean soft cross-entropy of a batch, and return that loss."""
        passed = _activations(self.layers, dense, masks)
        logit = passed.pop()[:, 0]
        loss = float((np.logaddexp(np.float32(0), logit) - targets * logit).mean())
        delta = ((sigmoid(logit) - targets) / np.float32(len(targets)))[:, None]
        for i in reversed(range(len(self.layers))):
            weights, bias = self._gradients[i]
            np.matmul(passed[i].T, delta, out=weights)
            np.sum(delta, 0, out=bias)
            if i:
                delta = (delta @ self.layers[i][0].T) * (passed[i] > 0)
                if masks:
                    delta *= masks[i - 1]
        return loss

    def update(self, learning_rate: float, step: int, weight_decay: float) -> None:
        """Take one AdamW step; only weights decay. In place: nothing of this size is allocated."""
        gradient, mean, square, scratch = self._gradient, self._mean, self._square, self._scratch
        mean *= BETA1
        np.multiply(gradient, 1 - BETA1, out=scratch)
        mean += scratch
        square *= BETA2
        np.multiply(gradient, gradient, out=scratch)
        scratch *= 1 - BETA2
        square += scratch
        np.sqrt(square, out=scratch)
        scratch /= np.float32(np.sqrt(1 - BETA2**step))
        scratch += EPSILON
        np.divide(mean, scratch, out=scratch)
        scratch *= np.float32(learning_rate / (1 - BETA1**step))
        self._values[: self._weights] *= np.float32(1 - learning_rate * weight_decay)
        self._values -= scratch
