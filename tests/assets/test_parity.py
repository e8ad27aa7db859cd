"""The proof that both lanes agree, against a real service: when it passes, and everything that makes it fail."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import numpy as np
import pytest

from assets.api import api_agrees_with_gold
from assets.parity.replay import SAMPLE, replay
from assets.parity.report import SHOWN, ParityReport
from assets.parity.wires import Answer, Outcome, Patience, Question, Wire
from assets.resources import Backends
from backends.lmdb_store import LOOK_EVERY_SECONDS
from backends.nights import newest_night
from backends.online_store import open_store
from backends.settings import Settings
from bento.building.build import find_bento
from models.encoding import Encoded, encode_arrow
from models.errors import EntityNotFoundError, ServiceUnreachableError, StoreUnavailableError, TandemError
from models.scoring import Scorer
from tests.lives import TODAY, changed, checks, declare, populate, promoted, run_job, silent_instance, small_churn
from tests.serving import free_port, running

GOLD, POPULATION = "gold.churn_predictions", "silver.active_customers"


@pytest.fixture(scope="module")
def other_store(tmp_path_factory) -> str:
    return f"lmdb://{tmp_path_factory.mktemp('online')}"


@pytest.fixture(scope="module")
def other_url(lived, other_store) -> Iterator[str]:
    """Serve the same Bento, over gRPC too, from an online store that tests may spoil."""
    bento = find_bento(lived.settings.bentoml_home, "churn")
    with running(bento, changed(lived.settings, online_store=other_store, grpc_port=free_port()), free_port()) as url:
        yield url


@pytest.fixture
def loaded(lived, other_store) -> Callable[..., None]:
    """Load the other service's store from the scored population, changed by `spoil` and told to be of `snapshot`."""
    registry = lived.backends.registry()
    version = registry.champion("churn")
    contract = Scorer(registry.read_version(version), version.sha256).contract

    def load(
        spoil: Callable[[Encoded], None] = lambda _: None, snapshot: str | None = None, customers: slice = slice(None)
    ) -> None:
        with lived.backends.lakehouse() as lake:
            night = newest_night(lake, GOLD)
            table = lake.read(POPULATION)
        encoded, now = encode_arrow(contract, table), np.full(len(table), np.datetime64("now", "ms"))
        spoil(encoded)
        batch = table["customer_id"].to_numpy()[customers], encoded[customers], now[customers]
        properties = {"source_snapshot": snapshot or night.properties["source_snapshot"]}
        open_store(other_store, "churn").load(contract, [batch], properties)
        time.sleep(2 * LOOK_EVERY_SECONDS)  # the service follows

    return load


def compared(lived, settings: Settings) -> dg.AssetCheckEvaluation:
    """Run the check alone, of the lived model, against the settings' service and home."""
    check, resources = api_agrees_with_gold(lived.declaration), {"backends": Backends(settings)}
    job = dg.Definitions(asset_checks=[check], resources=resources).resolve_implicit_global_asset_job_def()
    with silent_instance() as instance:
        (evaluation,) = job.execute_in_process(instance=instance).get_asset_check_evaluations()
    return evaluation


def replayed(lived, url: str, **settings) -> ParityReport:
    """Replay a tenth of what the check does."""
    with lived.backends.lakehouse() as lake:
        return replay(lake, lived.declaration, changed(lived.settings, api_url=url, **settings), SAMPLE // 10)


def facts(evaluation: dg.AssetCheckEvaluation) -> dict:
    return {name: fact.value for name, fact in evaluation.metadata.items() if hasattr(fact, "value")}


def test_the_lived_night_proved_a_thousand_customers_twice_over_each_protocol(lived):
    evaluation = checks(lived.night)["api_agrees_with_gold"]
    said = facts(evaluation)
    assert evaluation.passed, said["reason"]
    assert (said["replayed"], said["answers_compared"], said["disagreements"]) == (SAMPLE, 6 * SAMPLE, 0)
    assert said["scored_on"] == TODAY.isoformat()
    assert 0 < said["latency_p50_ms"] <= said["latency_p99_ms"]
    assert said["online_store"] == "lmdb"
    rows = [record.data for record in evaluation.metadata["by_protocol"].records]
    assert [(row["protocol"], row["answers"], row["rows_a_request"]) for row in rows] == [
        ("POST /predict", 2 * SAMPLE, 1),
        ("POST /predict_many", 2 * SAMPLE, 100),
        ("OIP REST", 2 * SAMPLE, 100),
    ]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in rows)


def test_the_same_bento_with_the_same_features_agrees(lived, other_url, loaded):
    loaded()
    report = replayed(lived, other_url)
    assert (report.problems, report.customers) == ([], 100)
    assert [(one.protocol, one.compared) for one in report.replayed] == [
        ("POST /predict", 200),
        ("POST /predict_many", 200),
        ("OIP REST", 200),
        ("OIP gRPC", 200),
    ]


def test_a_protocol_that_cannot_be_reached_is_said_and_the_others_are_compared(lived, other_url, loaded, monkeypatch):
    loaded()
    monkeypatch.setattr("assets.parity.wires.PAUSE_SECONDS", 0)
    nobody = free_port()
    report = replayed(lived, other_url, grpc_port=nobody)
    (problem,) = report.problems
    assert problem.startswith("OIP gRPC was not compared to the end. ")
    assert f"127.0.0.1:{nobody} does not answer" in problem
    assert "make serve" in problem
    assert [one.compared for one in report.replayed] == [200, 200, 200, 0]
    assert report.metadata["answers_compared"] == 600


def test_grpc_that_is_switched_off_is_not_asked(lived, other_url, loaded):
    loaded()
    report = replayed(lived, other_url, grpc_port=0)
    assert (report.problems, report.compared) == ([], 600)


def test_altered_features_are_found(lived, other_url, loaded):
    def spoil(rows: Encoded) -> None:
        rows.numbers[:, 0] = (rows.numbers[:, 0] + 300) % 600

    loaded(spoil)
    report = replayed(lived, other_url)
    different = len(report.disagreements)
    assert SHOWN < different <= 400  # by key they differ, by features they agree
    assert {found.asked_by for found in report.disagreements} == {"key"}
    by_protocol = [[found.key for found in one.disagreements] for one in report.replayed]
    assert all(keys == by_protocol[0] for keys in by_protocol)
    (problem,) = report.problems
    assert problem.startswith(f"{different} of 800 answers differ ({different} scores); first: key ")
    assert "asked by key over POST /predict: API " in problem
    assert problem.endswith("it is the online store's features: materialize the online features.")
    listed = [record.data for record in report.metadata["first_disagreements"].records]
    assert len(listed) == SHOWN
    assert all(np.float32(record["gold"]) != np.float32(record["api"]) for record in listed)


def test_features_of_another_snapshot_are_said(lived, other_url, loaded):
    loaded(snapshot="4711")
    report = replayed(lived, other_url)
    assert report.disagreements == []
    (problem,) = report.problems
    assert problem.startswith("The online features come from population snapshot 4711, the newest night from")
    assert problem.endswith("Materialize the online features.")


def test_customers_who_are_not_online_are_disagreements(lived, other_url, loaded):
    loaded(customers=slice(0, 1))
    report = replayed(lived, other_url)
    assert 4 * 99 <= len(report.disagreements) <= 4 * 100
    assert {found.kind for found in report.disagreements} == {"refusals"}
    assert "No online features for customer_id" in report.problems[0]


def test_a_service_that_is_not_running_is_said_and_is_no_agreement(lived):
    url = f"http://127.0.0.1:{free_port()}"
    evaluation = compared(lived, changed(lived.settings, api_url=url))
    said = facts(evaluation)
    assert not evaluation.passed
    assert said["replayed"] == 0
    assert f"The service at {url} does not answer" in said["reason"]
    assert "make serve" in said["reason"]


def test_a_foreign_service_is_said(lived):
    class Foreign(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Foreign) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        evaluation = compared(lived, changed(lived.settings, api_url=url))
        server.shutdown()
        thread.join()
    assert not evaluation.passed
    assert "no JSON of a Tandem service" in facts(evaluation)["reason"]


def test_nothing_published_yet_is_said(lived, home):
    evaluation = compared(lived, home)
    said = facts(evaluation)
    assert not evaluation.passed
    assert said["replayed"] == 0
    assert GOLD in said["reason"]


def test_another_model_in_gold_than_in_the_service_names_both_versions(lived, home, instance):
    declare(home, small_churn())
    populate(home, rows=50, examples=10)
    registry = lived.backends.registry()
    served = registry.champion("churn")
    contract = Scorer(registry.read_version(served)).contract
    promoted(home, contract, seed=1)
    second = promoted(home, contract, seed=2)  # version 2, other bytes
    assert run_job(home, instance, "churn_nightly", TODAY).success
    evaluation = compared(lived, changed(home, api_url=lived.url))
    said = facts(evaluation)
    assert not evaluation.passed
    assert f"The API serves version {served.version} ({served.sha256[:12]})" in said["reason"]
    assert f"scored by version {second.version} ({second.sha256[:12]})" in said["reason"]
    assert "Deploy the newest Bento" in said["reason"]
    assert (said["replayed"], said["disagreements"]) == (50, 300)


class Busy(Wire):
    """Refuses some requests before it answers; a request with customer 13 in it is always refused."""

    def __init__(self, error: TandemError, refusals: int) -> None:
        super().__init__("busy", 100)
        self.error, self.refusals = error, refusals

    def ask(self, questions: Sequence[Question]) -> list[Outcome]:
        if self.refusals:
            self.refusals -= 1
            raise self.error
        if any(question["customer_id"] == 13 for question in questions):
            raise EntityNotFoundError("No online features for customer_id 13.")
        return [Answer(np.float32(question["customer_id"]), True, "abc") for question in questions]


TOO_BUSY = ServiceUnreachableError("Overloaded"), StoreUnavailableError("Redis is late.")


@pytest.mark.parametrize("error", TOO_BUSY)
def test_a_service_that_has_too_much_to_do_is_asked_again(error, monkeypatch):
    monkeypatch.setattr("assets.parity.wires.PAUSE_SECONDS", 0)
    outcomes = Patience(3).ask(Busy(error, refusals=3), [{"customer_id": 1}])
    assert outcomes == [Answer(np.float32(1), True, "abc")]


def test_patience_is_for_the_whole_replay(monkeypatch):
    monkeypatch.setattr("assets.parity.wires.PAUSE_SECONDS", 0)
    patience, busy = Patience(1), Busy(TOO_BUSY[0], refusals=3)
    with pytest.raises(ServiceUnreachableError):
        patience.ask(busy, [{"customer_id": 1}])
    assert busy.refusals == 1
    with pytest.raises(ServiceUnreachableError):
        patience.ask(busy, [{"customer_id": 1}])
    assert busy.refusals == 0


def test_one_bad_row_costs_the_others_of_its_request_nothing():
    outcomes = Patience(0).ask(Busy(TOO_BUSY[0], 0), [{"customer_id": key} for key in (12, 13, 14)])
    assert [type(outcome) for outcome in outcomes] == [Answer, EntityNotFoundError, Answer]
