"""What is observed of the running service: that it is down, which version answers, and nothing twice."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pytest

from assets.resources import Backends
from orchestration.sensors import api_observer
from tests.lives import TINY, changed, declare


def lineage(version: str, sha256: str) -> str:
    return json.dumps({"model": "tiny", "version": version, "sha256": sha256})


class Lineages(ThreadingHTTPServer):
    """Answers GET /lineage as a Bento would; what it names can be changed while it runs."""

    class RequestHandlerClass(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.served.encode())

        def log_message(self, *_) -> None:
            pass

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.RequestHandlerClass)
        self.served = lineage("3", "a" * 64)


@pytest.fixture
def service() -> Iterator[Lineages]:
    with Lineages() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def observe(home):
    """Evaluate the sensor as the daemon does, the cursor carried on."""
    declaration, cursors = declare(home, TINY), [None]

    def tick(url: str):
        sensor = api_observer(declaration)
        resources = {"backends": Backends(changed(home, api_url=url))}
        with dg.build_sensor_context(cursor=cursors[-1], sensor_name=sensor.name, resources=resources) as context:
            data = sensor.evaluate_tick(context)
        cursors.append(data.cursor or cursors[-1])
        return data

    return tick


def url_of(service: Lineages) -> str:
    return f"http://127.0.0.1:{service.server_port}"


def test_a_service_that_is_down_is_observed_once(home, observe):
    first, second = observe(home.api_url), observe(home.api_url)
    (event,) = first.asset_events
    assert event.asset_key == dg.AssetKey(["tiny", "api"])
    assert event.tags["dagster/data_version"] == "down"
    assert "does not answer" in event.metadata["reason"].value
    assert second.asset_events == []
    assert second.skip_message == "unchanged: down"


def test_a_service_that_comes_up_is_observed_with_its_version(home, observe, service):
    observe(home.api_url)
    (event,) = observe(url_of(service)).asset_events
    assert isinstance(event, dg.AssetObservation)
    assert event.tags["dagster/data_version"] == "a" * 64
    assert event.metadata["model_version"].value == "3"
    assert event.metadata["url"].value == url_of(service)
    assert event.metadata["latency_ms"].value > 0


def test_the_same_version_is_observed_once_and_a_new_one_again(observe, service):
    observe(url_of(service))
    assert observe(url_of(service)).skip_message == f"unchanged: {'a' * 64}"
    service.served = lineage("4", "b" * 64)
    (event,) = observe(url_of(service)).asset_events
    assert event.metadata["model_version"].value == "4"


def test_a_service_that_goes_down_is_observed(home, observe, service):
    observe(url_of(service))
    (event,) = observe(home.api_url).asset_events
    assert event.tags["dagster/data_version"] == "down"


def test_a_foreign_service_counts_as_down(observe, service):
    service.served = "<html>not one of ours</html>"
    (event,) = observe(url_of(service)).asset_events
    assert event.tags["dagster/data_version"] == "down"


def test_the_sensor_of_a_living_service_names_the_champion(lived):
    with dg.build_sensor_context(resources={"backends": lived.backends}) as context:
        (event,) = api_observer(lived.declaration).evaluate_tick(context).asset_events
    assert event.tags["dagster/data_version"] == lived.backends.registry().champion("churn").sha256
