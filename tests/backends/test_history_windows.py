"""The same histories three times: by SQL over the whole table, by the pure count of one event, and by brute force."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.history_windows import Windows, counted, quoted, statement
from models.contract import Contract
from models.errors import LakehouseError
from models.history import history_values, pack, unpack, with_event
from tests.event_model import DAY, HOUR, SECOND, by_hand, event_contract, events_of, history, random_swipes, swipes

COLUMNS = ("swipe_id", "card_id")


def by_sql(contract: Contract, table: pa.Table, folder: Path, begin: int = -(2**60), end: int = 2**60, **options):
    """Return each event's features by its key, in the order in which they come."""
    windows = Windows(history(contract), contract, COLUMNS, begin, end)
    batches = table.to_batches(max_chunksize=7)
    found = {}
    for part in counted(windows, table.schema, batches, folder, threads=2, **options):
        found |= dict(zip(part.rows["swipe_id"].to_pylist(), part.values, strict=True))
    return found


def online(contract: Contract, table: pa.Table):
    """Return each event's features by its key, as a store that keeps packed bytes for each card answers them."""
    known, store, found = history(contract), {}, {}
    events = events_of(contract, table)
    cards, keys = table["card_id"].to_pylist(), table["swipe_id"].to_pylist()
    for i in np.lexsort((events["key"], events["time"])):
        event, packed = events[i : i + 1], store.get(cards[i], b"")
        found[keys[i]] = history_values(known, unpack(known, packed), event)
        store[cards[i]] = pack(with_event(known, unpack(known, packed), event))
        assert len(unpack(known, store[cards[i]])) <= 2 * known.limits.max_events + 1
    return found


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(np.asarray(found[key]), np.asarray(values, np.float32), err_msg=f"event {key}")


moments = st.one_of(
    st.sampled_from([0, 1, SECOND, HOUR - 1, HOUR, HOUR + 1, DAY - 1, DAY, DAY + 1, 2 * DAY, 2 * DAY + 1]),
    st.integers(0, 3 * DAY),
    st.integers(0, 20),
)
rows = st.fixed_dictionaries(
    {
        "card_id": st.integers(0, 2),
        "at": moments,
        "amount": st.one_of(st.floats(0, 50_000), st.sampled_from([0.005, 0.015, 0.025, 1.005, 50_000.0])),
        "tip": st.one_of(st.none(), st.floats(-10, 10)),
        "country": st.sampled_from(["de", "fr", "it", "nowhere", "elsewhere", ""]),
        "channel": st.sampled_from(["shop", "web", "phone", None]),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.lists(rows, min_size=1, max_size=30).map(swipes), most=st.sampled_from([1, 2, 3, 5, 512]))
def test_sql_the_pure_count_the_online_store_and_brute_force_agree_to_the_last_bit(tmp_path, table, most):
    contract = event_contract(most)
    expected = by_hand(contract, table)
    same(by_sql(contract, table, tmp_path), expected)
    same(online(contract, table), expected)


@pytest.mark.parametrize("step", [1, HOUR // 2], ids=["few ties", "many ties"])
@pytest.mark.parametrize("most", [4, 512], ids=["capped", "not capped"])
def test_many_events_agree_too(tmp_path, step, most):
    contract, table = event_contract(most), random_swipes(250, seed=step + most, step=step)
    expected = by_hand(contract, table)
    same(by_sql(contract, table, tmp_path), expected)
    same(online(contract, table), expected)


def test_a_planted_look_into_the_present_is_caught(tmp_path):
    contract, table = event_contract(), random_swipes(50)
    with pytest.raises(AssertionError):
        same(by_sql(contract, table, tmp_path), by_hand(contract, table, ahead=True))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("AND 1 PRECEDING", "AND CURRENT ROW"),  # the event itself, and others of its microsecond
        ("AND 1 PRECEDING", "AND 1000000 FOLLOWING"),  # a second of the future
        ('PARTITION BY "card_id", ', "PARTITION BY "),  # other cards
    ],
    ids=["the present", "the future", "others"],
)
def test_sql_that_looks_where_it_must_not_is_caught(tmp_path, monkeypatch, right, wrong):
    """A mutant of the SQL: were it written so, the comparison with brute force fails."""
    contract, table = event_contract(), random_swipes(50, step=HOUR)
    assert right in statement(Windows(history(contract), contract, COLUMNS, 0, 1))
    monkeypatch.setattr("backends.history_windows.statement", lambda windows: statement(windows).replace(right, wrong))
    with pytest.raises(AssertionError):
        same(by_sql(contract, table, tmp_path), by_hand(contract, table))


def test_the_events_of_a_stretch_come_in_order_with_what_was_before_it_counted(tmp_path):
    contract, table = event_contract(), random_swipes(400)
    begin, end = 2 * DAY, 3 * DAY
    found = by_sql(contract, table, tmp_path, begin, end)
    events = events_of(contract, table)
    asked = [int(e["key"]) for e in np.sort(events, order=["time", "key"]) if begin <= e["time"] < end]
    assert list(found) == asked
    everything = by_hand(contract, table)
    same(found, {key: everything[key] for key in asked})


def test_what_the_contract_refuses_has_no_history_and_is_in_none(tmp_path):
    refused = [
        {"at": 10, "amount": 50_001.0},
        {"at": 11, "amount": None},
        {"at": 12, "country": None},
        {"at": 13, "card_id": None},
        {"at": 14, "swipe_id": None},
    ]
    table = swipes([{"at": 1, "amount": 2.0}, *refused, {"at": 20, "amount": 4.0}])
    found = by_sql(event_contract(), table, tmp_path)
    assert all(np.isnan(found[key]).all() for key in (1, 2, 3, 4, None))
    np.testing.assert_array_equal(found[6], np.asarray(by_hand(event_contract(), table.take([0, 6]))[6], np.float32))


def test_an_event_without_a_time_is_in_no_stretch(tmp_path):
    table = swipes([{"at": 1}, {"at": None}, {"at": 2}])
    assert list(by_sql(event_contract(), table, tmp_path)) == [0, 2]


def test_texts_can_be_keys_and_columns_may_be_called_anything(tmp_path):
    name = 'the "amount", paid'
    contract = event_contract(key_type="string")
    features = {name: contract.features["amount"], "n": contract.features["swipes_1h"]}
    table = swipes([{"swipe_id": key, "at": at} for at, key in enumerate("cab")]).rename_columns(
        ["swipe_id", "card_id", name, *"abc", "swiped_at"]
    )
    contract = event_contract(key_type="string", features=features)
    found = by_sql(contract, table, tmp_path)
    assert {key: values.tolist() for key, values in found.items()} == {"c": [0], "a": [1], "b": [2]}
    assert quoted(name) == '"the ""amount"", paid"'


def test_no_events_have_no_features(tmp_path):
    assert by_sql(event_contract(), swipes([]), tmp_path) == {}


def test_what_goes_wrong_while_reading_is_said_as_it_is(tmp_path):
    table = swipes([{}])

    def broken():
        yield from table.to_batches()
        raise LakehouseError("file x is gone")

    windows = Windows(history(event_contract()), event_contract(), COLUMNS, 0, 1)
    with pytest.raises(LakehouseError, match="file x is gone"):
        list(counted(windows, table.schema, broken(), tmp_path, threads=2))


def test_what_does_not_fit_into_memory_is_spilled_and_nothing_of_it_stays(tmp_path):
    contract = event_contract()
    table = pa.concat_tables([random_swipes(2000, seed=seed, cards=50) for seed in range(10)])
    table = table.set_column(0, "swipe_id", pa.array(np.arange(len(table))))
    little = by_sql(contract, table, tmp_path, memory="30MB")
    much = by_sql(contract, table, tmp_path)
    same(little, much)
    assert not list(tmp_path.iterdir())
    with pytest.raises(duckdb.OutOfMemoryException):
        by_sql(contract, table, tmp_path, memory="1MB")
