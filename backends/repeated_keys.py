"""Which keys stand in more than one row of a plan: exact, in bounded memory, without a shuffle.

Files whose key ranges, as the manifests have them, do not meet cannot share a key, so a table in the order of its keys
falls into small groups that are looked at one by one; a night need not even do that, since it sees while it scores
whether the keys of each file ascend (`in_order`). Keys of files that do meet, or of one large file, are ascending from
share to share, which shows while they are read once; or else they are dealt out by their hashes to scratch files: each
is then written once and read three times, however many there are.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backends.engines import Engine
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.parts import Parts
from backends.lakehouse.reading import FileTask, Filter, Key, Plan, Reader, Share, joined

MOST_KEYS = 2_000_000  # that a thread holds at once: 16 MB of integers, and as much again while they are sorted
SHARES_A_SLOT = 4
SCRATCH = "keys/"  # folder of the files that are written on the way

MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio (Knuth, The Art of Computer Programming 3, 6.4)


KeyRange = tuple[Key, Key]  # the first and the last of ascending keys


@dataclass(frozen=True)
class KeyGroup:
    """Files to look at together. With more than one hash, their keys are too many at once and are dealt out by hash."""

    files: tuple[FileTask, ...]
    hashes: int


@dataclass(frozen=True)
class Dealt:
    """The keys of some files, as numbers, in a scratch file: round after round, each in the order of its hashes."""

    address: str
    counts: npt.NDArray[np.int64]  # [rounds, hashes]


class Ascending:
    """Whether keys, batch after batch, are each greater than the one before, so that none can stand twice."""

    def __init__(self) -> None:
        self._first: pa.Scalar | None = None
        self._last: pa.Scalar | None = None
        self.holds = True

    def add(self, keys: pa.Array) -> None:
        """Look at the next batch, unless it is known already that they do not."""
        if not self.holds or not len(keys):
            return
        follows = self._last is None or pc.less(self._last, keys[0]).as_py()
        self.holds = not keys.null_count and bool(follows) and _ascends(keys)
        self._first, self._last = keys[0] if self._first is None else self._first, keys[-1]

    @property
    def range(self) -> KeyRange | None:
        """The first and the last key, if they ascend and there are any."""
        if not self.holds or self._first is None or self._last is None:
            return None
        return self._first.as_py(), self._last.as_py()


def in_order(plan: Plan, key: str) -> Plan | None:
    """Return the plan with its files in the order of their keys; None where the ranges of two files meet.

    No key can stand in two of the files then, and none in one whose keys ascend.
    """
    files: list[FileTask] = []
    for cluster in _clusters(plan, key):
        if any(file.task is not cluster[0].task for file in cluster):
            return None
        files += cluster
    return replace(plan, files=files) if len(files) == len(plan.files) else None


def repeated_keys_of(
    lake: Lakehouse,
    engine: Engine,
    table: str,
    key: str,
    snapshot_id: int,
    *,
    beside: str,
    where: Filter | None = None,
) -> pa.Array:
    """Return the repeated keys of a pinned table: see `repeated_keys`. Scratch files lie among the data of `beside`."""
    plan = lake.plan(table, [key], snapshot_id, where=where, ranges_of=[key])
    with lake.parts(beside, SCRATCH, plan.schema) as scratch:
        return repeated_keys(engine, plan, key, scratch)


def repeated_keys(engine: Engine, plan: Plan, key: str, scratch: Parts) -> pa.Array:
    """Return each key that stands in more than one row, once, in no order; nulls are left out.

    What is written to `scratch` on the way is removed again.
    """
    groups = key_groups(plan, key)
    found = engine.map(partial(repeated_in, plan.reader, key), [group for group in groups if group.hashes == 1])
    for group in groups:
        if group.hashes > 1:
            found += _by_dealing(engine, replace(plan, files=list(group.files)), key, group.hashes, scratch)
    return pa.concat_arrays([pa.array([], plan.schema.field(key).type), *found])


def key_groups(plan: Plan, key: str) -> list[KeyGroup]:
    """Return groups of files that share no key, of at most `MOST_KEYS` rows each where their ranges allow it."""
    groups: list[KeyGroup] = []
    gathered: list[FileTask] = []
    for cluster in _clusters(plan, key):
        if gathered and _rows(gathered) + _rows(cluster) > MOST_KEYS:
            groups.append(_group(gathered))
            gathered = []
        gathered += cluster
    return [*groups, _group(gathered)] if gathered else groups


def repeated_in(reader: Reader, key: str, group: KeyGroup) -> pa.Array:
    """Return the keys of one group that stand in more than one row."""
    dtype = reader.schema.field(key).type
    if range_if_ascending(batch.column(key) for file in group.files for batch in reader.batches(file)) is not None:
        return pa.array([], dtype)
    batches = (batch.column(key) for file in group.files for batch in reader.batches(file))
    return _repeated(pa.chunked_array([keys.drop_null().cast(dtype) for keys in batches], type=dtype))


def range_of_share(reader: Reader, key: str, share: Share) -> KeyRange | None:
    """Return the first and the last key of some files, if they ascend."""
    return range_if_ascending(batch.column(key) for file in share.files for batch in reader.batches(file))


def deal(reader: Reader, key: str, scratch: Parts, hashes: int, share: Share) -> Dealt:
    """Write the keys of some files in the order of their hashes, as many at a time as fit."""
    address = f"{scratch.folder}{scratch.run}-{share.position:05d}-{uuid.uuid4().hex[:8]}.keys"
    batches = (numbers_of(b.column(key).drop_null()) for file in share.files for b in reader.batches(file))
    counts = []
    with scratch.io.new_output(address).create(overwrite=True) as out:
        for numbers in _rounds(batches):
            mixed = (numbers.view(np.uint64) * MIX) >> np.uint64(32)
            hashed = (mixed % np.uint64(hashes)).astype(np.uint16 if hashes < 2**16 else np.uint32)
            out.write(numbers[np.argsort(hashed, kind="stable")].tobytes())
            counts.append(np.bincount(hashed, minlength=hashes))
    return Dealt(address, np.array(counts, np.int64).reshape(-1, hashes))


def repeated_of_hash(scratch: Parts, dealt: Sequence[Dealt], number: int) -> npt.NDArray[np.int64]:
    """Return the numbers of one hash that were dealt out more than once."""
    found = [np.array([], np.int64)]
    for each in dealt:
        ends = np.cumsum(each.counts).reshape(each.counts.shape)
        with scratch.io.new_input(each.address).open() as stream:
            for end, count in zip(ends[:, number].tolist(), each.counts[:, number].tolist(), strict=True):
                stream.seek(8 * (end - count))
                found.append(np.frombuffer(stream.read(8 * count), np.int64))
    return _repeated_numbers(np.concatenate(found))


def keys_among(reader: Reader, key: str, numbers: npt.NDArray[np.int64], share: Share) -> pa.Array:
    """Return the keys of some files whose numbers are among those given, as often as they stand there."""
    found = [pa.array([], reader.schema.field(key).type)]
    for file in share.files:
        for batch in reader.batches(file):
            keys = batch.column(key).drop_null()
            found.append(keys.filter(pa.array(np.isin(numbers_of(keys), numbers))).cast(found[0].type))
    return pa.concat_arrays(found)


def _by_dealing(engine: Engine, plan: Plan, key: str, hashes: int, scratch: Parts) -> list[pa.Array]:
    dtype, shares = plan.schema.field(key).type, plan.shares(SHARES_A_SLOT * engine.slots)
    ranges = engine.map(partial(range_of_share, plan.reader, key), shares)
    if follow_each_other(ranges):
        return []
    dealt = engine.map(partial(deal, plan.reader, key, scratch, hashes), shares)
    numbers = np.concatenate(engine.map(partial(repeated_of_hash, scratch, dealt), range(hashes)))
    scratch.remove_all_but(())
    if pa.types.is_integer(dtype) or not len(numbers):
        return [pa.array(numbers).cast(dtype)]
    keys = engine.map(partial(keys_among, plan.reader, key, numbers), shares)  # two texts may have the same number
    return [_repeated(pa.chunked_array(keys, type=dtype))]


def follow_each_other(ranges: Sequence[KeyRange | None]) -> bool:
    """Tell whether ascending keys go on ascending from one share to the next, so that none can stand twice."""
    known = [found for found in ranges if found is not None]
    return len(known) == len(ranges) and all(
        before[1] < after[0]  # type: ignore[operator]  # both are of the key's type
        for before, after in pairwise(known)
    )


def _rounds(batches: Iterator[npt.NDArray[np.int64]]) -> Iterator[npt.NDArray[np.int64]]:
    """Gather numbers until there are as many as fit."""
    gathered: list[npt.NDArray[np.int64]] = []
    count = 0
    for numbers in batches:
        gathered.append(numbers)
        count += len(numbers)
        if count >= MOST_KEYS:
            yield np.concatenate(gathered)
            gathered, count = [], 0
    if gathered:
        yield np.concatenate(gathered)


def _repeated(keys: pa.ChunkedArray) -> pa.Array:
    """Return each key that stands more than once, once. Sorting integers is ten times as fast as counting them."""
    if pa.types.is_integer(keys.type):
        return pa.array(_repeated_numbers(keys.cast(pa.int64()).to_numpy())).cast(keys.type)
    counted = pa.table({"key": keys}).group_by("key", use_threads=False).aggregate([([], "count_all")])
    return counted.filter(pc.greater(counted["count_all"], 1))["key"].combine_chunks()


def _repeated_numbers(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    ordered = np.sort(numbers)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


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


def _group(files: list[FileTask]) -> KeyGroup:
    hashes = -(-_rows(files) // MOST_KEYS) or 1
    return KeyGroup(joined(files) if hashes == 1 else tuple(files), hashes)


def _rows(files: list[FileTask]) -> int:
    return sum(file.rows for file in files)


def range_if_ascending(batches: Iterator[pa.Array]) -> KeyRange | None:
    """Return the first and the last key if each is greater than the one before."""
    ascending = Ascending()
    for keys in batches:
        ascending.add(keys)
        if not ascending.holds:
            break
    return ascending.range


def _ascends(keys: pa.Array) -> bool:
    return len(keys) < 2 or bool(pc.all(pc.less(keys[:-1], keys[1:])).as_py())


def numbers_of(keys: pa.Array) -> npt.NDArray[np.int64]:
    """Return int64 [keys]: integers as they are, a hash for other keys; the same for the same key in any process."""
    if pa.types.is_integer(keys.type):
        numbers: npt.NDArray[np.int64] = keys.cast(pa.int64()).to_numpy()
        return numbers
    from pandas.util import hash_array

    hashed: npt.NDArray[np.uint64] = hash_array(keys.to_numpy(zero_copy_only=False), categorize=False)
    return hashed.view(np.int64)
