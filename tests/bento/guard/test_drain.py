"""A service that is told to stop, or whose worker dies, as its callers see it. Over HTTPS, as they should call it."""

import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx
import psutil
import pytest

from bento.serve import serve_command
from tests.bento.guard.raw_http import request
from tests.serving import START_SECONDS, free_port

CALLERS = 8
ONE = b'{"customer_id": 1}'


@dataclass(frozen=True)
class Running:
    port: int
    supervisor: psutil.Popen
    trust: ssl.SSLContext
    log: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def worker(self) -> psutil.Process:
        (worker,) = self.supervisor.children()
        return worker

    def connect(self) -> ssl.SSLSocket:
        return self.trust.wrap_socket(
            socket.create_connection(("127.0.0.1", self.port), 30), server_hostname="127.0.0.1"
        )

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self.supervisor.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            try:
                if httpx.get(f"{self.url}/livez", verify=self.trust).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A folder with `key.pem` and `certificate.pem` of 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    new = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem -out certificate.pem"
    )
    whose = ["-subj", "/CN=tests", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *new.split(), *whose], cwd=folder, check=True, capture_output=True)
    return folder


@contextmanager
def started(served, certificate: Path) -> Iterator[Running]:
    tls = {"tls_certificate": certificate / "certificate.pem", "tls_key": certificate / "key.pem"}
    patient = {"api_longest_wait_ms": 10_000.0}  # on a busy machine a few callers may be too many
    port = free_port()
    arguments, environment = serve_command(served.bento, served.settings.model_copy(update=tls | patient), port)
    log = certificate / f"{port}.log"
    with log.open("wb") as file:
        supervisor = psutil.Popen(arguments, env=environment, stdout=file, stderr=file)
    service = Running(port, supervisor, ssl.create_default_context(cafile=str(tls["tls_certificate"])), log)
    try:
        service.wait()
        yield service
    finally:
        if supervisor.poll() is None:
            supervisor.terminate()
            supervisor.wait(60)


class Caller(threading.Thread):
    """Calls over one kept connection until the service says that it closes it."""

    def __init__(self, service: Running) -> None:
        super().__init__()
        self.connection = service.connect()
        self.answered = 0
        self.lost: str | None = None
        self.closed_by_word = False

    def run(self) -> None:
        with self.connection, self.connection.makefile("rb") as answers:
            self.call(answers)

    def call(self, answers: BinaryIO) -> None:
        try:
            while not self.closed_by_word:
                self.connection.sendall(request("/predict", ONE))
                if not (status := answers.readline()).startswith(b"HTTP/1.1 200"):
                    self.lost = f"{status!r} after {self.answered} answers"
                    return
                length = 0
                while (line := answers.readline().lower()) != b"\r\n":
                    length = int(line.split()[1]) if line.startswith(b"content-length") else length
                    self.closed_by_word |= line.startswith(b"connection: close")
                assert b"probability" in answers.read(length)
                self.answered += 1
        except OSError as error:
            self.lost = f"{error!r} after {self.answered} answers"


def test_a_killed_worker_is_replaced_and_a_stopped_service_loses_nothing(served, certificate):
    with started(served, certificate) as service:
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{service.port}/livez")  # HTTPS only

        killed = service.worker
        killed.kill()
        service.wait()
        assert service.worker.pid != killed.pid
        assert "SIGKILL" in service.log.read_text()

        callers = [Caller(service) for _ in range(CALLERS)]
        with service.connect() as idle, service.connect() as late:
            late.sendall(request("/predict", ONE)[:-5])
            for caller in callers:
                caller.start()
            while not all(caller.answered > 20 for caller in callers):
                assert [caller.lost for caller in callers] == [None] * CALLERS
                time.sleep(0.01)
            service.supervisor.send_signal(signal.SIGTERM)
            time.sleep(0.2)  # an upload that is still going on
            late.sendall(request("/predict", ONE)[-5:])
            assert late.recv(100).startswith(b"HTTP/1.1 200")
            for caller in callers:
                caller.join(60)
            assert [caller.lost for caller in callers] == [None] * CALLERS
            assert all(caller.closed_by_word for caller in callers)
            assert idle.recv(1) == b""
        assert service.supervisor.wait(60) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service.port), 30)


def refusal_of(served, changes: dict[str, object], host: str = "127.0.0.1") -> str:
    """Return what a service says that does not start."""
    arguments, environment = serve_command(served.bento, served.settings.model_copy(update=changes), free_port(), host)
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_service_that_strangers_could_reach_does_not_start(served):
    assert "Without API keys the service listens on loopback only, not on 0.0.0.0" in refusal_of(served, {}, "0.0.0.0")


def test_a_service_without_its_keys_or_its_certificate_does_not_start(served, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert "cannot be read" in refusal_of(served, {"api_keys_file": nowhere})
    assert "TANDEM_TLS_KEY is not set" in refusal_of(
        served, {"tls_certificate": served.bento.model_folder / "model.onnx"}
    )
    assert "which is no file" in refusal_of(served, {"tls_certificate": nowhere, "tls_key": nowhere})


def test_bentomls_own_command_keeps_the_same_rules(served, tmp_path):
    """Whoever starts the Bento without our supervisor is not left open either."""
    _, environment = serve_command(served.bento, served.settings, free_port())
    with socket.create_server(("0.0.0.0", 0)) as listening:
        command = [sys.executable, "-P", "-m", "_bentoml_impl.worker.service"]
        command += [str(served.bento.path), "--fd", str(listening.fileno()), "--worker-id", "1"]
        done = subprocess.run(
            command, env=environment, pass_fds=[listening.fileno()], capture_output=True, text=True, timeout=120
        )
    assert done.returncode != 0
    assert "Without API keys the service listens on loopback only, not on 0.0.0.0" in done.stderr
