"""Keeps one worker of BentoML running: `python -m bento.supervisor BENTO --host HOST --port PORT`.

BentoML looks after its workers every ten seconds, in a container never, and while it stops, new callers
wait in a queue that nobody serves. This one starts a killed worker again at once, and stops listening first. It imports
nothing of what a worker needs, so a service starts sooner and takes less memory.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from backends.settings import Settings
from bento.guard.keys import KeyRing, check_listening
from models.errors import TandemError

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75  # longer than the 60 of most load balancers: it is they who close
LONGEST_PAUSE = 10.0  # seconds between two starts of a worker that does not stay
STEADY_SECONDS = 30.0  # a worker that ran so long is started again without a pause


class Supervisor:
    """One listening socket, one worker. `stop` (SIGTERM, SIGINT) lets the worker finish what it has begun."""

    def __init__(self, bento: Path, host: str, port: int, settings: Settings) -> None:
        self._listening = socket.create_server((host, port), family=_family(host), backlog=BACKLOG)
        self._descriptor = self._listening.fileno()
        self._command = _worker_command(bento, self._descriptor, settings)
        self._stopping = threading.Event()
        self._worker: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Run until it is stopped; return the exit code. A worker that never came up is not tried again."""
        pause, came_up = 0.0, False
        metrics = tempfile.mkdtemp(prefix="tandem-metrics-")
        try:
            while not self._stopping.wait(pause):
                began = time.monotonic()
                code = self._run_worker({**os.environ, "PROMETHEUS_MULTIPROC_DIR": metrics})
                if self._stopping.is_set():
                    break
                came_up = came_up or code < 0
                if not came_up:
                    return code or 1
                print(f"The worker ended ({_reason(code)}); starting another.", file=sys.stderr, flush=True)
                steady = time.monotonic() - began > STEADY_SECONDS
                pause = 0.0 if steady or (code < 0 and not pause) else min(max(2 * pause, 0.5), LONGEST_PAUSE)
        finally:
            self._listening.close()
            shutil.rmtree(metrics, ignore_errors=True)
        return 0

    def stop(self, number: int, _: FrameType | None = None) -> None:
        """Refuse new connections from now on, and tell the worker to finish."""
        self._stopping.set()
        self._listening.close()
        if self._worker is not None and self._worker.poll() is None:
            self._worker.send_signal(number)

    def _run_worker(self, environment: dict[str, str]) -> int:
        self._worker = subprocess.Popen(self._command, env=environment, pass_fds=[self._descriptor])
        if self._stopping.is_set():  # the signal came before there was a worker to tell
            self._worker.terminate()
        return self._worker.wait()


def _worker_command(bento: Path, listening: int, settings: Settings) -> list[str]:
    worker = [sys.executable, "-P", "-m", "_bentoml_impl.worker.service", str(bento), "--fd", str(listening)]
    options = ["--worker-id", "1", "--backlog", str(BACKLOG), "--timeout-keep-alive", str(KEEP_ALIVE_SECONDS)]
    return [*worker, *options, "--args", "{}", *_tls(settings)]


def _tls(settings: Settings) -> list[str]:
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None and key is None:
        return []
    for name, path in (("CERTIFICATE", certificate), ("KEY", key)):
        if path is None or not path.is_file():
            raise TandemError(
                f"TANDEM_TLS_{name} is {'not set' if path is None else f'{path}, which is no file'}. "
                "For HTTPS, set both TANDEM_TLS_CERTIFICATE and TANDEM_TLS_KEY to PEM files."
            )
    return ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _reason(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def main(arguments: Sequence[str] | None = None) -> int:
    """Supervise what the arguments say; what Tandem refuses is said in one message."""
    parser = argparse.ArgumentParser(prog="bento.supervisor", description="Serve a Bento.")
    parser.add_argument("bento", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    given = parser.parse_args(arguments)
    settings = Settings()
    try:
        check_listening(given.host, settings)
        KeyRing.open(settings)  # what the worker would say less clearly
        supervisor = Supervisor(given.bento, given.host, given.port, settings)
    except OSError as error:
        print(f"error: {given.host} port {given.port} cannot be listened on: {error}", file=sys.stderr)
        return 1
    except TandemError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
