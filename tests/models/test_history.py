"""What is remembered of an entity's events, what is forgotten, and what is made of what was counted.

That the counts are right is proved in `tests/backends/test_history_windows.py`, by three ways of counting.
"""

import numpy as np
import pytest

from models.contract import Contract
from models.encoding import encode_arrow
from models.history import (
    NO_CODE,
    NO_UNITS,
    finish,
    history_of,
    history_values,
    key_number,
    pack,
    units,
    unpack,
    with_event,
    with_values,
)
from tests.event_model import DAY, FEATURES, HOUR, event_contract, events_of, history, random_swipes, swipes
from tests.tiny_model import tiny_contract


def kept(contract: Contract, *rows: dict) -> np.ndarray:
    """Return what is remembered after events that arrive one by one."""
    known = history(contract)
    events = events_of(contract, swipes(rows))
    store = unpack(known, b"")
    for i in range(len(events)):
        store = with_event(known, store, events[i : i + 1])
    return store


def test_only_what_is_measured_is_remembered():
    known = history(event_contract())
    assert (known.numbers, known.categories) == (("amount", "tip"), ("country", "channel"))
    few = {name: FEATURES[name] for name in ("amount", "country", "swipes_1h", "spent_1d")}
    known = history(event_contract(features=few))
    assert (known.numbers, known.categories, known.longest) == (("amount",), (), DAY)
    assert known.dtype.itemsize == 24


def test_numbers_are_whole_multiples_rounded_half_to_even():
    values = np.array([0.5, 1.5, 2.5, -0.5, np.nan, 1.0], np.float32)
    assert units(values, 1.0).tolist() == [0, 2, 2, 0, NO_UNITS, 1]
    assert units(np.array([12.345], np.float32), 0.01).tolist() == [1235]  # float32 is a little above


def test_nulls_are_remembered_as_such_and_unseen_values_as_one():
    events = events_of(event_contract(), swipes([{}, {"country": "xx", "channel": None, "tip": 2.5}]))
    assert events["units"].tolist() == [[100, NO_UNITS], [100, 250]]
    assert events["codes"].tolist() == [[0, 1], [3, NO_CODE]]


def test_packed_events_come_back_as_they_were():
    known, events = history(event_contract()), events_of(event_contract(), random_swipes(20))
    np.testing.assert_array_equal(unpack(known, pack(events)), events)
    assert len(pack(events)) == 20 * known.dtype.itemsize == 20 * 40
    with pytest.raises(ValueError, match="multiple of element size"):
        unpack(known, pack(events)[:-1])


def test_packed_events_are_the_same_bytes_on_any_machine():
    event = events_of(event_contract(), swipes([{"swipe_id": 258, "at": 1, "amount": 0.02, "country": "fr"}]))
    numbers = (1, 258, 2, NO_UNITS)
    expected = b"".join(n.to_bytes(8, "little", signed=True) for n in numbers) + (1).to_bytes(4, "little") * 2
    assert pack(event) == expected


def test_keys_are_remembered_as_64_bits():
    assert key_number(-7) == -7
    assert key_number("a") == key_number("a") != key_number("b")
    assert -(2**63) <= key_number("any text") < 2**63


def test_the_same_event_is_remembered_once_and_is_answered_the_same_again():
    contract = event_contract()
    known = history(contract)
    once = kept(contract, {"swipe_id": 1, "at": 5}, {"swipe_id": 2, "at": 9}, {"swipe_id": 3, "at": 9})
    event = once[1:2]
    again = with_event(known, once, event)
    assert len(again) == len(once) == 3
    np.testing.assert_array_equal(history_values(known, once[:1], event), history_values(known, again, event))


def test_events_that_arrive_late_take_their_place():
    events = kept(event_contract(), {"at": 10}, {"at": 30}, {"at": 20}, {"at": 1})
    assert events["time"].tolist() == [1, 10, 20, 30]


def test_what_no_later_event_can_see_is_forgotten():
    long = 2 * DAY  # the longest window
    assert kept(event_contract(), {"at": 0}, {"at": long})["time"].tolist() == [0, long]
    assert kept(event_contract(), {"at": 0}, {"at": long + 1})["time"].tolist() == [long + 1]
    assert kept(event_contract(), {"at": long + 5}, {"at": 1})["time"].tolist() == [long + 5]


def test_of_many_events_the_newest_are_kept_with_one_more_for_those_of_the_same_moment():
    events = kept(event_contract(max_events=2), *({"at": at} for at in range(6)))
    assert events["time"].tolist() == [3, 4, 5]
    events = kept(event_contract(max_events=2), *({"at": at} for at in (1, 2, 2, 3)))
    assert events["time"].tolist() == [2, 2, 3]
    events = kept(event_contract(max_events=2), *({"at": at} for at in (1, 2, 2, 2, 3)))
    assert events["time"].tolist() == [3]  # the three of moment 2 are in or out together


def test_a_flood_at_one_moment_is_not_kept_in_full():
    events = kept(event_contract(max_events=3), *({"at": at} for at in (1, 2, 3, *[9] * 50)))
    assert events["time"].tolist() == [1, 2, 3, 9, 9, 9, 9]


def test_without_events_counts_are_zero_and_the_rest_is_missing():
    known, event = history(event_contract()), events_of(event_contract(), swipes([{}]))
    values = dict(zip(known.features, history_values(known, unpack(known, b""), event).tolist(), strict=True))
    zeros = {name for name, value in values.items() if value == 0}
    missing = {name for name, value in values.items() if np.isnan(value)}
    assert zeros == {"swipes_1h", "swipes_2d", "spent_1d", "countries", "channels", "same_country", "same_channel"}
    assert missing == {"mean_1d", "tips_1d", "tip_ratio", "amount_ratio", "since_last"}


def test_the_edges_of_a_window_are_its_length_and_the_microsecond_before():
    contract = event_contract()
    known = history(contract)
    for back, seen in ((0, 0), (1, 1), (HOUR, 1), (HOUR + 1, 0), (-1, 0)):
        events = events_of(contract, swipes([{"at": DAY - back}, {"at": DAY}]))
        values = history_values(known, events[:1], events[1:])
        assert values[list(known.features).index("swipes_1h")] == seen, back


def test_fractions_are_of_float64_and_missing_where_nothing_divides():
    known = history_of({n: event_contract().features[n] for n in ("mean_1d", "swipes_1h")}, event_contract().events)
    found = finish(known, np.array([[1, 7], [5, 0]]), np.array([[3, 1], [0, 1]]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array([[1 / 3 * 0.01, 7], [np.nan, 0]], np.float32))


def test_rows_are_whole_again_with_their_histories_in_the_contracts_order():
    features = {name: FEATURES[name] for name in ("swipes_1h", "amount", "country", "since_last", "tip")}
    contract = event_contract(features=features)
    table = swipes([{"amount": 3.0, "tip": 1.0}])
    rows = encode_arrow(contract.asked, table)
    whole = with_values(history(contract), contract, rows, np.array([[5, 7]], np.float32))
    assert whole.numbers.tolist() == [[5, 3, 7, 1]]
    assert whole.categories.tolist() == [[0]]


def test_what_is_asked_is_all_but_the_histories():
    contract = event_contract()
    assert list(contract.numbers)[:3] == ["amount", "tip", "swipes_1h"]
    assert list(contract.asked.features) == ["amount", "tip", "country", "channel"]
    assert list(contract.asked.numbers) == ["amount", "tip"]
    plain = tiny_contract()
    assert plain.asked is plain


def test_the_contract_of_events_travels_and_its_fingerprint_knows_them():
    contract = event_contract()
    assert Contract.from_metadata(contract.to_metadata()) == contract
    assert (contract.row_key, contract.row_key_type) == ("swipe_id", "integer")
    others = [event_contract(max_events=9), event_contract(events=None), event_contract(key_type="string")]
    assert len({c.fingerprint for c in [contract, *others]}) == 4
