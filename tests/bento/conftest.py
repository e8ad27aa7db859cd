"""A real Bento of the tiny model, built once and served once for all tests of the real-time lane."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from backends.online_store import open_store
from backends.settings import Settings
from bento.building.build import BuiltBento, build_bento
from bento.lineage import Lineage
from models.contract import Contract
from models.encoding import encode_rows
from models.scoring import sha256_of
from tests.serving import free_port, running
from tests.tiny_model import tiny_contract, tiny_onnx_with_reference, tiny_rows

FRESH = np.datetime64(time.time_ns() // 1_000_000, "ms")
STALE = FRESH - np.timedelta64(49, "h")  # the tiny contract allows 48
STALE_KEY = 199


@dataclass(frozen=True)
class Served:
    """A running service and everything that went into it; `rows[i]` are the features of customer i.

    It answers gRPC at the address `grpc`; services that tests start with `settings` do not.
    """

    url: str
    grpc: str
    bento: BuiltBento
    settings: Settings
    contract: Contract
    onnx: bytes
    lineage: Lineage
    rows: list[dict[str, Any]]


@pytest.fixture(scope="session")
def onnx() -> bytes:
    return tiny_onnx_with_reference(tiny_contract())


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
    grpc_port = free_port()
    with running(bento, settings.model_copy(update={"grpc_port": grpc_port}), free_port()) as url:
        yield Served(url, f"127.0.0.1:{grpc_port}", bento, settings, contract, onnx, lineage, rows)
