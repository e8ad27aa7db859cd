"""What `make bench-api` measures: how each server is started, and how each system is asked.

A server has one worker. Three of the systems are one server: the service speaks three protocols. What is written to
each, and read in its answers, is in `api_bodies`.
"""

import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from backends.settings import QUIET
from benchmarks.api_bodies import (
    by_key,
    by_name,
    by_tensors,
    in_grpc,
    in_rest,
    of_grpc,
    of_json,
    of_mlflow,
    of_mlflow_tensors,
    of_rest,
    swipe_in_json,
    tensors_of_key,
    tensors_of_swipe,
)  # fmt: skip
from benchmarks.api_home import NO_STORE, ApiHome
from benchmarks.api_load import write_bodies
from benchmarks.api_requests import AskedOnce, Repeated, Requests, Swipe
from benchmarks.api_wires import HOST
from benchmarks.processes import serving
from bento.building.build import BuiltBento
from bento.open_inference.messages import SERVICE
from bento.serve import serve_command
from models.contract import Contract

NULL = "null"  # what the load itself costs
READY_SECONDS = 5.0  # for one answer

Command = tuple[list[str], dict[str, str]]
StartCommand = Callable[[ApiHome, BuiltBento, str, int, int], Command]  # home, Bento, store, port, gRPC's port


@dataclass(frozen=True)
class Server:
    """A program with a worker, and a path that answers 200 when it is ready."""

    command: StartCommand
    ready: str
    looks_up: bool = True

    def on(self, stores: Sequence[str]) -> Sequence[str]:
        """Return on which of some stores it runs."""
        return stores if self.looks_up else (NO_STORE,)


@dataclass(frozen=True)
class System:
    """A server asked in one way: the body for a row of the sample, or for a swipe, and the score in an answer."""

    server: str
    protocol: str
    target: str  # with {model} where its name stands
    body: Callable[[ApiHome, int], bytes]
    score: Callable[[bytes], float] | None  # None where an answer means nothing
    body_of_swipe: Callable[[Contract, Swipe], bytes] | None = None  # None where features come ready-made


@dataclass(frozen=True)
class Running:
    """A server that is ready."""

    port: int
    grpc_port: int
    pid: int
    seconds: float  # from its start until it was ready


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as any_port:
        any_port.bind((HOST, 0))
        return int(any_port.getsockname()[1])


def _tandem(home: ApiHome, bento: BuiltBento, store: str, port: int, grpc_port: int) -> Command:
    arguments, environment = serve_command(bento, home.settings(store), port)
    return arguments, environment | {"TANDEM_GRPC_PORT": str(grpc_port)}


def _bare(home: ApiHome, bento: BuiltBento, store: str, port: int, _: int) -> Command:
    settings = {"TANDEM_ONLINE_STORE": home.settings(store).online, "TANDEM_MODEL_FOLDER": str(bento.model_folder)}
    return [sys.executable, "-m", "benchmarks.api_bare", str(port)], os.environ | settings


def _mlflow(model: Callable[[ApiHome], Path]) -> StartCommand:
    return lambda home, _, __, port, ___: _mlflow_command(model(home), port)


def _mlflow_command(model: Path, port: int) -> Command:
    arguments = ["models", "serve", "-m", str(model), "-p", str(port), "-h", HOST, "--env-manager", "local"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it starts uvicorn by name
    return [sys.executable, "-m", "mlflow", *arguments], os.environ | QUIET | {"PATH": path}


def _null(_: ApiHome, __: BuiltBento, ___: str, port: int, ____: int) -> Command:
    return [sys.executable, "-m", "benchmarks.api_null", str(port)], dict(os.environ)


SERVERS = {
    "tandem": Server(_tandem, "/readyz"),
    "bare": Server(_bare, "/readyz"),
    "mlflow": Server(_mlflow(lambda home: home.mlflow_by_name), "/ping", looks_up=False),
    "mlflow-tensors": Server(_mlflow(lambda home: home.mlflow_tensors), "/ping", looks_up=False),
    NULL: Server(_null, "/", looks_up=False),
}


# --- the systems ----------------------------------------------------------------------------------------------------

INFER = "/v2/models/{model}/infer"
SYSTEMS = {
    "tandem-rest": System("tandem", "http", "/predict", by_key, of_json, swipe_in_json),
    "tandem-grpc": System(
        "tandem",
        "grpc",
        f"/{SERVICE}/ModelInfer",
        lambda home, row: in_grpc(home.model, tensors_of_key(home, row)),
        of_grpc,
        lambda contract, swipe: in_grpc(contract.model, tensors_of_swipe(contract, swipe)),
    ),
    "tandem-oip": System(
        "tandem",
        "http",
        INFER,
        lambda home, row: in_rest(tensors_of_key(home, row)),
        of_rest,
        lambda contract, swipe: in_rest(tensors_of_swipe(contract, swipe)),
    ),
    "mlflow": System("mlflow", "http", "/invocations", by_name, of_mlflow),
    "mlflow-tensors": System("mlflow-tensors", "http", "/invocations", by_tensors, of_mlflow_tensors),
    "bare": System("bare", "http", "/predict", by_key, of_json, swipe_in_json),
    NULL: System(NULL, "http", "/predict", by_key, None),
}


def requests_of(home: ApiHome, system: str, store: str) -> Requests:
    """Return what a system on a store is asked: the rows of the sample in turn, or swipes that nobody asked about."""
    path, write = home.folder / f"{system}-{store}.requests", SYSTEMS[system].body_of_swipe
    swipes = home.swipes(store) if write else None
    if write and swipes:
        return AskedOnce(swipes, home.histories(store), home.scorer, partial(write, home.contract), path)
    write_bodies(path, [SYSTEMS[system].body(home, row) for row in range(len(home.sample.keys))])
    return Repeated(str(path), home.sample.scores.tolist())


@contextmanager
def started(home: ApiHome, bento: BuiltBento, server: str, store: str) -> Iterator[Running]:
    """Start a server; give what is known of it once it is ready."""
    port, grpc_port = free_port(), free_port()
    command, environment = SERVERS[server].command(home, bento, store, port, grpc_port)
    log = home.folder / f"{server}-{store}.log"
    with serving(command, environment, log, lambda: _is_ready(port, SERVERS[server].ready)) as (pid, seconds):
        yield Running(port, grpc_port, pid, seconds)


def _is_ready(port: int, path: str) -> bool:
    connection = HTTPConnection(HOST, port, timeout=READY_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
