"""The stream of card swipes: reproducible, exact in number, shaped as declared, with the frauds that it promises."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from demo.cards import COUNTRIES
from demo.pace import DAY, HOUR, Pace
from demo.swipe_kinds import CATEGORIES, CHANNELS, EVERYDAY, FRAUD, JOURNEY_KIND, KINDS
from demo.transactions import KNOWN_AFTER, Stream
from models.contract import CategoryFeature
from models.declaration import Declaration, load_declaration
from models.encoding import screen_arrow
from models.training.fit import contract_of

LAST = date(2026, 11, 27)
NAMES = [kind.name for kind in KINDS]


@pytest.fixture(scope="module")
def fraud() -> Declaration:
    return load_declaration(Path(__file__).parents[2] / "models" / "fraud.yaml")


@pytest.fixture(scope="module")
def stream() -> Stream:
    return Stream(200_000, LAST, seed=5)


@pytest.fixture(scope="module")
def table(stream: Stream) -> pa.Table:
    return pa.concat_tables([stream.table(day) for day in stream.days])


@pytest.fixture(scope="module")
def hidden(stream: Stream) -> dict[str, np.ndarray]:
    """What the lake does not tell, row by row of the table."""
    days = [stream.swipes(day) for day in stream.days]
    return {name: np.concatenate([getattr(day, name) for day in days]) for name in ("card", "kind", "moment")}


def words(table: pa.Table, name: str) -> np.ndarray:
    return table[name].cast(pa.string()).to_numpy()


# --- reproducibility --------------------------------------------------------------------------------------------------


def test_days_are_the_same_in_any_order_and_on_any_number_of_threads():
    alone, together = Stream(20_000, LAST, seed=3), Stream(20_000, LAST, seed=3)
    days = [60, 3, 90, 0]
    with ThreadPoolExecutor(4) as pool:
        assert [alone.table(day) for day in days] == list(pool.map(together.table, reversed(days)))[::-1]


def test_another_seed_gives_other_swipes():
    a, b = (Stream(20_000, LAST, seed=seed).table(40) for seed in (3, 4))
    assert a["amount"] != b["amount"]
    assert a["card_id"] != b["card_id"]


def test_a_week_more_leaves_what_was_as_it_was_but_for_the_frauds_that_became_known():
    before = Stream(26_000, LAST, seed=3)
    after = Stream(28_000, LAST + timedelta(days=7), seed=3, weeks=14)
    for day in (0, 50, before.days[-1]):
        old, new = before.table(day), after.table(day)
        assert old.drop_columns(["is_fraud"]) == new.drop_columns(["is_fraud"])
        assert new["is_fraud"].null_count == 0
        if old["is_fraud"].null_count == 0:
            assert old["is_fraud"] == new["is_fraud"]


# --- schema and values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [20_000, 33_333])
def test_the_rows_are_as_many_as_asked_for(rows: int):
    stream = Stream(rows, LAST, seed=1)
    assert sum(len(stream.swipes(day)) for day in stream.days) == rows


def test_the_columns_are_those_that_the_declaration_reads_in_types_that_iceberg_has(
    fraud: Declaration, table: pa.Table
):
    asked = {name for name, feature in fraud.features.items() if feature.kind != "history"}
    assert fraud.events is not None
    roles = {fraud.events.key, fraud.entity_key, fraud.events.time, fraud.examples.label}
    assert set(table.column_names) == asked | roles | {"merchant_id"}
    assert table.schema.field("occurred_at").type == pa.timestamp("us", "UTC")
    assert {table.schema.field(name).type for name in ("transaction_id", "card_id", "merchant_id")} == {pa.int64()}
    assert table.schema.field("amount").type == pa.float64()
    assert table.schema.field("is_fraud").type == pa.bool_()


def test_every_value_fits_the_declaration(fraud: Declaration, table: pa.Table):
    contract = contract_of(fraud, "integer", "1").asked
    screened = screen_arrow(contract, table)
    assert not screened.violations
    for codes, feature in zip(screened.encoded.categories.T, contract.categories.values(), strict=True):
        assert isinstance(feature, CategoryFeature)
        assert set(codes) == set(range(len(feature.values)))  # each occurs, and no other


def test_the_declared_vocabularies_are_the_streams(fraud: Declaration):
    found = {name: f.values for name, f in fraud.features.items() if isinstance(f, CategoryFeature)}
    assert found == {"country": COUNTRIES, "merchant_category": CATEGORIES, "channel": CHANNELS}


def test_keys_and_times_ascend_and_each_day_has_its_own(stream: Stream, table: pa.Table):
    keys, times = table["transaction_id"].to_numpy(), table["occurred_at"].cast(pa.int64()).to_numpy()
    assert (np.diff(keys) == 1).all()
    assert (np.diff(times) >= 0).all()
    for day in (0, 44, stream.days[-1]):
        begin = datetime.combine(stream.first_day + timedelta(days=day), datetime.min.time(), UTC)
        moments = stream.table(day)["occurred_at"].to_pylist()
        assert begin <= moments[0] <= moments[-1] < begin + timedelta(days=1)
    assert stream.first_day + timedelta(days=stream.days[-1]) == LAST


def test_amounts_have_two_decimals(table: pa.Table):
    amounts = table["amount"].to_numpy()
    assert (np.round(amounts, 2) == amounts).all()
    assert amounts.min() >= 0.01


def test_shops_clocks_tell_seconds_so_that_swipes_of_a_card_can_share_a_microsecond(table: pa.Table, hidden: dict):
    times, online = table["occurred_at"].cast(pa.int64()).to_numpy(), words(table, "channel") == "online"
    assert (times[~online] % 1_000_000 == 0).all()
    assert (times[online] % 1_000 == 0).all()
    assert (times[online] % 1_000_000 != 0).mean() > 0.9
    together = np.unique(np.stack([hidden["card"], times]), axis=1)
    assert together.shape[1] < len(times)


def test_frauds_of_the_newest_week_are_not_known_yet(stream: Stream):
    for day in stream.days:
        unknown = stream.table(day)["is_fraud"].null_count
        assert unknown == (len(stream.swipes(day)) if day >= len(stream.days) - KNOWN_AFTER else 0)


def test_a_merchant_is_of_one_category_in_one_country_and_few_have_most_customers(table: pa.Table):
    merchants = table["merchant_id"].to_numpy()
    places = set(zip(merchants, words(table, "country"), words(table, "merchant_category"), strict=True))
    assert len(places) == len(np.unique(merchants))
    counts = np.sort(np.unique(merchants, return_counts=True)[1])[::-1]
    assert counts[: len(counts) // 10].sum() > counts.sum() / 2


# --- rhythm -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [date(2026, 8, 29), date(2026, 8, 31)])
def test_the_clock_has_seven_days_a_week_and_can_be_read_back(first: date):
    pace = Pace(first)
    moments = np.sort(np.random.default_rng(0).integers(0, 30 * DAY, 5000))
    clock = pace.clock(moments)
    assert (np.diff(clock) >= 0).all()
    assert np.abs(pace.moments(clock) - moments).max() <= 1
    np.testing.assert_allclose(pace.clock(np.arange(5) * 7 * DAY), 7.0 * np.arange(5))


def test_the_clock_knows_the_weekday_that_it_begins_with():
    saturday, monday = Pace(date(2026, 8, 29)), Pace(date(2026, 8, 31))
    day = np.array([0, DAY])
    np.testing.assert_allclose(np.diff(saturday.clock(day + 2 * DAY)), np.diff(monday.clock(day)))
    assert np.diff(saturday.clock(day)) > np.diff(monday.clock(day))


def test_people_sleep_and_shop_before_the_weekend(stream: Stream, hidden: dict):
    hour = hidden["moment"] % DAY // HOUR
    counts = np.bincount(hour, minlength=24)
    assert counts[18] > 4 * counts[3]
    weekday = (hidden["moment"] // DAY + stream.first_day.weekday()) % 7
    days = np.bincount(weekday, minlength=7)
    assert days[4] > 1.1 * days[1]
    assert days[6] < 0.95 * days[1]


# --- frauds -----------------------------------------------------------------------------------------------------------


def test_about_half_a_percent_is_fraud_and_the_label_says_which(table: pa.Table, hidden: dict):
    truth = FRAUD[hidden["kind"]]
    assert 0.003 < truth.mean() < 0.007
    known = table["is_fraud"].is_valid().to_numpy()
    assert (table["is_fraud"].drop_null().to_numpy() == truth[known]).all()


def test_every_kind_of_swipe_occurs(hidden: dict):
    assert set(hidden["kind"]) == set(range(len(KINDS)))


def of_kind(table: pa.Table, hidden: dict, name: str) -> dict[str, np.ndarray]:
    rows = hidden["kind"] == NAMES.index(name)
    columns = {c: words(table, c)[rows] for c in ("country", "channel", "merchant_category")}
    return columns | {"amount": table["amount"].to_numpy()[rows]} | {c: hidden[c][rows] for c in ("card", "moment")}


def gaps(swipes: dict[str, np.ndarray]) -> np.ndarray:
    """Seconds between neighbouring swipes of a card that are of the same episode: within a day."""
    order = np.lexsort((swipes["moment"], swipes["card"]))
    apart = np.diff(swipes["moment"][order]) / 1e6
    return apart[(np.diff(swipes["card"][order]) == 0) & (apart < 86_400)]


def test_a_stolen_card_is_tested_with_many_tiny_amounts_online(table: pa.Table, hidden: dict):
    tests = of_kind(table, hidden, "testing")
    assert set(tests["channel"]) == {"online"}
    assert np.median(tests["amount"]) < 2
    assert np.median(gaps(tests)) < 300
    assert len(tests["card"]) > 5 * len(np.unique(tests["card"]))


def test_a_thief_spends_fast_and_much_where_the_holder_lives(stream: Stream, table: pa.Table, hidden: dict):
    thefts, everyday = (of_kind(table, hidden, name) for name in ("stolen", "everyday"))
    assert np.median(thefts["amount"]) > 4 * np.median(everyday["amount"])
    assert np.median(gaps(thefts)) < 1800
    homes = np.array(COUNTRIES)[stream.cards.homes[thefts["card"]]]
    assert (thefts["country"] == homes).mean() > 0.95


def test_a_copied_card_is_far_away_while_its_holder_is_at_home(stream: Stream, table: pa.Table, hidden: dict):
    far, everyday = (of_kind(table, hidden, name) for name in ("far", "everyday"))
    homes = np.array(COUNTRIES)[stream.cards.homes[far["card"]]]
    assert (far["country"] != homes).mean() > 0.8
    at_home = {}
    for card, moment, channel in zip(everyday["card"], everyday["moment"], everyday["channel"], strict=True):
        if channel != "online":
            at_home.setdefault(card, []).append(moment)
    near = [
        min((abs(moment - other) for other in at_home.get(card, [])), default=10**15)
        for card, moment in zip(far["card"], far["moment"], strict=True)
    ]
    assert np.median(near) < 1.5 * DAY


def test_on_a_journey_the_everyday_swipes_come_along(table: pa.Table, hidden: dict):
    journey = of_kind(table, hidden, "journey")
    shops = journey["channel"] != "online"
    days, countries = (
        zip(journey["card"][shops], journey["moment"][shops] // DAY, strict=True),
        journey["country"][shops],
    )
    met: dict[tuple[int, int], set[str]] = {}
    for day, country in zip(days, countries, strict=True):
        met.setdefault(day, set()).add(country)
    assert np.mean([len(places) == 1 for places in met.values()]) > 0.9  # but just across a border
    assert 0.02 < (hidden["kind"] == JOURNEY_KIND).mean() / (hidden["kind"] == EVERYDAY).mean() < 0.15


def test_cards_are_used_unequally_and_some_users_have_two(stream: Stream, hidden: dict):
    counts = np.bincount(hidden["card"], minlength=len(stream.cards))
    assert counts.max() > 5 * np.median(counts)
    assert len(np.unique(stream.cards.ids)) == len(stream.cards)
    pairs = stream.cards.thrift[0::4] == stream.cards.thrift[1::4][: len(stream.cards.thrift[0::4])]
    assert pairs.all()
