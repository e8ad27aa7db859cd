"""Both lanes of a model of events: what the store is loaded with, and the proof that a service agrees with Gold."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from assets.parity.replay import replay
from assets.resources import Backends
from backends import history_windows
from backends.histories import REACH, HistoryStore, Remembered, Span, open_histories
from backends.history_loading import load_histories
from backends.settings import Settings
from bento.building.build import build_bento
from bento.lineage import Lineage
from models.declaration import Declaration
from models.scoring import sha256_of
from tests.event_model import DAY, DECLARED, SECOND, event_contract, events_of, labelled_swipes, swipes
from tests.lives import (
    changed,
    checks,
    declare,
    materialized,
    promoted,
    reason_of,
    run_job,
    silent_instance,
    write_table,
)
from tests.redis_server import redis_server
from tests.serving import free_port, running
from tests.tiny_model import tiny_onnx

FIRST, DAYS = date(2026, 10, 1), 12
LAST = FIRST + timedelta(days=DAYS - 1)
UNTIL = int(datetime(2026, 10, 13, tzinfo=UTC).timestamp()) * SECOND
CONTRACT = event_contract()
TABLE, NEWEST = "silver.card_swipes", 10**6  # and the key of an event that the API records


@dataclass(frozen=True)
class Both:
    """A home whose newest night ran while the service answered, and that night."""

    settings: Settings
    declaration: Declaration
    night: dg.ExecuteInProcessResult
    events: pa.Table

    @property
    def store(self) -> HistoryStore:
        return open_histories(self.settings.online, CONTRACT)

    def load(self) -> None:
        with Backends(self.settings).lakehouse() as lake:
            load_histories(lake, self.store, self.declaration, self.settings.scratch, 2, {})

    def forget(self) -> None:
        """Load as if the lake had everything until long from now, and nothing were in it."""
        self.store.load([], Span(0, 2**52, 5), {})

    def replay(self, **changes: object):
        with Backends(self.settings).lakehouse() as lake:
            return replay(lake, self.declaration, changed(self.settings, **changes), 100)


@pytest.fixture(scope="module", params=["lmdb", "redis"])
def both(request, tmp_path_factory, empty_mlflow) -> Iterator[Both]:
    folder, port, grpc = tmp_path_factory.mktemp("swipes"), free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    settings = Settings(home=folder / "home", models=folder / "models", threads=2, api_url=url)
    settings.home.mkdir()
    shutil.copyfile(empty_mlflow, settings.home / "mlflow.db")
    if request.param == "redis":
        with redis_server() as redis:
            yield from _lived(changed(settings, online_store=redis.uri()), port, grpc)
    else:
        yield from _lived(settings, port, grpc)


def _lived(settings: Settings, port: int, grpc: int) -> Iterator[Both]:
    """Swipes of twelve days; cards that are refused, and those of nobody, among them."""
    declaration = declare(settings, DECLARED)
    table = labelled_swipes(2000, FIRST, DAYS, cards=25)
    dear = np.where(np.arange(len(table)) % 97 == 0, 50_001, table["amount"].to_numpy())
    cards = pa.array(table["card_id"].to_numpy(), mask=np.arange(len(table)) % 89 == 0)
    events = table.set_column(1, "card_id", cards).set_column(2, "amount", pa.array(dear))
    write_table(settings, TABLE, *(events.slice(begin, 500) for begin in range(0, len(events), 500)))
    version, onnx = promoted(settings, CONTRACT), tiny_onnx(CONTRACT)
    lineage = Lineage(model="swipes", version=str(version.version), sha256=sha256_of(onnx))
    bento = build_bento(onnx, lineage, settings.bentoml_home, {})
    with silent_instance() as instance, running(bento, changed(settings, grpc_port=grpc), port):
        night = run_job(settings, instance, "swipes_nightly", LAST)
        yield Both(settings, declaration, night, events)


def record(store: HistoryStore, card: int, **swipe: object) -> Remembered:
    event = events_of(CONTRACT, swipes([{"card_id": card, **swipe}]))
    return store.fetch_and_append([card], event, [True])[0]


def kept(store: HistoryStore, card: int) -> list[int]:
    event = np.zeros(1, store.history.dtype)
    return store.fetch_and_append([card], event, [False])[0].events["key"].tolist()


def good(both: Both) -> pa.Table:
    """Return the events that are in a history."""
    at = np.arange(len(both.events))
    return both.events.filter(pa.array((at % 97 != 0) & (at % 89 != 0)))


def test_the_night_loads_the_histories_and_proves_that_the_service_agrees(both):
    assert both.night.success, reason_of(both.night)
    assert materialized(both.night) >= {"silver/swipes_features", "gold/swipes_predictions", "swipes/online_features"}
    found = checks(both.night)
    assert found["every_entity_is_online"].passed
    agreed = found["api_agrees_with_gold"]
    facts = {name: fact.value for name, fact in agreed.metadata.items() if hasattr(fact, "value")}
    assert agreed.passed, facts["reason"]
    day = good(both).filter(pa.array(times_of(good(both)) >= UNTIL - DAY))
    assert (facts["replayed"], facts["disagreements"], facts["history_out_of_reach"]) == (len(day), 0, 0)
    rows = [record.data for record in agreed.metadata["by_protocol"].records]
    assert [(row["protocol"], row["answers"]) for row in rows] == [
        (name, len(day)) for name in ("POST /predict", "POST /predict_many", "OIP REST", "OIP gRPC")
    ]


def times_of(table: pa.Table) -> np.ndarray:
    return table["swiped_at"].combine_chunks().view(pa.int64()).to_numpy()


def test_the_store_has_each_entitys_events_that_the_contract_takes(both):
    both.load()
    table = good(both)
    span = table.filter(pa.array(times_of(table) >= UNTIL - 2 * DAY - REACH)).sort_by("swiped_at")
    for card in range(25):
        mine = span.filter(pa.array(span["card_id"].to_numpy() == card))
        known = events_of(CONTRACT, mine)
        known = known[known["time"] >= (known["time"][-1] if len(known) else 0) - 2 * DAY - REACH]
        assert sorted(kept(both.store, card)) == sorted(known["key"].tolist())


def test_entities_may_be_spread_over_batches(both, monkeypatch):
    before = {card: kept(both.store, card) for card in range(25)}
    monkeypatch.setattr(history_windows, "ROWS", 7)
    both.load()
    assert {card: kept(both.store, card) for card in range(25)} == before


def test_a_load_says_where_it_comes_from_and_that_the_day_is_whole(both):
    facts = both.night.asset_materializations_for_node("swipes__online_features")[0].metadata
    day = len(good(both).filter(pa.array(times_of(good(both)) >= UNTIL - DAY)))
    assert (facts["events_of_the_day"].value, facts["events_scored"].value) == (day, day)
    with Backends(both.settings).lakehouse() as lake:
        assert facts["events_snapshot"].value == str(lake.snapshot(TABLE).id)
        features = lake.snapshot(both.declaration.features_table)
    said = both.store.describe()
    assert said["source_snapshot"] == str(features.id)
    assert (said["scored_on"], said["history_until"]) == (str(LAST), "2026-10-13T00:00:00.000000Z")


def test_the_proof_leaves_no_trace(both):
    """Not even where the store does not know the events that it is asked about."""
    both.forget()
    assert both.replay().disagreements
    assert not any(kept(both.store, card) for card in range(25))
    both.load()
    assert both.replay().problems == []


def test_what_was_recorded_since_then_changes_no_answer_of_the_day(both):
    both.load()
    for card in range(25):
        record(both.store, card, swipe_id=NEWEST + card, at=UNTIL + DAY)
    report = both.replay()
    assert (report.problems, report.out_of_reach) == ([], 0)
    both.load()
    assert all(NEWEST + card in kept(both.store, card) for card in range(25))


def test_an_event_that_gold_has_not_is_found_by_its_traces_and_mended_by_a_load(both):
    both.load()
    for card in range(25):
        record(both.store, card, swipe_id=2 * NEWEST + card, at=UNTIL - DAY - SECOND)
    report = both.replay()
    (problem,) = report.problems
    assert {one.kind for one in report.disagreements} >= {"scores"}
    assert "asked by event over POST /predict" in problem
    assert "It is the histories, or the model file: materialize the online features" in problem
    both.load()
    assert both.replay().problems == []


def test_a_history_that_no_longer_reaches_back_is_said_and_is_no_disagreement(both):
    both.load()
    for card in range(25):
        record(both.store, card, swipe_id=3 * NEWEST + card, at=UNTIL + 9 * DAY)
    report = both.replay()
    assert report.out_of_reach == report.compared > 0
    assert report.disagreements == []
    (problem,) = report.problems
    assert "No event has its history any more" in problem
    both.load()
    assert both.replay().out_of_reach == report.out_of_reach  # what came since stays, and so far ahead it is the newest


def test_later_swipes_in_the_lake_are_not_loaded(both):
    """The night has counted from a snapshot of the events: the store's past is of the same one."""
    before = both.store.describe()["events_snapshot"]
    day = good(both).filter(pa.array(times_of(good(both)) >= UNTIL - DAY))
    late = day.slice(0, 5).set_column(0, "swipe_id", pa.array(np.arange(5) + 4 * NEWEST))
    write_table(both.settings, TABLE, both.events, late)
    both.forget()
    both.load()
    assert both.store.describe()["events_snapshot"] == before
    assert any(kept(both.store, card) for card in range(25))
    assert not [key for card in range(25) for key in kept(both.store, card) if key >= 4 * NEWEST]


def test_scratch_is_left_empty(both):
    assert not list(both.settings.scratch.iterdir())
