"""What `make bench-api` measures: how each server is started, how each system is asked, and what it answers.

A server has one worker. Three of the systems are one server: the service speaks three protocols.
"""

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np

from backends.settings import QUIET
from benchmarks.api_home import NO_STORE, ApiHome
from benchmarks.api_load import write_bodies
from benchmarks.api_wires import HOST
from benchmarks.batch_home import MODEL
from benchmarks.processes import serving
from bento.building.build import BuiltBento
from bento.open_inference.messages import SERVICE, ModelInferRequest, ModelInferResponse
from bento.serve import serve_command
from models.contract import CATEGORIES, NUMBERS

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
    """A server asked in one way: the body for a customer of the sample, and the score in an answer."""

    server: str
    protocol: str
    target: str
    body: Callable[[ApiHome, int], bytes]
    score: Callable[[bytes], float] | None  # None where an answer means nothing


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


# --- what is asked --------------------------------------------------------------------------------------------------


def _key(home: ApiHome, row: int) -> int:
    return int(home.sample.keys[row])


def _by_key(home: ApiHome, row: int) -> bytes:
    return json.dumps({home.contract.entity_key: _key(home, row)}).encode()


def _oip_rest(home: ApiHome, row: int) -> bytes:
    key = {"name": home.contract.entity_key, "shape": [1], "datatype": "INT64", "data": [_key(home, row)]}
    return json.dumps({"inputs": [key]}).encode()


def _oip_grpc(home: ApiHome, row: int) -> bytes:
    request = ModelInferRequest(model_name=MODEL)
    key = request.inputs.add(name=home.contract.entity_key, datatype="INT64", shape=[1])
    key.contents.int64_contents.append(_key(home, row))
    return bytes(request.SerializeToString())


def _by_name(home: ApiHome, row: int) -> bytes:
    """Send the row as the lake has it: numbers and texts."""
    customer, names = home.sample.values[row], list(home.contract.features)
    values = [float(value) if isinstance(value, int) else value for value in map(customer.get, names)]
    return json.dumps({"dataframe_split": {"columns": names, "data": [values]}}).encode()


def _tensors(home: ApiHome, row: int) -> bytes:
    """Send what the graph takes: the encoding is done already."""
    rows = home.sample.rows[row : row + 1]
    return json.dumps({"inputs": {NUMBERS: rows.numbers.tolist(), CATEGORIES: rows.categories.tolist()}}).encode()


# --- and answered ---------------------------------------------------------------------------------------------------


def _in_json(answer: bytes) -> float:
    return float(json.loads(answer)["probability"])


def _in_oip_rest(answer: bytes) -> float:
    outputs = {output["name"]: output for output in json.loads(answer)["outputs"]}
    return float(outputs[f"{MODEL}_probability"]["data"][0])


def _in_oip_grpc(answer: bytes) -> float:
    response = ModelInferResponse.FromString(answer)
    names = [output.name for output in response.outputs]
    at = names.index(f"{MODEL}_probability")
    if response.raw_output_contents:
        return float(np.frombuffer(response.raw_output_contents[at], "<f4")[0])
    return float(response.outputs[at].contents.fp32_contents[0])


def _in_mlflow(answer: bytes) -> float:
    return float(json.loads(answer)["predictions"][0])


def _in_mlflow_tensors(answer: bytes) -> float:
    return float(json.loads(answer)["predictions"][f"{MODEL}_probability"][0])


INFER = f"/v2/models/{MODEL}/infer"
SYSTEMS = {
    "tandem-rest": System("tandem", "http", "/predict", _by_key, _in_json),
    "tandem-grpc": System("tandem", "grpc", f"/{SERVICE}/ModelInfer", _oip_grpc, _in_oip_grpc),
    "tandem-oip": System("tandem", "http", INFER, _oip_rest, _in_oip_rest),
    "mlflow": System("mlflow", "http", "/invocations", _by_name, _in_mlflow),
    "mlflow-tensors": System("mlflow-tensors", "http", "/invocations", _tensors, _in_mlflow_tensors),
    "bare": System("bare", "http", "/predict", _by_key, _in_json),
    NULL: System(NULL, "http", "/predict", _by_key, None),
}


def write_requests(home: ApiHome, system: str) -> str:
    """Write a system's requests, one for each customer of the sample; return the file's path."""
    path = home.folder / f"{system}.requests"
    write_bodies(path, [SYSTEMS[system].body(home, row) for row in range(len(home.sample.keys))])
    return str(path)


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
