"""A model's life in one process: whose service answers on its port, and what is said when it is another's."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rich.console import Console

from backends.settings import Settings
from bento.lineage import Lineage
from models.errors import PortTakenError, TandemError
from orchestration.life import Life
from orchestration.progress import Stages
from tests.lives import TINY, declare
from tests.serving import free_port

BUILT = Lineage(model="tiny", version="3", sha256="a" * 64)
OTHERS = {"model": "churn", "version": "7", "sha256": "c" * 64}


@contextmanager
def answering(answer: object) -> Iterator[int]:
    """Answer every request with some JSON, on a port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def life_at(home):
    def make(port: int, grpc_port: int = 0, api_url: str = "http://127.0.0.1:{port}") -> Life:
        settings = Settings(home=home.home, models=home.models, api_url=api_url)
        declare(settings, TINY, api={"port": port, "grpc_port": grpc_port})
        return Life(settings, Stages(Console(quiet=True)), "tiny")

    return make


@contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (OTHERS, r"the service of 'churn', version 7 \(cccccccc\) is there"),
        (BUILT.model_dump(), r"the service of 'tiny', version 3 \(aaaaaaaa\) is there"),  # it cannot be stopped here
        ({"hello": "world"}, "no service of Tandem"),
        ("a text", "no service of Tandem"),
    ],
)
def test_whoever_is_on_the_port_is_named_before_anything_starts(life_at, answer, said):
    with answering(answer) as port:
        life = life_at(port)
        with pytest.raises(PortTakenError, match=f"Port {port} is taken: {said}.*another port .*models/tiny.yaml"):
            life.check_port()
        with pytest.raises(PortTakenError), life.api():
            pass
    life.check_port()  # whoever it was has gone


def test_whoever_is_on_the_port_is_asked_there_and_not_at_a_gateway(life_at):
    said = pytest.raises(PortTakenError, match="the service of 'churn', version 7")
    with answering(OTHERS) as port, answering(BUILT.model_dump()) as gateway, said:
        life_at(port, api_url=f"http://127.0.0.1:{gateway}").check_port()


def test_the_port_of_grpc_is_asked_too_before_anything_starts(life_at):
    with answering(OTHERS) as grpc_port:
        life = life_at(free_port(), grpc_port)
        with pytest.raises(PortTakenError, match=f"gRPC cannot listen on port {grpc_port}.*TANDEM_GRPC_PORT"):
            life.check_port()


def test_a_service_is_waited_for_until_it_serves_what_was_built(life_at):
    with answering(BUILT.model_dump()) as port, sleeping() as process:
        life_at(port)._wait_for(process, BUILT)


@pytest.mark.parametrize("changed", [OTHERS, BUILT.model_dump() | {"sha256": "b" * 64}])
def test_a_service_of_another_model_or_of_another_version_is_no_answer(life_at, changed):
    with answering(changed) as port, sleeping() as process:
        said = rf"answers the service of '{changed['model']}', version {changed['version']} .*, not .*'tiny', version 3"
        with pytest.raises(TandemError, match=said):
            life_at(port)._wait_for(process, BUILT)


def test_a_service_that_ends_before_it_answers_is_said_with_its_last_words(life_at):
    life = life_at(free_port())
    assert life.api_log.name == "api-tiny.log"
    life.api_log.write_text("begin\nno room\n")
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        with pytest.raises(TandemError, match=r"does not answer .*api-tiny.log. It ends with: no room"):
            life._wait_for(process, BUILT)
