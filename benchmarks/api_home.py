"""What the real-time lane is measured on: a network that was really trained, its Bento, and stores of its customers.

Everything is made once and found again by the next run; deleting the folder is a clean start. No lake is needed: the
demo's customers are encoded and loaded as they are made, and are the same on any day.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from backends.online_store import Batch, OnlineStore, open_store
from backends.settings import ROOT, Settings
from benchmarks.api_wires import HOST
from benchmarks.batch_home import EXAMPLE_ROWS, MODEL, SEED, network
from benchmarks.processes import serving
from bento.building.build import BuiltBento, build_bento
from bento.lineage import Lineage
from demo.population import active_customers, churn_examples, customer_chunks, last_labelled_month
from models.contract import Contract
from models.declaration import load_declaration
from models.encoding import Encoded, encode_arrow
from models.errors import TandemError
from models.scoring import Scorer, Scores

DAY = date(2026, 11, 1)  # on which the customers stand
SAMPLE_ROWS = 50_000  # customers that are asked for
LMDB, REDIS, NO_STORE = "lmdb", "redis", "none"
STORES = (LMDB, REDIS)
PROVED_ROWS = 1000  # that a store which is found is compared with
LONGEST_KEPT = np.timedelta64(24, "h")  # half of what the churn model takes for stale


@dataclass(frozen=True)
class Sample:
    """Some customers from all over the population, in no order: what the store has of them, and their right scores."""

    keys: npt.NDArray[np.int64]
    rows: Encoded
    scores: Scores
    values: list[dict[str, Any]]  # as they are in the lake


@dataclass(frozen=True)
class ApiHome:
    """The folder, where in it what is, and how many customers there are. This run's Redis listens on `redis_port`."""

    folder: Path
    rows: int
    redis_port: int

    def settings(self, store: str) -> Settings:
        """Return the settings of a service on a store."""
        places = {LMDB: f"lmdb://{self.folder}/online", REDIS: f"redis://{HOST}:{self.redis_port}/0"}
        return Settings(home=self.folder, online_store=places[store])

    def store(self, store: str) -> OnlineStore:
        """Open one of the two stores."""
        return open_store(self.settings(store).online, MODEL)

    @property
    def onnx(self) -> Path:
        """The network, int8 as it is served."""
        return self.folder / f"{MODEL}.onnx"

    @property
    def mlflow_by_name(self) -> Path:
        """The same file as an MLflow model that takes features by name."""
        return self.folder / "by_name.mlflow"

    @property
    def mlflow_tensors(self) -> Path:
        """And as one that takes the graph's inputs."""
        return self.folder / "tensors.mlflow"

    @property
    def customers(self) -> Path:
        """The customers that are asked for."""
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
        """The customers that are asked for: the same ones in every run."""
        table = pq.read_table(self.customers)
        rows = encode_arrow(self.contract, table)
        return Sample(table[self.contract.entity_key].to_numpy(), rows, self.scorer.score(rows), table.to_pylist())


def prepare(home: ApiHome, stores: Sequence[str]) -> BuiltBento:
    """Make what is missing, and return the Bento of today's code. Redis must be running if it is among the stores."""
    home.folder.mkdir(parents=True, exist_ok=True)
    if not home.onnx.exists():
        home.onnx.write_bytes(_network())
    if not home.customers.exists():
        pq.write_table(_drawn(home.rows), home.customers)
    for store in map(home.store, stores):
        if not _is_loaded(home, store):
            store.load(home.contract, _batches(home), {"source_snapshot": str(DAY)})
    if not home.mlflow_by_name.exists() or not home.mlflow_tensors.exists():
        from benchmarks.api_mlflow import save_by_name, save_tensors  # seconds of imports

        shutil.rmtree(home.mlflow_by_name, ignore_errors=True)
        shutil.rmtree(home.mlflow_tensors, ignore_errors=True)
        save_by_name(home.onnx, home.mlflow_by_name)
        save_tensors(home.onnx, home.mlflow_tensors)
    lineage, bentos = Lineage(model=MODEL, version="1", sha256=home.scorer.sha256), home.settings(LMDB).bentoml_home
    shutil.rmtree(bentos / "serving", ignore_errors=True)  # what earlier runs' services left, one folder a port
    return build_bento(home.onnx.read_bytes(), lineage, bentos, {})


def _network() -> bytes:
    declared, month = load_declaration(ROOT / "models" / f"{MODEL}.yaml"), last_labelled_month(DAY)
    examples = [churn_examples(chunk, seed=SEED, last_month=month) for chunk in customer_chunks(EXAMPLE_ROWS)]
    return network(declared, pa.concat_tables(examples), snapshot=str(DAY))["int8"]


def _customers(rows: int) -> Iterator[pa.Table]:
    return (active_customers(chunk, seed=SEED, as_of=DAY) for chunk in customer_chunks(rows))


def _drawn(rows: int) -> pa.Table:
    """Return as many customers from each part of the population, in no order."""
    random, share = np.random.default_rng(SEED), min(1.0, SAMPLE_ROWS / rows)
    parts = [table.take(random.permutation(len(table))[: round(share * len(table))]) for table in _customers(rows)]
    drawn = pa.concat_tables(parts)
    return drawn.take(random.permutation(len(drawn)))


def _batches(home: ApiHome) -> Iterator[Batch]:
    """Encode everybody, as of now: nothing is stale."""
    now = _now()
    for table in _customers(home.rows):
        keys = table[home.contract.entity_key].to_numpy()
        yield keys, encode_arrow(home.contract, table), np.full(len(keys), now)


def _now() -> np.datetime64:
    return np.datetime64(time.time_ns() // 1_000_000, "ms")


def _is_loaded(home: ApiHome, store: OnlineStore) -> bool:
    """Whether a store has this population, packed for this network and as today's code packs it."""
    proved, sample = slice(PROVED_ROWS), home.sample
    try:
        found = store.get_many(home.contract, sample.keys[proved].tolist())
        loaded = int(store.describe()["rows"])
    except TandemError:
        return False
    same = np.array_equal(found.rows.categories, sample.rows.categories[proved])
    fresh = bool((found.event_times > _now() - LONGEST_KEPT).all())
    return same and fresh and loaded == home.rows


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
