"""The proof that both lanes agree, against a real service: when it passes, and everything that makes it fail."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import numpy as np
import pytest

from assets.api import api_agrees_with_gold
from assets.parity import SAMPLE, SHOWN, ParityReport, replay
from assets.resources import Backends
from backends.nights import newest_night
from backends.online_store import LOOK_EVERY_SECONDS, open_store
from backends.settings import Settings
from bento.build import find_bento
from models.encoding import Encoded, encode_arrow
from models.scoring import Scorer
from tests.lives import TODAY, changed, checks, declare, populate, promoted, run_job, silent_instance, small_churn
from tests.serving import free_port, running

GOLD, POPULATION = "gold.churn_predictions", "silver.active_customers"


@pytest.fixture(scope="module")
def other_store(tmp_path_factory) -> str:
    return f"lmdb://{tmp_path_factory.mktemp('online')}"


@pytest.fixture(scope="module")
def other_url(lived, other_store) -> Iterator[str]:
    """Serve the same Bento from an online store that tests may spoil."""
    bento = find_bento(lived.settings.bentoml_home, "churn")
    with running(bento, changed(lived.settings, online_store=other_store), free_port()) as url:
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


def replayed(lived, url: str) -> ParityReport:
    """Replay a tenth of what the check does."""
    with lived.backends.lakehouse() as lake:
        return replay(lake, lived.declaration, url, SAMPLE // 10)


def facts(evaluation: dg.AssetCheckEvaluation) -> dict:
    return {name: fact.value for name, fact in evaluation.metadata.items() if hasattr(fact, "value")}


def test_the_lived_night_proved_a_thousand_customers_twice(lived):
    evaluation = checks(lived.night)["api_agrees_with_gold"]
    said = facts(evaluation)
    assert evaluation.passed, said["reason"]
    assert (said["replayed"], said["answers_compared"], said["disagreements"]) == (SAMPLE, 2 * SAMPLE, 0)
    assert said["scored_on"] == TODAY.isoformat()
    assert 0 < said["latency_p50_ms"] <= said["latency_p99_ms"]


def test_the_same_bento_with_the_same_features_agrees(lived, other_url, loaded):
    loaded()
    report = replayed(lived, other_url)
    assert (report.problems, report.replayed) == ([], 100)


def test_altered_features_are_found(lived, other_url, loaded):
    def spoil(rows: Encoded) -> None:
        rows.numbers[:, 0] = (rows.numbers[:, 0] + 300) % 600

    loaded(spoil)
    report = replayed(lived, other_url)
    different = len(report.disagreements)
    assert SHOWN < different <= 100  # by key they differ, by features they agree
    assert {found.asked_by for found in report.disagreements} == {"key"}
    assert report.problems[0].startswith(f"{different} of 200 answers differ; first: key ")
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
    assert len(report.disagreements) >= 99
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
    assert (said["replayed"], said["disagreements"]) == (50, 100)
