"""What is seen of the running service: that it is down, which version answers, how fast; on change, and to plot it."""

import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pytest
from pydantic import SecretStr

from assets import api_health
from assets.api_health import CHECK, api_answers
from orchestration.sensors.api import api_observer
from tests.lives import TINY, changed, declare
from tests.orchestration.sensors.checks import run_by_hand

OLD, NEW = "a" * 64, "b" * 64


class Service(ThreadingHTTPServer):
    """Answers as a Bento would; what it is can be changed while it runs."""

    class RequestHandlerClass(BaseHTTPRequestHandler):
        server: "Service"

        def do_GET(self) -> None:
            self.server.authorized.add(self.headers.get("authorization"))
            status, body = self.server.answers[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_) -> None:
            pass

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.RequestHandlerClass)
        self.authorized: set[str | None] = set()
        self.answers: dict[str, tuple[int, str]] = {}
        self.serves("3", OLD)

    def serves(self, version: str, sha256: str) -> None:
        loaded = {"loaded_at": (datetime.now(UTC) - timedelta(hours=5)).isoformat(), "scored_on": "2026-11-28"}
        lineage = {"model": "tiny", "version": version, "sha256": sha256, "online_features": loaded}
        self.answers = {"/lineage": (200, json.dumps(lineage)), "/readyz": (200, "{}")}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def tiny(home):
    return declare(home, TINY)


@pytest.fixture
def look(home, tiny, tick):
    """Let the sensor look at an address, by default where nobody listens."""
    sensor = api_observer(tiny)
    return lambda url=home.api_url, **more: tick(sensor, changed(home, api_url=url, **more))


def promote(instance, version: int, sha256: str) -> None:
    event = dg.AssetMaterialization(
        ["tiny", "champion"], metadata={"model_version": version}, tags={"dagster/data_version": sha256}
    )
    instance.report_runless_asset_event(event)


def facts(event) -> dict:
    return {name: value.value for name, value in event.metadata.items()}


def test_a_service_that_is_down_is_said_once(look):
    seen, check = look().asset_events
    assert (seen.asset_key.path, seen.tags["dagster/data_version"]) == (["tiny", "api"], "down")
    assert "does not answer" in facts(seen)["reason"]
    assert (check.check_name, check.passed) == (CHECK, False)
    assert look().skip_message == "unchanged: down"


def test_a_service_that_never_answered_is_a_warning_that_nobody_is_told(look):
    _, check = look().asset_events
    assert (check.severity, facts(check)["occasion"]) == (dg.AssetCheckSeverity.WARN, "")


def test_a_service_that_goes_down_is_an_error(look, service):
    look(service.url)
    _, check = look().asset_events
    assert (check.severity, facts(check)["occasion"]) == (dg.AssetCheckSeverity.ERROR, "down")


def test_what_answers_is_observed_in_figures(look, service):
    seen, check = look(service.url).asset_events
    found = facts(seen)
    assert seen.tags["dagster/data_version"] == OLD
    assert (found["model_version"], found["health"], found["url"]) == ("3", "ready", service.url)
    assert found["latency_ms"] > 0
    assert found["online_features_age_hours"] == pytest.approx(5, abs=0.1)
    assert found["online_features_of"] == "2026-11-28"
    assert found["parity"] == "not proved yet"
    assert check.passed


def test_another_version_is_news_and_the_same_is_not(look, service):
    look(service.url)
    assert look(service.url).skip_message == f"unchanged: {OLD}"
    service.serves("4", NEW)
    assert facts(look(service.url).asset_events[0])["model_version"] == "4"


def test_it_is_observed_every_quarter_of_an_hour_so_that_its_history_can_be_plotted(home, tiny, service, instance):
    sensor = api_observer(tiny)
    resources = {"backends": api_health.Backends(changed(home, api_url=service.url))}

    def observed(cursor):
        with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
            return sensor.evaluate_tick(context)

    cursor = json.loads(observed(None).cursor)
    for minutes, events in ((14, 0), (16, 2)):
        cursor["told"] = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat()
        assert len(observed(json.dumps(cursor)).asset_events) == events


def test_a_new_champion_is_waited_for_and_then_missed(look, service, instance, monkeypatch):
    promote(instance, 3, OLD)
    promote(instance, 4, NEW)
    _, waiting = look(service.url).asset_events
    assert (waiting.passed, "until version 4 is deployed" in facts(waiting)["reason"]) == (True, True)
    monkeypatch.setattr(api_health, "GRACE", timedelta(0))
    _, missed = look(service.url).asset_events
    assert not missed.passed
    assert (facts(missed)["served_version"], facts(missed)["champion_version"]) == ("3", "4")
    service.serves("4", NEW)
    _, fine = look(service.url).asset_events
    assert fine.passed


def test_a_service_without_its_store_is_not_ready_and_says_which_version_it_is(look, service):
    error = {"error": {"type": "StoreUnavailableError", "message": "The online store is away."}}
    service.answers["/readyz"] = (503, json.dumps(error))
    seen, check = look(service.url).asset_events
    assert (facts(seen)["health"], facts(seen)["model_version"]) == ("not ready", "3")
    assert not check.passed
    assert "The online store is away." in facts(check)["reason"]


def test_a_foreign_service_counts_as_down(look, service):
    service.answers["/lineage"] = (200, "<html>not one of ours</html>")
    assert look(service.url).asset_events[0].tags["dagster/data_version"] == "down"


def test_the_key_of_the_settings_is_shown_to_the_service_and_to_nobody_else(look, service):
    data = look(service.url, api_key="k3y-of-ours")
    assert service.authorized == {"Bearer k3y-of-ours"}
    assert "k3y-of-ours" not in f"{data.asset_events} {data.cursor}"


def test_a_service_that_hangs_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = api_health.ask(f"http://127.0.0.1:{silent.getsockname()[1]}", SecretStr(""), 0.2)
    assert (answer.state, "within 0.2 s" in answer.problem) == ("down", True)


def test_the_check_run_by_hand_says_the_same_and_observes(home, tiny, look, service, instance):
    look(service.url)
    settings = changed(home, api_url=service.url)
    assert run_by_hand(api_answers(tiny), settings, instance).passed
    assert len(instance.fetch_observations(dg.AssetKey(["tiny", "api"]), limit=5).records) == 2
    service.answers["/readyz"] = (503, json.dumps({"error": {"type": "StoreUnavailableError", "message": "away"}}))
    assert not run_by_hand(api_answers(tiny), settings, instance).passed
