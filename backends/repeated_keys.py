"""Which keys stand in more than one row of a plan: exact, in bounded memory, without a shuffle.

Files whose key ranges, as the manifests have them, do not meet cannot share a key, so a table in the order of its keys
falls into small groups that are looked at one by one. A group of files that do meet, with more rows than fit, is read
several times, each time for the keys of another hash.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backends.engines import Engine
from backends.lakehouse.reading import FileTask, Key, Plan, Reader

MOST_KEYS = 2_000_000  # that a thread holds at once: 16 MB of integers, and as much again while they are counted
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio (Knuth, The Art of Computer Programming 3, 6.4)


@dataclass(frozen=True)
class KeyGroup:
    """Files to look at together, for the keys of one hash out of `hashes`."""

    files: tuple[FileTask, ...]
    hash: int
    hashes: int


def repeated_keys(engine: Engine, plan: Plan, key: str) -> pa.Array:
    """Return each key that stands in more than one row, once, in no order; nulls are left out."""
    found = engine.map(partial(repeated_in, plan.reader, key), key_groups(plan, key))
    return pa.concat_arrays([pa.array([], plan.schema.field(key).type), *found])


def key_groups(plan: Plan, key: str) -> list[KeyGroup]:
    """Return groups of files that share no key, of at most `MOST_KEYS` rows each where their ranges allow it."""
    groups: list[KeyGroup] = []
    gathered: list[FileTask] = []
    for cluster in _clusters(plan, key):
        if gathered and _rows(gathered) + _rows(cluster) > MOST_KEYS:
            groups += _split(gathered)
            gathered = []
        gathered += cluster
    return groups + _split(gathered) if gathered else groups


def repeated_in(reader: Reader, key: str, group: KeyGroup) -> pa.Array:
    """Return the keys of one group that stand in more than one row."""
    dtype = reader.schema.field(key).type
    if group.hashes == 1 and _ascending(batch.column(key) for file in group.files for batch in reader.batches(file)):
        return pa.array([], dtype)
    batches = (batch.column(key) for file in group.files for batch in reader.batches(file))
    keys = pa.chunked_array([_of_hash(keys.drop_null(), group).cast(dtype) for keys in batches], type=dtype)
    counted = pa.table({"key": keys}).group_by("key", use_threads=False).aggregate([([], "count_all")])
    return counted.filter(pc.greater(counted["count_all"], 1))["key"].combine_chunks()


def _clusters(plan: Plan, key: str) -> Iterator[list[FileTask]]:
    """Yield the files in the order of their keys; those whose ranges meet, or are not known, come together."""
    ranges = [(plan.reader.range_of(file, key), file) for file in plan.files if file.rows]
    if any(found is None for found, _ in ranges):
        yield [file for _, file in ranges]
        return
    known = sorted(((found, file) for found, file in ranges if found), key=lambda pair: pair[0])
    cluster: list[FileTask] = []
    highest: Key | None = None
    for (low, high), file in known:
        if highest is not None and low > highest:  # type: ignore[operator]  # both are of the key's type
            yield cluster
            cluster = []
        cluster.append(file)
        highest = high if highest is None or high > highest else highest  # type: ignore[operator]
    if cluster:
        yield cluster


def _split(files: list[FileTask]) -> list[KeyGroup]:
    hashes = -(-_rows(files) // MOST_KEYS) or 1
    return [KeyGroup(tuple(files), number, hashes) for number in range(hashes)]


def _rows(files: list[FileTask]) -> int:
    return sum(file.rows for file in files)


def _ascending(batches: Iterator[pa.Array]) -> bool:
    """Tell whether every key is greater than the one before, so that none can stand twice."""
    last = None
    for keys in batches:
        if keys.null_count:
            return False
        if not len(keys):
            continue
        if last is not None and not pc.less(last, keys[0]).as_py():
            return False
        if not pc.all(pc.less(keys[:-1], keys[1:])).as_py() and len(keys) > 1:
            return False
        last = keys[-1]
    return True


def _of_hash(keys: pa.Array, group: KeyGroup) -> pa.Array:
    if group.hashes == 1:
        return keys
    return keys.filter(pa.array(_hashes(keys) % np.uint64(group.hashes) == group.hash))


def _hashes(keys: pa.Array) -> npt.NDArray[np.uint64]:
    """Return uint64 [keys], the same for the same key in any process."""
    if pa.types.is_integer(keys.type):
        mixed: npt.NDArray[np.uint64] = (keys.cast(pa.int64()).to_numpy().view(np.uint64) * _MIX) >> np.uint64(32)
        return mixed
    from pandas.util import hash_array

    hashes: npt.NDArray[np.uint64] = hash_array(keys.to_numpy(zero_copy_only=False), categorize=False)
    return hashes
