"""Columns to rows: the very values, in any shape, and no memory of large calls is kept."""

import numpy as np
import psutil
import pytest

from models.transposing import BLOCK, rows_first


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("shape", [(14, 1000), (1, 7), (6, 1), (0, 5), (3, 0), (2, BLOCK), (2, 2 * BLOCK + 3)])
def test_rows_hold_what_the_columns_held(shape: tuple[int, int], dtype: type):
    columns = np.random.default_rng(0).integers(-9, 9, shape).astype(dtype)
    rows = rows_first(columns)
    assert rows.dtype == dtype
    assert rows.flags.c_contiguous
    assert (rows == columns.T).all()
    assert rows.shape == shape[::-1]


def test_nothing_but_the_values_bits_counts():
    odd = np.array([[np.nan, np.inf, -0.0, 1e-45]], np.float32)
    assert rows_first(odd).tobytes() == odd.tobytes()


def test_a_part_of_the_columns_is_read_as_it_is():
    columns = np.arange(60, dtype=np.int32).reshape(6, 10)
    assert (rows_first(columns[::2, 1:7]) == columns[::2, 1:7].T).all()


def test_a_large_table_leaves_no_memory_behind():
    columns, me = np.zeros((20, 1_000_000), np.float32), psutil.Process()
    rows_first(columns[:, :BLOCK])
    before = me.memory_info().rss
    rows_first(columns)
    assert me.memory_info().rss - before < 40e6  # of 80 MB that it needed
