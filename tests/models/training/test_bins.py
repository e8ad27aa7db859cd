from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.contract import NumberFeature
from models.encoding import Encoded
from models.training.bins import bins_by_need, edges
from models.training.graph import dense_encoder
from models.training.graph_encoder import FINEST
from models.training.layout import learn_layout

COLUMNS = arrays(np.float32, st.integers(2, 200), elements=st.floats(-1e9, 1e9, width=32))


def pieces_of(value: float, cuts: np.ndarray) -> list[float]:
    """The definition, slowly, in float64."""
    return [min(max((value - a) / (b - a), 0.0), 1.0) for a, b in pairwise(cuts)]


@given(COLUMNS, st.integers(2, 12))
def test_edges_are_ascending_values_from_the_smallest_to_about_the_largest(column, bins):
    cuts = edges(column, bins)
    assert (np.diff(cuts) > 0).all()
    assert set(cuts) <= set(column)
    assert cuts[0] == column.min()
    assert cuts[-1] == pytest.approx(column.max(), abs=2**-15 * float(np.abs(column).max()))


def test_few_distinct_values_are_all_edges():
    assert edges(np.array([3, 1, 2, 1, np.nan], np.float32), 8).tolist() == [1, 2, 3]


def test_a_heavy_value_gets_an_edge_and_leaves_room_for_the_others():
    rng = np.random.default_rng(0)
    column = np.where(rng.random(5000) < 0.8, 0, rng.exponential(5, 5000)).astype(np.float32)
    cuts = edges(column, 16)
    assert cuts[0] == 0
    assert len(cuts) == 17


@pytest.mark.parametrize("column", [[], [np.nan, np.nan], [5.0, 5.0, np.nan]])
def test_a_column_without_two_values_has_no_piece(column):
    assert len(edges(np.array(column, np.float32), 8)) < 2


@settings(deadline=None, max_examples=60)
@given(COLUMNS, st.integers(2, 12), st.data())
def test_the_graph_computes_the_pieces_of_the_definition(contract_of, column, bins, data):
    numbers = np.column_stack([column, np.arange(len(column))]).astype(np.float32)  # the second always varies
    contract = contract_of({name: NumberFeature(kind="number") for name in ("x", "other")})
    layout = learn_layout(contract, Encoded(numbers, np.empty((len(column), 0), np.int32)), bins)
    near = st.sampled_from(column.tolist()) | st.floats(-(2.0**127), 2.0**127, width=32)
    asked = np.array(data.draw(st.lists(near, min_size=1, max_size=20)), np.float32)
    rows = Encoded(np.column_stack([asked, asked]), np.empty((len(asked), 0), np.int32))
    dense = dense_encoder(contract, layout)(rows)
    cuts, centre = layout.edges[0].astype(float), float(layout.medians[0])
    if (np.diff(cuts) >= FINEST * np.maximum(np.abs(cuts[1:]), np.abs(cuts[:-1]))).all():
        centre = 0.0  # such numbers are not centred: float32 tells their values apart as they are
    for value, row in zip(asked, dense, strict=True):
        assert np.isfinite(row).all()
        for got, wanted, (a, b) in zip(row, pieces_of(float(value), cuts), pairwise(cuts), strict=False):
            away = max(abs(a - centre), abs(b - centre))  # what float32 rounds, in widths of the piece
            assert got == pytest.approx(wanted, abs=5e-7 * (1 + away / (b - a)))


def test_few_numbers_get_many_bins_and_many_get_few():
    rng = np.random.default_rng(0)
    assert bins_by_need(rng.normal(size=(500, 3)).astype(np.float32)) == 48
    assert bins_by_need(rng.normal(size=(500, 14)).astype(np.float32)) == 24
    assert bins_by_need(rng.normal(size=(500, 80)).astype(np.float32)) == 8


def test_flags_and_counts_take_no_share_of_the_bins():
    rng = np.random.default_rng(0)
    numbers = np.hstack([rng.normal(size=(500, 4)), rng.integers(0, 5, (500, 60))]).astype(np.float32)
    assert bins_by_need(numbers) == 48
    assert bins_by_need(np.empty((500, 0), np.float32)) >= 2
