"""Which keys stand twice: exact, whatever the files, their order and the size of what fits into memory."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyiceberg.types import LongType

from backends import repeated_keys as module
from backends.engines import LocalEngine
from backends.lakehouse.catalog import Lakehouse
from backends.repeated_keys import SCRATCH, in_order, key_groups, repeated_keys_of
from tests.backends.nights import write_files

TABLE = "silver.keyed"
INT64 = st.one_of(st.integers(0, 9), st.integers(-(2**63), 2**63 - 1))
TEXT = st.one_of(st.sampled_from("abc"), st.text(max_size=40))  # manifests keep 16 characters of a bound


def found(lake: Lakehouse, *files: list[Any], dtype: pa.DataType | None = None) -> list[Any]:
    """Write a table of files with these keys; return those that are found to stand twice."""
    write_files(lake, TABLE, [pa.table({"key": pa.array(keys, dtype or pa.int64())}) for keys in files])
    return sorted(repeated(lake))


def repeated(lake: Lakehouse) -> list[Any]:
    """Ask for the table's repeated keys; nothing of what is written on the way stays."""
    keys = repeated_keys_of(lake, LocalEngine(2), TABLE, "key", lake.snapshot(TABLE).id, beside=TABLE)
    folder = Path(lake.location(TABLE).removeprefix("file://")) / "data" / SCRATCH
    assert not list(folder.glob("*"))
    return keys.to_pylist()


@pytest.mark.parametrize(
    ("files", "repeated"),
    [
        ([[1, 2, 3], [4, 5]], []),
        ([[1, 2, 2, 3]], [2]),
        ([[3, 1, 2, 1]], [1]),
        ([[1, 2, 3], [3, 4]], [3]),  # the last key of one file is the first of the next
        ([[4, 5, 6], [1, 2, 3], [2, 9]], [2]),
        ([[1, 9], [4, 5], [5, 6]], [5]),  # one file's range has the others' in it
        ([[7, 7, 7], [7]], [7]),
        ([[None, 1, None], [None, 2]], []),
        ([[None, None], [1, 1]], [1]),
        ([[-(2**63), 2**63 - 1], [2**63 - 1, -(2**63)]], [-(2**63), 2**63 - 1]),
        ([[5]], []),
    ],
)
@pytest.mark.parametrize("most_keys", [1, 2, 2_000_000])
def test_integers(lake, monkeypatch, files, repeated, most_keys):
    monkeypatch.setattr(module, "MOST_KEYS", most_keys)
    assert found(lake, *files) == repeated


@pytest.mark.parametrize("most_keys", [1, 3, 2_000_000])
def test_texts_that_differ_beyond_what_the_manifests_keep_of_them(lake, monkeypatch, most_keys):
    monkeypatch.setattr(module, "MOST_KEYS", most_keys)
    long = "the same sixteen characters and then "
    first, second = [long + "a", long + "b", "ß"], [long + "b", long + "c", None, ""]
    assert found(lake, first, second, ["ß"], dtype=pa.string()) == [long + "b", "ß"]


def test_keys_that_were_narrower_in_older_files(lake):
    write_files(lake, TABLE, [pa.table({"key": pa.array([1, 2, 3], pa.int32())})])
    table = lake.load(TABLE)
    with table.update_schema() as change:
        change.update_column("key", LongType())
    table.append(pa.table({"key": pa.array([3, 2**40], pa.int64())}))
    assert repeated(lake) == [3]


def test_files_in_the_order_of_their_keys_are_looked_at_in_small_groups(lake, monkeypatch):
    monkeypatch.setattr(module, "MOST_KEYS", 200)
    files = [list(range(start, start + 100)) for start in range(0, 1000, 100)]
    assert found(lake, *files) == []
    groups = key_groups(lake.plan(TABLE, ["key"], ranges_of=["key"]), "key")
    assert [len(group.files) for group in groups] == [2] * 5
    assert {group.hashes for group in groups} == {1}


@pytest.mark.parametrize(
    ("files", "order"),
    [
        ([[1, 2], [5, 6], [3, 4]], [[1, 2], [3, 4], [5, 6]]),
        ([[2, 2, 1], [3]], [[2, 2, 1], [3]]),  # what stands within a file is not told by the manifests
        ([[1, 3], [3, 4]], None),
        ([[1, 9], [4, 5]], None),
        ([[1], [None, None]], None),
    ],
)
def test_a_plan_is_in_order_when_no_two_files_can_share_a_key(lake, files, order):
    found(lake, *files)
    plan = in_order(lake.plan(TABLE, ["key"], ranges_of=["key"]), "key")
    read = plan and [[key for batch in plan.batches(file) for key in batch["key"].to_pylist()] for file in plan.files]
    assert read == order


def test_keys_of_files_that_meet_are_dealt_out_by_as_many_hashes_as_it_takes(lake, monkeypatch):
    monkeypatch.setattr(module, "MOST_KEYS", 200)
    keys = np.random.default_rng(0).permutation(1000)
    assert found(lake, *np.array_split(keys, 4), [int(keys[17])]) == [keys[17]]
    groups = key_groups(lake.plan(TABLE, ["key"], ranges_of=["key"]), "key")
    assert [(len(group.files), group.hashes) for group in groups] == [(5, 6)]


@pytest.mark.parametrize(("dtype", "keys"), [(pa.int64(), INT64), (pa.string(), TEXT)], ids=["integers", "texts"])
@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_keys_in_any_files(lake, dtype, keys, data):
    files = data.draw(st.lists(st.lists(st.one_of(st.none(), keys), max_size=6), min_size=1, max_size=4))
    most_keys = data.draw(st.sampled_from([1, 3, 2_000_000]))
    counts = Counter(key for file in files for key in file if key is not None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_KEYS", most_keys)
        assert found(lake, *files, dtype=dtype) == sorted(key for key, count in counts.items() if count > 1)
