"""What the real-time lane is measured on: a network that was really trained, its Bento, and stores that are loaded.

Everything is made once and found again by the next run; deleting the folder is a clean start. Here is what every home
has; whom its model is about is in `api_customers` (churn) and `api_swipes` (fraud).
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from backends.histories import HistoryStore, open_histories
from backends.settings import Settings
from benchmarks.api_requests import Swipes
from benchmarks.api_wires import HOST, PATIENCE_SECONDS
from benchmarks.processes import serving
from bento.building.build import BuiltBento, build_bento
from bento.lineage import Lineage
from models.contract import Contract
from models.encoding import Encoded, encode_arrow
from models.scoring import Scorer, Scores

SAMPLE_ROWS = 50_000  # that are asked for
LMDB, REDIS, NO_STORE = "lmdb", "redis", "none"
STORES = (LMDB, REDIS)


@dataclass(frozen=True)
class Sample:
    """Some rows of the lake, in no order, with all features: as they are, as they are encoded, their right scores."""

    keys: npt.NDArray[np.int64]  # of their entities
    rows: Encoded
    scores: Scores
    values: list[dict[str, Any]]


@dataclass(frozen=True)
class ApiHome(ABC):
    """The folder, where in it what is, and how many rows there are. This run's Redis listens on `redis_port`."""

    folder: Path
    rows: int
    redis_port: int
    model: ClassVar[str]
    what: ClassVar[str]  # what a row is

    @abstractmethod
    def train(self) -> bytes:
        """Return the network's file, int8 as it is served."""

    @abstractmethod
    def draw(self) -> pa.Table:
        """Return the rows of the sample."""

    @abstractmethod
    def load(self, stores: Sequence[str]) -> None:
        """Load the stores, where that is needed."""

    def swipes(self, store: str) -> Swipes | None:  # noqa: ARG002
        """Return what happens next, where a store is asked about that and not for what it has."""
        return None

    def histories(self, store: str) -> HistoryStore:
        """Open the histories in one of the two stores, for ourselves: with more patience than a service has."""
        patience = f"?socket_timeout={PATIENCE_SECONDS}" if store == REDIS else ""
        return open_histories(f"{self.settings(store).online}{patience}", self.contract)

    def settings(self, store: str) -> Settings:
        """Return the settings of a service on a store."""
        places = {LMDB: f"lmdb://{self.folder}/online", REDIS: f"redis://{HOST}:{self.redis_port}/0"}
        return Settings(home=self.folder, online_store=places[store])

    @property
    def onnx(self) -> Path:
        """The network."""
        return self.folder / f"{self.model}.onnx"

    @property
    def mlflow_by_name(self) -> Path:
        """The same file as an MLflow model that takes features by name."""
        return self.folder / "by_name.mlflow"

    @property
    def mlflow_tensors(self) -> Path:
        """And as one that takes the graph's inputs."""
        return self.folder / "tensors.mlflow"

    @property
    def drawn(self) -> Path:
        """The sample."""
        return self.folder / f"{SAMPLE_ROWS} of {self.rows}.parquet"

    @cached_property
    def scorer(self) -> Scorer:
        """The network, loaded."""
        return Scorer.from_file(self.onnx)

    @property
    def contract(self) -> Contract:
        """The contract inside the network's file."""
        return self.scorer.contract

    @cached_property
    def sample(self) -> Sample:
        """The rows that are asked for: the same ones in every run."""
        table = pq.read_table(self.drawn)
        rows = encode_arrow(self.contract, table)
        return Sample(table[self.contract.entity_key].to_numpy(), rows, self.scorer.score(rows), table.to_pylist())


def prepare(home: ApiHome, stores: Sequence[str]) -> BuiltBento:
    """Make what is missing, and return the Bento of today's code. Redis must be running if it is among the stores."""
    home.folder.mkdir(parents=True, exist_ok=True)
    if not home.onnx.exists():
        with whole(home.onnx) as unfinished:
            unfinished.write_bytes(home.train())
    if not home.drawn.exists():
        with whole(home.drawn) as unfinished:
            pq.write_table(home.draw(), unfinished)
    home.load(stores)
    if not home.mlflow_by_name.exists() or not home.mlflow_tensors.exists():
        from benchmarks.api_mlflow import save_by_name, save_tensors  # seconds of imports

        for folder, save in ((home.mlflow_by_name, save_by_name), (home.mlflow_tensors, save_tensors)):
            shutil.rmtree(folder, ignore_errors=True)
            with whole(folder) as unfinished:
                save(home.onnx, unfinished)
    lineage, bentos = (
        Lineage(model=home.model, version="1", sha256=home.scorer.sha256),
        home.settings(LMDB).bentoml_home,
    )
    shutil.rmtree(bentos / "serving", ignore_errors=True)  # what earlier runs' services left, one folder a port
    return build_bento(home.onnx.read_bytes(), lineage, bentos, {})


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield where to write a file or a folder, which is at its place when the body has ended: all of it, or nothing."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # a folder that an earlier run was stopped in
    yield unfinished
    unfinished.replace(path)


@contextmanager
def redis_running(home: ApiHome) -> Iterator[None]:
    """Run a Redis of the home's own on loopback; what was loaded before is there again."""
    import redis

    home.folder.mkdir(parents=True, exist_ok=True)
    command = ["redis-server", "--port", str(home.redis_port), "--bind", HOST, "--dir", str(home.folder), "--save", ""]
    client = redis.Redis(port=home.redis_port)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False

    with client, serving(command, {}, home.folder / "redis.log", answers):
        yield
        client.save()  # the next run finds it
