"""The online store, on a real folder and in a real Redis: what is packed comes back, and nobody sees half a load."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backends.online_store import OnlineStore, Vectors, open_store
from backends.redis_store import loading
from backends.settings import QUIET, ROOT
from backends.vectors import pack, pack_key, unpack, vector_dtype
from models.contract import Contract, NumberFeature
from models.encoding import Encoded
from models.errors import (
    OnlineStoreError,
    StoreMismatchError,
    StoreUnavailableError,
    ValueRejectedError,
)
from tests.redis_server import RedisServer
from tests.tiny_model import FEATURES, tiny_contract

CONTRACT = tiny_contract()
NOON = np.datetime64("2026-11-23T12:00:00.123", "ms")


def rows_of(count: int, value: float = 0.0) -> Encoded:
    return Encoded(np.full((count, 3), value, np.float32), np.zeros((count, 2), np.int32))


def batch_of(keys, value: float = 0.0):
    return keys, rows_of(len(keys), value), np.full(len(keys), NOON)


@dataclass(frozen=True)
class Place:
    """Where one store is, and a look behind its face."""

    uri: str
    redis: RedisServer | None

    def open(self) -> OnlineStore:
        return open_store(self.uri, CONTRACT.model)

    def generations(self) -> list[str]:
        """Return the generations of which anything is there."""
        if self.redis is None:
            folder = Path(self.uri.removeprefix("lmdb://")) / CONTRACT.model
            return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        with self.redis.client() as client:
            parts = [key.decode().split(":") for key in client.scan_iter()]
        return sorted({part[2] for part in parts if len(part) == 4})


@pytest.fixture
def place(online_uri, request) -> Place:
    return Place(online_uri, request.getfixturevalue("redis") if online_uri.startswith("redis") else None)


@pytest.fixture
def store(place) -> OnlineStore:
    return place.open()


@pytest.fixture
def _quick_lock(monkeypatch) -> None:
    """A lock in Redis that is renewed, and lost, five times as fast."""
    monkeypatch.setattr(loading, "LOCK_SECONDS", 2)


# --- vectors and keys -----------------------------------------------------------------------------------------------

HEIGHT = st.shared(st.integers(1, 5), key="height")


@given(
    numbers=HEIGHT.flatmap(lambda n: arrays(np.float32, (n, 3), elements=st.floats(width=32))),
    categories=HEIGHT.flatmap(lambda n: arrays(np.int32, (n, 2), elements=st.integers(0, 1002))),
    times=HEIGHT.flatmap(lambda n: arrays(np.int64, n, elements=st.integers(-(2**63), 2**63 - 1))),
)
def test_a_vector_keeps_every_bit(numbers, categories, times):
    vectors = pack(CONTRACT, Encoded(numbers, categories), times)
    rows, event_times = unpack(CONTRACT, [vector.tobytes() for vector in vectors])
    assert rows.numbers.tobytes() == numbers.tobytes()  # NaN payloads and -0.0 included
    np.testing.assert_array_equal(rows.categories, categories)
    np.testing.assert_array_equal(event_times, times.view("datetime64[ms]"))
    assert (rows.numbers.dtype, rows.categories.dtype) == (np.float32, np.int32)


def test_a_vector_has_no_padding():
    assert vector_dtype(CONTRACT).itemsize == 8 + 8 + 3 * 4 + 2 * 2


def test_event_times_of_any_unit_are_stored_in_milliseconds():
    for unit in ("s", "us", "ns"):
        vectors = pack(CONTRACT, rows_of(1), np.array(["2026-11-23T12:00:00"], f"datetime64[{unit}]"))
        assert unpack(CONTRACT, [vectors[0].tobytes()])[1] == np.datetime64("2026-11-23T12:00:00")


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_packed_integers_sort_as_the_integers_do(a, b):
    assert (pack_key(CONTRACT, a) < pack_key(CONTRACT, b)) == (a < b)


@pytest.mark.parametrize("key", [True, 1.0, "1", None, 2**63, -(2**63) - 1])
def test_a_key_that_is_no_64_bit_integer_is_refused(key):
    with pytest.raises(ValueRejectedError) as refused:
        pack_key(CONTRACT, key)
    assert refused.value.problems[0].field == "customer_id"


@pytest.mark.parametrize("key", ["", "x" * 512, "é" * 256, "a\0b", 7, None])
def test_a_key_that_is_no_short_text_is_refused(key):
    with pytest.raises(ValueRejectedError, match="customer_id"):
        pack_key(tiny_contract(entity_key_type="string"), key)


# --- load and read --------------------------------------------------------------------------------------------------


def test_integer_keys_come_back_whatever_order_they_were_loaded_in(store):
    keys = np.array([5, -(2**63), 0, 2**63 - 1, -7], np.int64)
    rows = Encoded(np.arange(15, dtype=np.float32).reshape(5, 3), np.arange(10, dtype=np.int32).reshape(5, 2))
    batches = [(keys[part], rows[part], np.full(len(keys[part]), NOON)) for part in (slice(0, 2), slice(2, 5))]
    report = store.load(CONTRACT, batches, {})
    assert report.rows == 5
    for i, key in enumerate(keys.tolist()):
        vectors = store.get_many(CONTRACT, [key])
        np.testing.assert_array_equal(vectors.rows.numbers, rows.numbers[[i]])
        np.testing.assert_array_equal(vectors.rows.categories, rows.categories[[i]])
        assert vectors.event_times.tolist() == [NOON.item()]


def test_text_keys_come_back(store):
    contract = tiny_contract(entity_key_type="string")
    keys = ["b", "a" * 511, "é漢", "B"]
    store.load(contract, [(keys[:3], rows_of(3, 1), np.full(3, NOON)), (keys[3:], rows_of(1, 2), np.full(1, NOON))], {})
    assert store.get_many(contract, keys).rows.numbers[:, 0].tolist() == [1, 1, 1, 2]


def test_entities_without_a_vector_are_reported_by_position(store):
    store.load(CONTRACT, [batch_of(np.array([1, 3]), 4)], {})
    vectors = store.get_many(CONTRACT, [9, 1, 2, 3])
    assert vectors.missing == (0, 2)
    assert vectors.rows.numbers.tolist() == [[4, 4, 4], [4, 4, 4]]


def test_the_store_says_where_its_vectors_come_from(store):
    report = store.load(CONTRACT, [batch_of(np.array([1, 2]))], {"source_snapshot": "812"})
    facts = store.describe()
    assert facts["source_snapshot"] == "812"
    assert facts["rows"] == "2"
    assert facts["contract_fingerprint"] == CONTRACT.fingerprint.hex()
    assert facts["generation"] == report.generation
    assert report.bytes > 2 * vector_dtype(CONTRACT).itemsize


@pytest.mark.parametrize(
    "features",
    [
        FEATURES | {"balance": NumberFeature(kind="number", min=-1, max=1)},  # vectors of the same size
        {name: feature for name, feature in FEATURES.items() if name != "balance"},
    ],
)
def test_vectors_of_another_contract_are_an_error_and_never_a_score(store, features):
    store.load(CONTRACT, [batch_of(np.array([1]))], {})
    other = tiny_contract(features=features)
    with pytest.raises(StoreMismatchError, match=f"{CONTRACT.fingerprint.hex()}.*{other.fingerprint.hex()}.*Material"):
        store.get_many(other, [1])


def test_an_event_loop_reads_what_a_thread_reads(store):
    store.load(CONTRACT, [batch_of(np.arange(30), 4)], {})

    async def read() -> list[Vectors]:
        several = [store.get_many_async(CONTRACT, keys) for keys in ([1], [99, 2], list(range(30)), [])]
        found = await asyncio.gather(*several)
        await store.aclose()
        return [*found, await store.get_many_async(CONTRACT, [1]), await store.aclose()]

    one, two, all_of_them, none, again, _ = asyncio.run(read())
    assert one.rows.numbers.tolist() == again.rows.numbers.tolist() == [[4, 4, 4]]
    assert (two.missing, len(two.rows)) == ((0,), 1)
    assert all_of_them.rows.numbers.tobytes() == store.get_many(CONTRACT, list(range(30))).rows.numbers.tobytes()
    assert (len(none.rows), none.missing) == (0, ())


def test_more_keys_than_one_command_takes(store):
    store.load(CONTRACT, [batch_of(np.arange(0, 5000, 2), 4)], {})
    vectors = store.get_many(CONTRACT, list(range(5000)))
    assert vectors.missing == tuple(range(1, 5000, 2))
    assert len(vectors.rows) == 2500


def test_without_a_load_there_is_no_store(store, tmp_path):
    with pytest.raises(StoreUnavailableError, match="Materialize tiny/online_features"):
        store.get_many(CONTRACT, [1])
    with pytest.raises(StoreUnavailableError) as unavailable:
        store.describe()
    assert str(tmp_path) not in str(unavailable.value)  # the message goes into the API's answers


def test_an_unknown_scheme_is_refused_without_showing_its_password():
    with pytest.raises(OnlineStoreError, match="'memcached' is not known") as refused:
        open_store("memcached://user:secret@host", "tiny")
    assert "secret" not in str(refused.value)


# --- what cannot be loaded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "error", "words"),
    [
        ([batch_of(np.array([4, 7, 4]))], OnlineStoreError, "1 of 3 rows repeat a customer_id, 4"),
        ([batch_of(np.array([4])), batch_of(np.array([7, 4]))], OnlineStoreError, "repeat a customer_id, 4"),
        ([], OnlineStoreError, "no rows"),
        ([batch_of(np.empty(0, np.int64))], OnlineStoreError, "no rows"),
        ([batch_of(np.array([1.0]))], ValueRejectedError, "float64"),
        ([batch_of(np.array([2**63], np.uint64))], ValueRejectedError, "uint64"),
        ([(np.array([1, 2]), rows_of(2), np.full(1, NOON))], ValueError, "2 keys, 2 rows and 1 event times"),
    ],
)
def test_a_load_that_fails_leaves_the_old_vectors_and_nothing_else(store, place, batches, error, words):
    first = store.load(CONTRACT, [batch_of(np.array([1]), 8)], {})
    with pytest.raises(error, match=words):
        store.load(CONTRACT, batches, {})
    assert store.get_many(CONTRACT, [1]).rows.numbers[0, 0] == 8
    assert place.generations() == [first.generation]


@pytest.mark.usefixtures("_quick_lock")
def test_a_second_loader_is_told_to_wait(store, place):
    def batches():
        with pytest.raises(OnlineStoreError, match="being loaded by another process"):
            place.open().load(CONTRACT, [batch_of(np.array([1]))], {})
        yield batch_of(np.array([1]), 3)

    store.load(CONTRACT, batches(), {})
    assert store.get_many(CONTRACT, [1]).rows.numbers[0, 0] == 3


# --- generations ----------------------------------------------------------------------------------------------------


def test_a_reader_follows_a_new_generation_and_the_old_one_goes(store, place):
    reader = place.open()
    store.load(CONTRACT, [batch_of(np.array([1]), 1)], {})
    assert reader.get_many(CONTRACT, [1]).rows.numbers[0, 0] == 1
    second = store.load(CONTRACT, [batch_of(np.array([1]), 2)], {})
    deadline = time.monotonic() + 10
    while reader.get_many(CONTRACT, [1]).rows.numbers[0, 0] == 1:
        assert time.monotonic() < deadline
    assert reader.describe()["generation"] == second.generation
    assert place.generations() == [second.generation]


def test_an_entity_that_left_is_gone(store):
    store.load(CONTRACT, [batch_of(np.arange(40))], {})
    store.load(CONTRACT, [batch_of(np.arange(0, 40, 2), 1)], {})
    deadline = time.monotonic() + 10
    while store.get_many(CONTRACT, [0]).rows.numbers[0, 0] == 0:
        assert time.monotonic() < deadline
    assert store.get_many(CONTRACT, list(range(40))).missing == tuple(range(1, 40, 2))


def test_readers_in_other_threads_always_see_one_whole_generation(store, place):
    keys = list(range(50))
    store.load(CONTRACT, [batch_of(np.array(keys), 0)], {})
    stop, seen = threading.Event(), set()

    def read() -> None:
        reader = place.open()
        while not stop.is_set():
            values = set(reader.get_many(CONTRACT, keys).rows.numbers[:, 0].tolist())
            assert len(values) == 1
            seen.update(values)

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for value in range(6):
            if value:
                store.load(CONTRACT, [batch_of(np.array(keys), value)], {})
            deadline = time.monotonic() + 10
            while value not in seen and time.monotonic() < deadline:
                time.sleep(0.01)
        stop.set()
    for reader in readers:
        reader.result()
    assert seen == set(range(6))


ENDLESS_LOAD = """
import sys, time
import numpy as np
from backends.online_store import open_store
from backends.redis_store import loading
from models.encoding import Encoded
from tests.tiny_model import tiny_contract

loading.LOCK_SECONDS = 2
store = open_store(sys.argv[1], "tiny")

def batches():
    rows = Encoded(np.full((2, 3), 9, np.float32), np.zeros((2, 2), np.int32))
    yield np.array([1, 2]), rows, np.zeros(2, "datetime64[ms]")
    if sys.argv[1].startswith("lmdb"):
        endure()

def endure(*_):
    print("loading", flush=True)
    time.sleep(600)

loading.Loader._switch = endure  # all of it is written to Redis, and nobody is told
store.load(tiny_contract(), batches(), {})
"""


@pytest.mark.usefixtures("_quick_lock")
def test_a_loader_killed_in_the_middle_leaves_the_old_generation_and_the_next_load_tidies_up(store, place, tmp_path):
    first = store.load(CONTRACT, [batch_of(np.array([1]), 1)], {})
    command = [sys.executable, "-c", ENDLESS_LOAD, place.uri]
    (spools := tmp_path / "spools").mkdir()
    environment = {**QUIET, "PYTHONPATH": str(ROOT), "TMPDIR": str(spools)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as loader:
        assert loader.stdout.readline() == b"loading\n"
        loader.send_signal(signal.SIGKILL)
    assert len(place.generations()) == 2
    assert list(spools.iterdir()) == []
    assert place.open().describe()["generation"] == first.generation
    third = store.load(CONTRACT, [batch_of(np.array([1]), 3)], {})
    assert place.generations() == [third.generation]


def test_a_load_into_lmdb_leaves_the_histories_of_the_same_model_alone(tmp_path):
    histories = tmp_path / CONTRACT.model / "histories-0123456789abcdef"
    histories.mkdir(parents=True)
    store = open_store(f"lmdb://{tmp_path}", CONTRACT.model)
    for value in (1, 2):
        store.load(CONTRACT, [batch_of(np.array([1]), value)], {})
    assert histories.is_dir()
    assert len(list(histories.parent.glob("2*Z"))) == 1


def test_models_do_not_share_vectors(place):
    other = tiny_contract(model="other")
    for contract, value in ((CONTRACT, 1), (other, 2)):
        open_store(place.uri, contract.model).load(contract, [batch_of(np.array([1]), value)], {})

    def value_of(contract: Contract) -> float:
        return open_store(place.uri, contract.model).get_many(contract, [1]).rows.numbers[0, 0]

    assert [value_of(CONTRACT), value_of(other)] == [1, 2]
