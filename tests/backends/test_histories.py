"""The store of histories, on a real folder and in a real Redis: every event once, in one step, whoever else asks."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends import history_journal, lmdb_histories
from backends.histories import (
    REACH,
    HistoryStore,
    Lake,
    Remembered,
    Span,
    appended,
    layout_of,
    merged,
    of_lake,
    open_histories,
    remembered,
)
from backends.history_journal import Journal, journaled, journals
from backends.lmdb_histories import BASE, BOOT, LIVE, LmdbHistories
from backends.redis_store.histories import RedisHistories
from backends.settings import ROOT
from backends.vectors import pack_key
from models.contract import Contract
from models.errors import OnlineStoreError, StoreMismatchError, StoreUnavailableError, ValueRejectedError
from models.history import Events, events_seen, history_values, reaches_back
from tests.event_model import DAY, FEATURES, HOUR, by_hand, event_contract, events_of, history, random_swipes, swipes
from tests.redis_server import RedisServer

CONTRACT = event_contract()
SPAN = Span(0, 10 * DAY, 1)
LONG = 2 * DAY  # the longest window


def events(*rows: dict, contract: Contract = CONTRACT) -> Events:
    return events_of(contract, swipes(rows))


def loaded(uri: str, contract: Contract = CONTRACT, lake: Sequence[Lake] = (), span: Span = SPAN) -> HistoryStore:
    store = open_histories(uri, contract)
    store.load(lake, span, {"source_snapshot": "7"})
    return store


@pytest.fixture
def store(online_uri) -> HistoryStore:
    return loaded(online_uri)


def ask(store: HistoryStore, card: int, event: Events, record: bool = True) -> Remembered:
    (found,) = store.fetch_and_append([card], event, [record])
    return found


def times(store: HistoryStore, card: int = 1) -> list[int]:
    return ask(store, card, events({"swipe_id": -1}), False).events["time"].tolist()


def keys(store: HistoryStore, card: int = 1) -> list[int]:
    return sorted(ask(store, card, events({"swipe_id": -1}), False).events["key"].tolist())


def record_of(store: HistoryStore, card: int) -> bytes | None:
    """Return what lies in the store."""
    if isinstance(store, LmdbHistories):
        with store._opened().environment.begin() as transaction:
            return transaction.get(pack_key(store.contract, card))
    assert isinstance(store, RedisHistories)
    return store._lines.ask([("GET", store._names.record(b"%d" % card))])[0]


# --- one event after another ----------------------------------------------------------------------------------------


def test_what_an_event_is_answered_with_is_what_a_loop_over_all_pairs_says(store):
    table = random_swipes(150, seed=3, cards=4, step=HOUR // 4).sort_by([("swiped_at", "ascending")])
    expected = by_hand(CONTRACT, table)
    all_events, cards = events_of(CONTRACT, table), table["card_id"].to_pylist()
    for i, (card, swipe) in enumerate(zip(cards, table["swipe_id"].to_pylist(), strict=True)):
        event = all_events[i : i + 1]
        found = history_values(store.history, ask(store, card, event).events, event)
        np.testing.assert_array_equal(found, np.asarray(expected[swipe], np.float32))


def test_many_events_at_once_see_those_before_them_of_the_same_entity(store):
    cards, some = [1, 2, 1, 1], events(*({"swipe_id": i, "at": i * HOUR} for i in range(4)))
    found = store.fetch_and_append(cards, some, [True] * 4)
    assert [one.events["key"].tolist() for one in found] == [[], [], [0], [0, 2]]
    assert store.fetch_and_append([], some[:0], []) == []


def test_more_events_than_go_into_one_transaction_keep_their_order(store):
    some = events(*({"swipe_id": i, "at": i} for i in range(100)))
    found = store.fetch_and_append([1] * 100, some, [True] * 100)
    assert [len(one.events) for one in found] == list(range(100))


def test_an_event_loop_gets_the_same(store):
    async def both() -> list[Remembered]:
        await store.fetch_and_append_async([5], events({"swipe_id": 1, "at": 3}), [True])
        found = await store.fetch_and_append_async([5], events({"swipe_id": 2, "at": 4}), [True])
        await store.aclose()
        return found

    assert asyncio.run(both())[0].events["key"].tolist() == [1]


def test_without_record_nothing_is_left(store):
    assert ask(store, 1, events({"at": 5}), record=False).events.size == 0
    assert record_of(store, 1) is None
    ask(store, 1, events({"swipe_id": 1, "at": 5}))
    before = record_of(store, 1)
    ask(store, 1, events({"swipe_id": 2, "at": 6}), record=False)
    assert record_of(store, 1) == before


@pytest.mark.parametrize("at", [5, 900])  # as it was, and at another time
def test_an_event_that_is_there_by_its_key_is_not_added_again(store, at):
    ask(store, 1, events({"swipe_id": 258, "at": 5}))
    ask(store, 1, events({"swipe_id": 2, "at": 7}))
    found = ask(store, 1, events({"swipe_id": 258, "at": at, "amount": 77.0}))
    assert found.events["key"].tolist() == [258, 2] == [258, *keys(store)[:1]]
    assert times(store) == [5, 7]


def test_a_key_is_found_among_keys_alone(store):
    """The bytes of the key 4 are also those of a time and of units."""
    ask(store, 1, events({"swipe_id": 9, "at": 4, "amount": 0.04}))
    ask(store, 1, events({"swipe_id": 4, "at": 6}))
    assert times(store) == [4, 6]


def test_an_unknown_entity_has_no_events_since_the_load_began(store):
    found = ask(store, 404, events({"at": 5 * DAY}))
    assert (found.events.size, found.complete_since, found.until) == (0, SPAN.since, SPAN.until)


@pytest.mark.parametrize("card", ["one", True, 2**63])
def test_a_key_of_a_wrong_type_is_refused(store, card):
    with pytest.raises(ValueRejectedError, match="card_id"):
        ask(store, card, events({}))


def test_texts_are_keys_too(online_uri):
    contract = event_contract(entity_key_type="string", key_type="string")
    store = loaded(online_uri, contract)
    for card in ("a:b*", "ä", "x" * 400):
        ask(store, card, events({"swipe_id": "t-1", "at": 5}, contract=contract))
        assert times(store, card) == [5]


arrivals = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 25), st.sampled_from([1, HOUR, DAY, 3 * DAY])), min_size=1, max_size=25
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals, st.sampled_from([1, 2, 5]))
def test_both_stores_keep_the_very_bytes_that_the_pure_functions_say(stores, coming, most):
    """Ties, late events, repeated keys, caps; then a load in the middle of all that."""
    contract = event_contract(max_events=most)
    card = next(CARDS)
    some = events(*({"swipe_id": key, "at": at * unit} for key, at, unit in coming), contract=contract)
    span = Span(0, 6 * DAY, 3)
    past = np.sort(some[::2][some[::2]["time"] < span.until], order="time")
    lake = of_lake(history(contract), card, past, span) if len(past) else Lake(card, past, span.since)
    expected = None
    for i in range(len(some)):
        grown = appended(history(contract), expected, some[i : i + 1], SPAN)
        expected = expected if grown is None else grown
    after = merged(history(contract), expected, lake.events, lake.complete_since, span)
    for uri in stores:
        store = loaded(uri, contract)
        store.fetch_and_append([card] * len(some), some, [True] * len(some))
        assert record_of(store, card) == expected
        store.load([lake] if len(past) else [], span, {})
        assert record_of(store, card) == after


CARDS = iter(range(10**6, 10**9))


@pytest.fixture(scope="module")
def stores(tmp_path_factory, _running_redis) -> list[str]:
    return [f"lmdb://{tmp_path_factory.mktemp('online')}", _running_redis.emptied().uri()]


@settings(max_examples=150, deadline=None)
@given(arrivals, st.sampled_from([1, 2, 5]), st.integers(0, 80))
def test_what_is_kept_answers_as_all_events_would_wherever_it_says_that_it_reaches_back(coming, most, hours):
    contract = event_contract(max_events=most)
    known = history(contract)
    some = events(*({"swipe_id": i, "at": at * unit} for i, (_, at, unit) in enumerate(coming)), contract=contract)
    record = None
    for i in range(len(some)):
        record = appended(known, record, some[i : i + 1], Span(-(10**15), 0, 1))
    left, complete_since, _ = remembered(known, record, SPAN)
    now = events({"swipe_id": 99, "at": hours * HOUR}, contract=contract)
    assert len(left) <= 2 * most + 1
    if reaches_back(known, left, complete_since, hours * HOUR):
        whole = np.sort(some, order="time")
        np.testing.assert_array_equal(history_values(known, left, now), history_values(known, whole, now))
        assert events_seen(known, left, hours * HOUR) == events_seen(known, whole, hours * HOUR)


def test_two_days_more_than_the_longest_window_are_kept_for_late_events(store):
    ask(store, 1, events({"swipe_id": 1, "at": 0}, {"swipe_id": 2})[:1])
    newest = LONG + REACH
    ask(store, 1, events({"swipe_id": 2, "at": newest}))
    assert times(store) == [0, newest]
    found = ask(store, 1, events({"swipe_id": 3, "at": newest + 1}))
    assert reaches_back(store.history, found.events, found.complete_since, LONG)
    found = ask(store, 1, events({"swipe_id": 4, "at": newest + 2}))
    assert found.events["time"].tolist() == [newest, newest + 1]
    assert found.complete_since == 1
    assert not reaches_back(store.history, found.events, found.complete_since, LONG)


# --- concurrent swipes ----------------------------------------------------------------------------------------------

ANOTHER = """
import sys
import numpy as np
from backends.histories import open_histories
from tests.event_model import event_contract, events_of, swipes
contract = event_contract()
store = open_histories(sys.argv[1], contract)
first, count = int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for i in range(first, first + count):
    found = store.fetch_and_append([1], events_of(contract, swipes([{"swipe_id": i, "at": i}])), [True])
    print(i, len(found[0].events), flush=True)
"""


def another(uri: str, first: int, count: int) -> subprocess.Popen[str]:
    """Start a process that swipes card 1 when it is told to."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", ANOTHER, uri, str(first), str(count)], cwd=ROOT, **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_concurrent_swipes_of_one_card_are_each_recorded_once_by_threads_and_processes(online_uri):
    store = loaded(online_uri)
    processes = [another(online_uri, 1000, 60), another(online_uri, 2000, 60)]
    for process in processes:
        go(process)
    sizes = []

    def swipe(i: int) -> None:
        sizes.append(len(ask(store, 1, events({"swipe_id": i, "at": i})).events))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(swipe, range(120)))
    for process in processes:
        said, _ = process.communicate(timeout=60)
        sizes += [int(line.split()[1]) for line in said.splitlines()]
    assert keys(store) == [*range(120), *range(1000, 1060), *range(2000, 2060)]
    assert sorted(sizes) == list(range(240))  # nobody saw the same as another


def test_events_that_come_during_a_load_are_not_lost(online_uri):
    """The lake has events of 200 cards; each gets another swipe while the load is on its way."""
    lake = [Lake(card, events({"swipe_id": card, "at": 9 * DAY}), 0) for card in range(200)]
    store, begun, swiped = loaded(online_uri, lake=lake), threading.Event(), threading.Event()

    def slowly() -> Iterator[Lake]:
        for card, one in enumerate(lake):
            if card == 100:
                begun.set()
                assert swiped.wait(60)
            yield one

    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(open_histories(online_uri, CONTRACT).load, slowly(), SPAN._replace(load=2), {"n": "2"})
        assert begun.wait(60)
        for card in range(200):
            ask(store, card, events({"swipe_id": 1000 + card, "at": SPAN.until + card}))
        swiped.set()
        load.result(60)
    assert all(keys(store, card) == [card, 1000 + card] for card in range(200))
    assert store.describe()["n"] == "2"


# --- loads ----------------------------------------------------------------------------------------------------------


def test_a_load_makes_the_past_the_lakes_and_leaves_what_came_since(store):
    for key, at in ((1, DAY), (2, 9 * DAY), (3, SPAN.until), (4, SPAN.until + 5)):
        ask(store, 1, events({"swipe_id": key, "at": at}))
    ask(store, 2, events({"swipe_id": 5, "at": DAY}))
    ask(store, 3, events({"swipe_id": 6, "at": SPAN.until}))
    of_lake = events({"swipe_id": 2, "at": 9 * DAY - 7}, {"swipe_id": 8, "at": 9 * DAY})
    seeded = store.load([Lake(1, of_lake, 0)], SPAN._replace(load=2), {})
    assert (seeded.entities, seeded.events) == (1, 2)
    assert keys(store, 1) == [2, 3, 4, 8]
    assert times(store, 1)[0] == 9 * DAY - 7
    assert (keys(store, 2), keys(store, 3)) == ([], [6])
    assert record_of(store, 2) is None


def test_a_load_of_an_earlier_night_keeps_what_the_later_one_brought(online_uri):
    first = Lake(1, events({"swipe_id": 1, "at": 8 * DAY}, {"swipe_id": 2, "at": 9 * DAY}), 0)
    store = loaded(online_uri, lake=[first])
    earlier = Span(0, 9 * DAY, 2)
    store.load([Lake(1, events({"swipe_id": 1, "at": 8 * DAY}), 0)], earlier, {})
    assert keys(store) == [1, 2]


def test_properties_say_what_was_loaded(store):
    said = store.describe()
    assert (said["source_snapshot"], said["rows"], said["entities"]) == ("7", "0", "0")
    assert said["history_until"] == "1970-01-11T00:00:00.000000Z"
    assert (said["layout"], said["contract_fingerprint"]) == (layout_of(CONTRACT), CONTRACT.fingerprint.hex())


def test_before_the_first_load_nothing_is_answered_and_nothing_is_made(online_uri, tmp_path):
    store = open_histories(online_uri, CONTRACT)
    for question in (store.describe, lambda: ask(store, 1, events({}))):
        with pytest.raises(StoreUnavailableError, match="Materialize swipes/online_features"):
            question()
    assert not list(tmp_path.rglob("*.mdb"))


def test_a_first_load_that_fails_is_no_load_and_the_next_one_is(online_uri):
    def broken() -> Iterator[Lake]:
        yield Lake(1, events({"swipe_id": 1, "at": DAY}), 0)
        raise OSError("the lake is gone")

    store = open_histories(online_uri, CONTRACT)
    with pytest.raises(OSError, match="the lake is gone"):
        store.load(broken(), SPAN, {})
    with pytest.raises(StoreUnavailableError):
        ask(store, 1, events({}))
    store.load([Lake(1, events({"swipe_id": 1, "at": DAY}), 0)], SPAN, {})
    assert keys(store) == [1]


def test_a_later_load_that_fails_leaves_every_record_right(online_uri):
    lake = [Lake(card, events({"swipe_id": card, "at": 9 * DAY}), 0) for card in range(100)]

    def broken() -> Iterator[Lake]:
        yield from lake[:50]
        raise OSError("the lake is gone")

    store = loaded(online_uri, lake=lake)
    with pytest.raises(OSError, match="the lake is gone"):
        store.load(broken(), SPAN._replace(load=2), {"n": "2"})
    assert all(keys(store, card) == [card] for card in range(100))
    assert "n" not in store.describe()
    ask(store, 7, events({"swipe_id": 500, "at": SPAN.until}))
    store.load(lake, SPAN._replace(load=3), {})
    assert keys(store, 7) == [7, 500]


def test_a_second_loader_is_refused(online_uri):
    store, begun, ended = loaded(online_uri), threading.Event(), threading.Event()

    def slowly() -> Iterator[Lake]:
        begun.set()
        assert ended.wait(60)
        yield Lake(1, events({"at": 1}), 0)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(store.load, slowly(), SPAN._replace(load=2), {})
        assert begun.wait(60)
        with pytest.raises(OnlineStoreError, match="being loaded by another process"):
            open_histories(online_uri, CONTRACT).load([], SPAN._replace(load=3), {})
        ended.set()
        assert first.result(60).events == 1


def test_another_layout_is_an_error_and_is_forgotten_after_a_week(online_uri, monkeypatch):
    old = loaded(online_uri)
    other = event_contract(max_events=7)
    assert layout_of(other) != layout_of(CONTRACT)
    with pytest.raises(StoreMismatchError, match=f"have layout {layout_of(CONTRACT)}"):
        ask(open_histories(online_uri, other), 1, events({}))
    ask(old, 1, events({"swipe_id": 3, "at": 5}))
    loaded(online_uri, other)
    assert keys(old) == [3]  # a service of the old model goes on
    monkeypatch.setattr("backends.histories.FORGET_SECONDS", -1)
    loaded(online_uri, other, span=SPAN._replace(load=2))
    with pytest.raises((StoreMismatchError, StoreUnavailableError)):
        ask(open_histories(online_uri, CONTRACT), 1, events({}))


def test_windows_and_descriptions_are_no_part_of_a_layout():
    shorter = {**FEATURES, "spent_1d": {**FEATURES["spent_1d"], "window": "2h"}}
    assert layout_of(event_contract(features=shorter)) == layout_of(CONTRACT)
    wider = {**FEATURES, "swipes_2d": {**FEATURES["swipes_2d"], "window": "3d"}}
    words = {**FEATURES, "country": {"kind": "category", "values": ["fr", "de", "it"]}}
    changed = [event_contract(features=features) for features in (wider, words)]
    assert len({layout_of(contract) for contract in [CONTRACT, *changed]}) == 3


def test_a_scheme_that_is_not_known_is_named():
    with pytest.raises(OnlineStoreError, match="scheme 'memcached' is not known"):
        open_histories("memcached://user:secret@host", CONTRACT)


# --- crashes, of LMDB -----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Callable[[], LmdbHistories]:
    """Open the same folder again as another process would."""

    def open_again() -> LmdbHistories:
        return LmdbHistories(tmp_path, CONTRACT)

    loaded(f"lmdb://{tmp_path}", lake=[Lake(1, events({"swipe_id": 1, "at": DAY}), 0)])
    return open_again


def test_a_killed_process_loses_nothing_that_it_answered(folder, tmp_path):
    process = another(f"lmdb://{tmp_path}", 100, 10**6)
    go(process)
    assert process.stdout is not None
    for _ in range(50):
        last = int(process.stdout.readline().split()[0])
    process.kill()
    process.communicate()
    assert set(range(100, last + 1)) <= set(keys(folder()))


def crashed(store: LmdbHistories) -> None:
    """Do what a crash of the machine may do to the folder: nothing of the live file can be read."""
    live = store._folder / LIVE
    live.write_bytes(b"\xff" * live.stat().st_size)
    (store._folder / BOOT).write_text("another start of the machine")


def test_after_a_crash_of_the_machine_the_copy_and_the_journals_make_the_store_anew(folder):
    store = folder()
    ask(store, 1, events({"swipe_id": 2, "at": 2 * DAY}))
    ask(store, 9, events({"swipe_id": 3, "at": 3 * DAY}))
    place = store._folder
    past = events({"swipe_id": 1, "at": 9 * DAY}, {"swipe_id": 2, "at": 9 * DAY + 1})
    store.load([Lake(1, past, 0)], SPAN._replace(load=2), {})
    assert not journals(place)  # what they had is the lake's past now
    ask(store, 1, events({"swipe_id": 4, "at": SPAN.until + 1}))
    ask(store, 5, events({"swipe_id": 5, "at": SPAN.until + 2}))
    before = [record_of(store, card) for card in (1, 5, 9)]
    crashed(store)
    del store
    again = folder()
    assert [record_of(again, card) for card in (1, 5, 9)] == before
    assert keys(again) == [1, 2, 4]
    ask(again, 1, events({"swipe_id": 6, "at": SPAN.until + 3}))
    crashed(again)
    del again
    assert keys(folder()) == [1, 2, 4, 6]


def test_the_last_entry_of_a_journal_may_be_cut_short(folder):
    store = folder()
    for key in (2, 3):
        ask(store, 1, events({"swipe_id": key, "at": key * DAY}))
    (journal,) = journals(store._folder)
    journal.write_bytes(journal.read_bytes()[:-3])
    crashed(store)
    del store
    assert keys(folder()) == [1, 2]


def test_a_journal_is_synced_within_a_second_and_its_thread_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(history_journal, "SYNC_SECONDS", 0.01)
    synced = threading.Event()
    real = history_journal.os.fdatasync
    monkeypatch.setattr(history_journal.os, "fdatasync", lambda file: (real(file), synced.set()))
    journal = Journal(tmp_path)
    journal.write(1, [(b"key", b"event")])
    assert synced.wait(30)
    journal.write(2, [(b"key", b"other")])
    for _ in range(1000):
        if not any(thread.name == "history-journal" for thread in threading.enumerate()):
            break
        threading.Event().wait(0.01)
    assert not journal._syncing
    assert [list(journaled(file)) for file in journals(tmp_path)] == [[(b"key", b"event")], [(b"key", b"other")]]


def test_a_file_that_ended_is_closed_though_nothing_was_written_since(tmp_path, monkeypatch):
    monkeypatch.setattr(history_journal, "SYNC_SECONDS", 0)
    closed, close = [], os.close
    journal = Journal(tmp_path)
    journal._begin(1)
    journal._begin(2)
    ended = set(journal._ended)
    monkeypatch.setattr(history_journal.os, "close", lambda file: (closed.append(file), close(file)))
    journal._sync()
    assert len(ended) == 1
    assert ended <= set(closed)


def test_a_journal_without_room_has_all_of_an_entry_or_nothing(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.write(1, [(b"key", b"event")])
    real = history_journal.os.write
    monkeypatch.setattr(history_journal.os, "write", lambda file, data: real(file, data[:5]))
    with pytest.raises(OSError, match="full"):
        journal.write(1, [(b"key", b"lost")])
    monkeypatch.undo()
    journal.write(1, [(b"key", b"more")])
    assert list(journaled(journals(tmp_path)[0])) == [(b"key", b"event"), (b"key", b"more")]


def test_an_event_that_cannot_be_journaled_is_not_recorded(folder, monkeypatch):
    store = folder()
    monkeypatch.setattr(history_journal.os, "write", lambda *_: 0)
    with pytest.raises(StoreUnavailableError, match="cannot be read and written: OSError"):
        ask(store, 1, events({"swipe_id": 2, "at": 2 * DAY}))
    monkeypatch.undo()
    assert keys(store) == [1]


def test_a_machine_whose_starts_have_no_names_syncs_with_every_event(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_histories, "BOOT_ID", Path("/nowhere"))
    store = loaded(f"lmdb://{tmp_path}")
    assert isinstance(store, LmdbHistories)
    assert store._opened().environment.flags()["sync"]
    ask(store, 1, events({"swipe_id": 2, "at": 2 * DAY}))
    assert keys(store) == [2]
    assert (store._folder / BASE).exists()


# --- Redis when something goes wrong --------------------------------------------------------------------------------


def test_an_emptied_redis_is_not_loaded(redis: RedisServer):
    store = loaded(redis.uri())
    ask(store, 1, events({"swipe_id": 1}))
    redis.emptied()
    with pytest.raises(StoreUnavailableError, match="no online features"):
        ask(store, 1, events({"swipe_id": 2}))
    loaded(redis.uri())
    assert keys(store) == []


def test_a_redis_that_forgot_its_scripts_is_told_them_again(redis: RedisServer):
    store = loaded(redis.uri())
    ask(store, 1, events({"swipe_id": 1}))
    with redis.client() as client:
        client.script_flush()
    some = events({"swipe_id": 2, "at": 1}, {"swipe_id": 3, "at": 2})
    assert len(store.fetch_and_append([1, 1], some, [True, True])[1].events) == 2


def test_a_line_that_broke_is_opened_again_and_the_event_is_there_once(redis: RedisServer):
    store = loaded(redis.uri())
    ask(store, 1, events({"swipe_id": 1}))
    with redis.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    ask(store, 1, events({"swipe_id": 2}))
    assert keys(store) == [1, 2]


def test_a_silent_redis_is_given_up_in_time():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        store = open_histories(f"redis://127.0.0.1:{deaf.getsockname()[1]}/0", CONTRACT)
        with pytest.raises(StoreUnavailableError, match="no answer in time"):
            ask(store, 1, events({}))
