"""A real Bento of the tiny model, built once and served once for all tests of the real-time lane."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from backends.online_store import open_store
from backends.settings import Settings
from bento.build import BuiltBento, build_bento
from bento.lineage import Lineage
from bento.serve import serve_command
from models.contract import Contract
from models.encoding import encode_rows
from models.scoring import sha256_of
from tests.tiny_model import tiny_contract, tiny_onnx, tiny_rows

FRESH = np.datetime64(time.time_ns() // 1_000_000, "ms")
STALE = FRESH - np.timedelta64(49, "h")  # the tiny contract allows 48
STALE_KEY = 199


@dataclass(frozen=True)
class Served:
    """A running service and everything that went into it; `rows[i]` are the features of customer i."""

    url: str
    bento: BuiltBento
    settings: Settings
    contract: Contract
    onnx: bytes
    lineage: Lineage
    rows: list[dict[str, Any]]


@pytest.fixture(scope="session")
def onnx() -> bytes:
    return tiny_onnx(tiny_contract())


@pytest.fixture(scope="session")
def lineage(onnx) -> Lineage:
    return Lineage(
        model="tiny",
        version="3",
        sha256=sha256_of(onnx),
        dagster_run_id="run-of-tiny",
        mlflow_run_id="run-in-mlflow",
        training_snapshot="8170927402156543211",
        population_snapshot="4211",
        metrics={"auc": 0.81},
    )


@pytest.fixture(scope="session")
def settings(tmp_path_factory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def bento(onnx, lineage, settings) -> BuiltBento:
    return build_bento(onnx, lineage, settings.bentoml_home, {"dagster_run_id": lineage.dagster_run_id})


@pytest.fixture(scope="session")
def served(bento, onnx, lineage, settings) -> Iterator[Served]:
    contract = tiny_contract()
    rows = tiny_rows(contract, 200)
    event_times = np.full(200, FRESH)
    event_times[STALE_KEY] = STALE
    batch = np.arange(200), encode_rows(contract, rows), event_times
    open_store(settings.online, "tiny").load(contract, [batch], {"source_snapshot": "4211"})
    with running(bento, settings) as url:
        yield Served(url, bento, settings, contract, onnx, lineage, rows)


@contextmanager
def running(bento: BuiltBento, settings: Settings) -> Iterator[str]:
    """Serve a Bento on a free port; give its URL once it is ready."""
    port = free_port()
    arguments, environment = serve_command(bento, settings, port)
    log = settings.home / f"{port}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(arguments, env=environment, stdout=file, stderr=file)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return int(any_port.getsockname()[1])


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
