"""The online store in Redis when something goes wrong: Redis itself, the line to it, its memory, users and loaders."""

import asyncio
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlencode

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.online_store import OnlineStore, Vectors, open_store
from backends.redis_store import lines, loading
from backends.redis_store.address import Address
from backends.redis_store.layout import bucket, loader_of, pointer_of, vector_in
from backends.redis_store.loading import Loader
from backends.redis_store.store import RedisStore
from backends.vectors import Key
from models.encoding import Encoded
from models.errors import OnlineStoreError, StoreUnavailableError
from tests.redis_server import PASSWORD, PATIENT, RedisServer, TlsRedis, redis_server, tls_redis
from tests.serving import free_port
from tests.tiny_model import tiny_contract

CONTRACT = tiny_contract()
IMPATIENT = "socket_connect_timeout=0.2&socket_timeout=0.2"
LIMIT = 60.0  # seconds that a recovery may take on a busy machine

Read = Callable[[OnlineStore, Sequence[Key]], Vectors]


def batch_of(keys: np.ndarray, value: float):
    rows = Encoded(np.full((len(keys), 3), value, np.float32), np.zeros((len(keys), 2), np.int32))
    return keys, rows, np.zeros(len(keys), "datetime64[ms]")


def load(uri: str, value: float, rows: int = 1) -> None:
    open_store(uri, "tiny").load(CONTRACT, [batch_of(np.arange(rows), value)], {})


def keys_of(server: RedisServer) -> set[str]:
    with server.client() as client:
        return {key.decode() for key in client.scan_iter()}


@pytest.fixture(params=["thread", "event loop"])
def read(request) -> Iterator[Read]:
    """Reads as a thread does, and as an event loop that stays the same."""
    if request.param == "thread":
        yield lambda store, keys: store.get_many(CONTRACT, keys)
        return
    with asyncio.Runner() as runner:
        stores = set()

        def read_async(store: OnlineStore, keys: Sequence[Key]) -> Vectors:
            stores.add(store)
            return runner.run(store.get_many_async(CONTRACT, keys))

        yield read_async
        for each in stores:
            runner.run(each.aclose())


@pytest.fixture(scope="module")
def _mortal() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def mortal(_mortal) -> RedisServer:
    """An empty Redis that a test may kill."""
    return _mortal.emptied()


def until_it_answers(read: Read, store: OnlineStore) -> Vectors:
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            return read(store, [0])
        except StoreUnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


# --- Redis goes and comes back --------------------------------------------------------------------------------------


def test_a_killed_redis_is_an_error_and_a_restarted_one_answers(mortal, read):
    load(mortal.uri(), 7)
    reader = open_store(mortal.uri(), "tiny")
    assert read(reader, [0]).rows.numbers[0, 0] == 7
    with mortal.client() as client:
        client.save()
    mortal.server.kill()
    for _ in range(3):
        with pytest.raises(StoreUnavailableError, match=r"online store of tiny does not answer: .*TANDEM_ONLINE_STORE"):
            read(reader, [0])
    mortal.server.start()
    assert until_it_answers(read, reader).rows.numbers[0, 0] == 7


def test_a_redis_that_stands_still_is_given_up_in_time(mortal, read):
    load(mortal.uri(), 7)
    reader = open_store(mortal.uri(IMPATIENT), "tiny")
    until_it_answers(read, reader)
    mortal.server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailableError, match="no answer in time"):
            read(reader, [0])
    finally:
        mortal.server.process.send_signal(signal.SIGCONT)
    assert until_it_answers(read, reader).rows.numbers[0, 0] == 7


def test_a_line_that_redis_has_closed_is_opened_again_unnoticed(redis, read):
    load(redis.uri(), 7)
    reader = open_store(redis.uri(), "tiny")
    for _ in range(3):
        assert read(reader, [0]).rows.numbers[0, 0] == 7
        with redis.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)


def test_a_redis_that_was_emptied_knows_nobody_but_says_so(redis, read):
    load(redis.uri(), 7)
    reader = open_store(redis.uri(), "tiny")
    read(reader, [0])
    redis.emptied()
    with pytest.raises(StoreUnavailableError, match="Materialize tiny/online_features"):
        read(reader, [0])


def test_many_requests_for_a_lost_redis_try_to_connect_once(monkeypatch):
    monkeypatch.setattr(lines, "PAUSE_SECONDS", 600)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        reader = RedisStore(Address("127.0.0.1", port, 3, connect_seconds=60, read_seconds=0.2), "tiny")

        async def ask() -> list[object]:
            outcomes = []
            for _ in range(2):
                asked = [reader.get_many_async(CONTRACT, [0]) for _ in range(20)]
                outcomes += await asyncio.gather(*asked, return_exceptions=True)
            return outcomes

        outcomes = asyncio.run(ask())
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailableError] * 40
        silent.settimeout(LIMIT)
        silent.accept()[0].close()
        silent.settimeout(0)
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_slow_connection_is_not_waited_for_but_used_when_it_is_there(redis):
    """A name server, or a handshake, that takes longer than a request may."""
    load(redis.uri(), 7)
    reader = open_store(redis.uri("socket_connect_timeout=0.000001&socket_timeout=60"), "tiny")

    async def read_until_it_answers() -> Vectors:
        with pytest.raises(StoreUnavailableError, match="no connection in time"):
            await reader.get_many_async(CONTRACT, [0])
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                found = await reader.get_many_async(CONTRACT, [0])
            except StoreUnavailableError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            else:
                await reader.aclose()
                return found

    assert asyncio.run(read_until_it_answers()).rows.numbers[0, 0] == 7


def test_a_server_that_is_no_redis_is_an_error(read):
    with socket.create_server(("127.0.0.1", 0)) as door:

        def answer() -> None:
            client, _ = door.accept()
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        reader = open_store(f"redis://127.0.0.1:{door.getsockname()[1]}/0?{PATIENT}", "tiny")
        with pytest.raises(StoreUnavailableError, match="does not answer"):
            read(reader, [0])
        thread.join()


def test_a_reader_that_leaves_takes_no_other_readers_answer(redis):
    load(redis.uri(), 7, rows=100)
    reader = open_store(redis.uri(), "tiny")

    async def read() -> list[Vectors]:
        await reader.get_many_async(CONTRACT, [0])
        leaving = [asyncio.ensure_future(reader.get_many_async(CONTRACT, [1, 2])) for _ in range(10)]
        await asyncio.sleep(0)
        staying = [asyncio.ensure_future(reader.get_many_async(CONTRACT, list(range(n)))) for n in range(1, 20)]
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        found = await asyncio.gather(*staying)
        await reader.aclose()
        return found

    assert [len(vectors.rows) for vectors in asyncio.run(read())] == list(range(1, 20))


# --- who may, and how -----------------------------------------------------------------------------------------------


def test_a_wrong_password_is_named_and_never_shown(redis, read):
    for uri in (redis.uri().replace("p%40ss", "s3cret"), f"redis://127.0.0.1:{redis.port}/0?{PATIENT}"):
        with pytest.raises(StoreUnavailableError, match=r"refuses with (WRONGPASS|NOAUTH)\. .*user and password") as no:
            read(open_store(uri, "tiny"), [0])
        assert "s3cret" not in str(no.value)
        with pytest.raises(StoreUnavailableError, match="user and password"):
            load(uri, 1)


def test_the_rights_in_the_docs_suffice(redis):
    """docs/online-store.md has them."""
    with redis.client() as client:
        client.execute_command(*["ACL", "SETUSER", "reader", "on", ">r", "~tandem:*", "-@all", "+mget", "+select"])
        rights = "+get +hdel +hgetall +hset +info +mset +pexpire +pttl +select +set +unlink +del +watch +multi +exec"
        client.execute_command(*f"ACL SETUSER loader on >l ~tandem:* -@all {rights}".split())
    load(f"redis://loader:l@127.0.0.1:{redis.port}/3?{PATIENT}", 7)
    load(f"redis://loader:l@127.0.0.1:{redis.port}/3?{PATIENT}", 8)
    reader = f"redis://reader:r@127.0.0.1:{redis.port}/3?{PATIENT}"
    assert open_store(reader, "tiny").get_many(CONTRACT, [0]).rows.numbers[0, 0] == 8
    with pytest.raises(StoreUnavailableError, match=r"NOPERM\. Allow its user .*docs/online-store\.md"):
        load(reader, 9)


@pytest.fixture(scope="module")
def tls() -> Iterator[TlsRedis]:
    with tls_redis() as server:
        yield server


def test_tls_is_verified(tls, read):
    def uri(host: str, **options: str) -> str:
        return f"rediss://{host}:{tls.port}/0?{PATIENT}&{urlencode(options)}"

    ours = str(tls.certificate)
    load(uri("127.0.0.1", ssl_ca_certs=ours), 7)
    for good in (uri("127.0.0.1", ssl_ca_certs=ours), uri("localhost", ssl_ca_certs=ours, ssl_check_hostname="false")):
        assert read(open_store(good, "tiny"), [0]).rows.numbers[0, 0] == 7
    for bad in (uri("127.0.0.1"), uri("localhost", ssl_ca_certs=ours)):
        with pytest.raises(StoreUnavailableError, match=r"its certificate (fails: self-signed|is for another)"):
            read(open_store(bad, "tiny"), [0])


def test_a_redis_without_tls_is_not_talked_to_by_rediss(redis, read):
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        read(open_store(redis.uri(IMPATIENT).replace("redis://", "rediss://"), "tiny"), [0])


# --- loads ----------------------------------------------------------------------------------------------------------


def test_a_load_that_does_not_fit_leaves_the_old_vectors_and_nothing_else(mortal):
    load(mortal.uri(), 7)
    before = keys_of(mortal)
    with mortal.client() as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 2_000_000)
        try:
            with pytest.raises(StoreUnavailableError, match=r"refuses with OOM\. .*maxmemory"):
                load(mortal.uri(), 8, rows=100_000)
        finally:
            client.config_set("maxmemory", 0)
    assert keys_of(mortal) == before
    assert open_store(mortal.uri(), "tiny").get_many(CONTRACT, [0]).rows.numbers[0, 0] == 7


def test_a_redis_that_drops_vectors_when_it_is_full_is_refused(mortal):
    with mortal.client() as client:
        client.config_set("maxmemory", 2**30)
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(OnlineStoreError, match=r"maxmemory-policy is allkeys-lru\. Set it"):
                load(mortal.uri(), 7)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 0)
    assert keys_of(mortal) == set()


def test_a_redis_that_is_lost_during_a_load_keeps_the_old_vectors(mortal):
    load(mortal.uri(), 7)
    with mortal.client() as client:
        client.save()

    def batches():
        yield batch_of(np.arange(10), 8)
        mortal.server.kill()

    with pytest.raises(StoreUnavailableError, match="does not answer"):
        open_store(mortal.uri(), "tiny").load(CONTRACT, batches(), {})
    mortal.server.start()
    assert open_store(mortal.uri(), "tiny").get_many(CONTRACT, [0]).rows.numbers[0, 0] == 7


class Overtaken(Loader):
    """A loader that stood still before its last step, for so long that another one took its place."""

    def _switch(self, line, generation, properties):
        line.ask(("SET", loader_of("tiny"), "another"))
        super()._switch(line, generation, properties)


def test_a_loader_that_was_overtaken_does_not_publish(redis):
    load(redis.uri(), 7)
    with pytest.raises(OnlineStoreError, match="stood still for longer than 10 seconds and gave way"):
        Overtaken(Address.parse(redis.uri()), "tiny").load(CONTRACT, [batch_of(np.arange(100), 8)], {})
    assert open_store(redis.uri(), "tiny").get_many(CONTRACT, [0]).rows.numbers[0, 0] == 7
    with redis.client() as client:
        assert client.get(loader_of("tiny")) == b"another"  # whose lock it is
        client.delete(loader_of("tiny"))
    load(redis.uri(), 9)
    assert len(keys_of(redis)) == 4  # pointer, generations, one bucket and its properties


def test_the_lock_is_renewed_while_batches_are_waited_for(redis, monkeypatch):
    monkeypatch.setattr(loading, "LOCK_SECONDS", 2)

    def batches():
        with redis.client() as client:
            lefts = [client.pttl(loader_of("tiny"))]
            deadline = time.monotonic() + LIMIT
            while lefts[-1] <= lefts[-2:][0]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
                lefts.append(client.pttl(loader_of("tiny")))
        yield batch_of(np.arange(10), 8)

    open_store(redis.uri(), "tiny").load(CONTRACT, batches(), {})
    assert pointer_of("tiny").decode() in keys_of(redis)
    assert loader_of("tiny").decode() not in keys_of(redis)


def test_requests_beside_loads_see_one_whole_generation_each(redis):
    reader = open_store(redis.uri(), "tiny")
    keys = list(range(300))
    load(redis.uri(), 0, rows=300)
    seen: set[float] = set()

    async def look_until(done: asyncio.Event) -> None:
        while not done.is_set():
            vectors = await reader.get_many_async(CONTRACT, keys)
            assert vectors.missing == ()
            (value,) = set(vectors.rows.numbers[:, 0].tolist())
            seen.add(value)

    async def run() -> None:
        done = asyncio.Event()
        looking = [asyncio.ensure_future(look_until(done)) for _ in range(4)]
        for value in range(6):
            if value:  # 0 is there from the beginning, and is to be seen too
                await asyncio.to_thread(load, redis.uri(), value, 300)
            deadline = time.monotonic() + LIMIT
            while value not in seen and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
        done.set()
        await asyncio.gather(*looking)
        await reader.aclose()

    asyncio.run(run())
    assert seen == set(range(6))


# --- buckets --------------------------------------------------------------------------------------------------------

STORED_KEYS = st.binary(min_size=1, max_size=4).filter(lambda key: b"\0" not in key)


@given(st.lists(STORED_KEYS, min_size=1, max_size=12, unique=True), STORED_KEYS)
def test_a_bucket_gives_an_entity_its_own_vector_and_nobody_elses(keys, other):
    vectors = [bytes([i, 0, 0]) for i in range(len(keys))]  # as many NULs as there can be
    packed = bucket(keys, b"".join(vectors))
    assert [vector_in(packed, key) for key in keys] == vectors
    assert other in keys or vector_in(packed, other) is None


@pytest.mark.parametrize("key", [b"1", b"2", b"123", b"23"])
def test_a_part_of_a_key_is_not_the_key(key):
    assert vector_in(bucket([b"12", b"3"], b"abcd"), key) is None


# --- addresses ------------------------------------------------------------------------------------------------------


def test_an_address_is_taken_apart():
    full = Address.parse("redis://us%40er:p%2Fw@[::1]:7000/2?socket_timeout=0.5&socket_connect_timeout=1")
    assert (full.host, full.port, full.database, full.tls) == ("::1", 7000, 2, None)
    assert (full.username, full.password) == ("us@er", "p/w")
    assert (full.read_seconds, full.connect_seconds) == (0.5, 1)
    assert full.greeting == [("AUTH", "us@er", "p/w"), ("SELECT", 2)]
    assert "p/w" not in repr(full) + str(full)
    least = Address.parse("rediss://redis")
    assert (least.port, least.database, least.greeting) == (6379, 0, [])
    assert least.tls.verify_mode is ssl.CERT_REQUIRED
    assert Address.parse("redis://:pw@h").greeting == [("AUTH", "pw")]


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("redis://", "no address of a Redis"),
        ("redis://:s3cret@", "no address"),
        ("redis://:s3cret@host:port/0", "no address"),
        ("redis://:s3cret@host/zero", "no address"),
        ("redis://:s3cret@host/-1", "no address"),
        ("redis://:s3cret/s@host/0", "no address"),  # a slash that should have been encoded
        ("redis://:s3cret@host?socket_timeout=soon", "socket_timeout .* is 'soon'. Give seconds"),
        ("redis://:s3cret@host?socket_timeout=0", "Give seconds"),
        ("redis://:s3cret@host?sockettimeout=1", "not known: sockettimeout. Known: .*socket_timeout"),
        ("rediss://:s3cret@host?ssl_ca_certs=/nowhere.pem", r"cannot be read \(.*ssl_ca_certs=/nowhere\.pem"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_without_its_password(uri, words):
    with pytest.raises(OnlineStoreError, match=words) as refused:
        open_store(uri, "tiny")
    assert "s3cret" not in str(refused.value)
    assert PASSWORD not in str(refused.value)


def test_nothing_listens(read):
    with pytest.raises(StoreUnavailableError, match="does not answer: Connection refused"):
        read(open_store(f"redis://127.0.0.1:{free_port()}/0?{PATIENT}", "tiny"), [0])
