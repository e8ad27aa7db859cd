"""The pictures of drift are real PNGs of the promised size, for one feature and for many."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from models.drift import Drift, Shift
from models.training.drift_plots import distributions, drift_history, shift_bars


def shift(name: str, index: float, bins: int = 4) -> Shift:
    labels = [f"up to {at}" for at in range(bins - 1)] + ["missing"]
    counts = np.arange(1, bins + 1)
    return Shift(name, index, labels, counts, counts[::-1], is_category=False)


def drift(features: int) -> Drift:
    shifts = [shift(f"feature_{i}", 0.5 / (i + 1), bins=2 + i % 12) for i in range(features)]
    return Drift(shifts, shift("score", 0.3), rows=1000)


def size(png: bytes) -> tuple[int, int]:
    height, width, _ = imread(io.BytesIO(png), format="png").shape
    return width, height


@pytest.mark.parametrize(("features", "height"), [(1, 182), (20, 676), (60, 936)])
def test_bars_grow_with_the_features_up_to_thirty(features, height):
    assert size(shift_bars(drift(features), 0.25, 0.2)) == (860, height)


@pytest.mark.parametrize(("features", "height"), [(1, 270), (5, 490)])
def test_each_shift_has_a_panel(features, height):
    found = drift(features)
    assert size(distributions([found.score, *found.features])) == (860, height)


def test_the_nights_are_drawn_one_after_the_other():
    nights = {f"2026-11-{day:02d}": day / 100 for day in range(1, 29)}
    assert size(drift_history(nights, nights, 0.25)) == (860, 300)
