"""Run a built Bento for a test, and stop it."""

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from backends.settings import Settings
from bento.building.build import BuiltBento
from bento.serve import serve_command

START_SECONDS = 120


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return int(any_port.getsockname()[1])


@contextmanager
def running(bento: BuiltBento, settings: Settings, port: int) -> Iterator[str]:
    """Serve a Bento on a port; give its URL once it answers, with or without online features."""
    url = f"{'https' if settings.tls_certificate else 'http'}://127.0.0.1:{port}"
    trusted = ssl.create_default_context(cafile=settings.tls_certificate)
    arguments, environment = serve_command(bento, settings, port)
    log = settings.home / f"api-{port}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(arguments, env=environment, stdout=file, stderr=file)
    try:
        _wait_until_it_answers(url, trusted, process, log)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_it_answers(url: str, trusted: ssl.SSLContext, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if httpx.get(f"{url}/livez", verify=trusted).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.1)
