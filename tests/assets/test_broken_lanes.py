"""The proof over both stores and every protocol, and each part of the real-time lane broken on purpose, for real.

A broken Bento is a copy of the good one with other code or another model file in it. It also lies about its sha256, so
that nothing but the scores can give it away.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import numpy_helper
from pydantic import SecretStr

from assets.parity.replay import replay
from assets.parity.report import ParityReport
from assets.resources import Backends
from backends.nights import Published
from backends.online_store import open_store
from backends.settings import Settings
from bento.building.build import BuiltBento, build_bento
from bento.client import ApiClient
from bento.guard.keys import new_key
from bento.lineage import MODEL_FILE, Lineage
from models.contract import METADATA_KEY, CategoryFeature, Contract
from models.declaration import Declaration
from models.encoding import Encoded, encode_arrow
from models.errors import ServiceUnreachableError
from models.scoring import Scorer, sha256_of
from tests.backends.nights import LAX, POPULATION, customers, publish, with_column, write_files
from tests.certificates import self_signed
from tests.lives import TINY, changed, declare
from tests.redis_server import redis_server
from tests.serving import free_port, running
from tests.tiny_model import FEATURES, tiny_contract, tiny_onnx

CUSTOMERS = 60  # all of them are asked
FOLLOWS_SECONDS = 60.0  # on a busy machine
BOOLEAN = CategoryFeature(kind="category", values=("true", "false"), missing=True)
CONTRACT = tiny_contract(features=FEATURES | {"channel": BOOLEAN})
GOOD = tiny_onnx(CONTRACT)
LINEAGE = Lineage(model="tiny", version="3", sha256=sha256_of(GOOD))


@dataclass(frozen=True)
class Night:
    """A published night of the tiny model, its Bento, and the population before and after it changed."""

    settings: Settings
    declaration: Declaration
    bento: BuiltBento
    published: Published
    before: pa.Table
    scored: pa.Table

    def replay(self, settings: Settings) -> ParityReport:
        """Ask the settings' service for all customers."""
        with Backends(self.settings).lakehouse() as lake:
            return replay(lake, self.declaration, settings, CUSTOMERS)

    def load(
        self,
        store: str,
        table: pa.Table | None = None,
        contract: Contract = CONTRACT,
        spoil: Callable[[Encoded], None] = lambda _: None,
        snapshot: str = "",
    ) -> str:
        """Fill a store with the scored customers, or with others, and say that they are of a snapshot.

        Return the generation's name.
        """
        table = self.scored if table is None else table
        rows = encode_arrow(contract, table)
        spoil(rows)
        batch = table["customer_id"].to_numpy(), rows, np.full(len(rows), np.datetime64("now", "ms"))
        facts = {"source_snapshot": snapshot or str(self.published.source.id)}
        return open_store(store, "tiny").load(contract, [batch], facts).generation


@dataclass(frozen=True)
class Lane:
    """A running service of the good Bento, how it is called, and its store."""

    night: Night
    settings: Settings
    store: str

    def load(self, **changes: Any) -> None:
        """Fill the store as `Night.load` does, and wait until the service has seen it."""
        generation = self.night.load(self.store, **changes)
        with ApiClient(self.settings.api_url, key=self.settings.api_key) as client:
            deadline = time.monotonic() + FOLLOWS_SECONDS
            while client.lineage()["online_features"]["generation"] != generation:
                assert time.monotonic() < deadline, f"The service does not follow to {generation}."
                time.sleep(0.02)

    def replay(self) -> ParityReport:
        """Ask for all customers."""
        return self.night.replay(self.settings)


def population(seed: int) -> pa.Table:
    """Return customers whose columns have types that JSON and tensors have not: decimals, NaN, booleans."""
    table, rng = customers(CUSTOMERS, seed=seed), np.random.default_rng(seed)
    cents, ages = rng.integers(-(10**6), 10**6, CUSTOMERS).tolist(), rng.uniform(16, 110, CUSTOMERS)
    ages[rng.random(CUSTOMERS) < 0.1] = np.nan
    table = with_column(table, "balance", [Decimal(number) / 100 for number in cents])
    table = with_column(table, "age_years", ages)
    return with_column(table, "channel", [[True, False, None][i] for i in rng.integers(0, 3, CUSTOMERS)])


@pytest.fixture(scope="module")
def night(tmp_path_factory) -> Night:
    folder = tmp_path_factory.mktemp("lanes")
    settings = Settings(home=folder / "home", models=folder / "models", threads=2)
    declaration = declare(settings, TINY, features={"channel": BOOLEAN.model_dump()})
    before, scored = population(seed=1), population(seed=2)
    with Backends(settings).lakehouse() as lake:
        write_files(lake, POPULATION, [scored])
        published = publish(lake, limits=LAX, scorer=Scorer(GOOD))
    bento = build_bento(GOOD, LINEAGE, settings.bentoml_home, {})
    return Night(settings, declaration, bento, published, before, scored)


@pytest.fixture(scope="module", params=["lmdb", "redis"])
def store(request, tmp_path_factory) -> Iterator[str]:
    if request.param == "lmdb":
        yield f"lmdb://{tmp_path_factory.mktemp('online')}"
    else:
        with redis_server() as redis:
            yield redis.uri()


@pytest.fixture(scope="module")
def lane(night, store, tmp_path_factory) -> Iterator[Lane]:
    """Serve the good Bento from a store that tests may spoil, over every protocol; with Redis by key and TLS alone."""
    serving = changed(night.settings, online_store=store, grpc_port=free_port())
    calling = night.settings
    night.load(store)
    with pytest.MonkeyPatch.context() as patch:
        if store.startswith("redis"):
            folder, (key, line) = tmp_path_factory.mktemp("keys"), new_key("parity")
            (folder / "keys").write_text(f"{line}\n")
            private, certificate = self_signed(folder)
            patch.setenv("SSL_CERT_FILE", str(certificate))
            serving = changed(serving, api_keys_file=folder / "keys", tls_key=private, tls_certificate=certificate)
            calling = changed(calling, api_key=SecretStr(key))
        with running(night.bento, serving, free_port()) as url:
            yield Lane(night, changed(calling, api_url=url), store)


@pytest.fixture
def broken(night, tmp_path) -> Callable[..., object]:
    """Serve a copy of the Bento that `break_it` has changed, from a store that was packed for `contract`."""

    @contextmanager
    def serve(break_it: Callable[[Path], None], contract: Contract = CONTRACT) -> Iterator[Settings]:
        copy = replace(night.bento, path=tmp_path / "bento")
        shutil.copytree(night.bento.path, copy.path)
        break_it(copy.path / "src")
        store = f"lmdb://{tmp_path / 'online'}"
        night.load(store, contract=contract)
        with running(copy, changed(night.settings, online_store=store), free_port()) as url:
            yield changed(night.settings, api_url=url)

    return serve


# --- nothing is broken ----------------------------------------------------------------------------------------------


def test_every_protocol_gives_every_customer_the_bits_in_gold(lane):
    lane.load()
    report = lane.replay()
    assert report.problems == []
    assert [(one.protocol, one.compared, one.disagreements) for one in report.replayed] == [
        (protocol, 2 * CUSTOMERS, []) for protocol in ("POST /predict", "POST /predict_many", "OIP REST", "OIP gRPC")
    ]
    assert report.served["online_store"] == lane.store.partition("://")[0]


@pytest.mark.parametrize("store", ["redis"], indirect=True)
def test_a_caller_without_the_key_is_told_so(night, lane):
    with pytest.raises(ServiceUnreachableError, match="no key of this service"):
        night.replay(changed(lane.settings, api_key=SecretStr("")))


# --- the store ------------------------------------------------------------------------------------------------------


def flip_a_bit(rows: Encoded) -> None:
    rows.numbers.view(np.int32)[7, 2] ^= 1 << 20


def move_a_category(rows: Encoded) -> None:
    rows.categories[7, 0] = (rows.categories[7, 0] + 1) % 4


def swap_two_customers(rows: Encoded) -> None:
    rows.numbers[[7, 8]], rows.categories[[7, 8]] = rows.numbers[[8, 7]], rows.categories[[8, 7]]


@pytest.mark.parametrize(
    ("spoil", "spoiled"), [(flip_a_bit, {7}), (move_a_category, {7}), (swap_two_customers, {7, 8})]
)
def test_a_vector_that_is_not_the_scored_one_is_found(lane, spoil, spoiled):
    lane.load(spoil=spoil)
    report = lane.replay()
    assert {found.key for found in report.disagreements} == spoiled
    assert len(report.disagreements) == 4 * len(spoiled)  # each protocol sees it, by key alone
    (problem,) = report.problems
    assert problem.endswith("it is the online store's features: materialize the online features.")


def test_a_generation_of_yesterday_that_says_it_is_of_today_is_found(lane):
    lane.load(table=lane.night.before)
    report = lane.replay()
    assert len({found.key for found in report.disagreements}) > CUSTOMERS / 2
    (problem,) = report.problems
    assert "materialize the online features" in problem


def test_a_generation_of_yesterday_is_named(lane):
    lane.load(table=lane.night.before, snapshot="4711")
    assert lane.replay().problems[0].startswith("The online features come from population snapshot 4711, ")


def test_vectors_for_another_contract_are_refused_and_say_why(lane, monkeypatch):
    monkeypatch.setattr("assets.parity.wires.PAUSE_SECONDS", 0)
    lane.load(contract=swapped_words())
    report = lane.replay()
    assert {found.kind for found in report.disagreements} == {"refusals"}
    assert len(report.disagreements) == 4 * CUSTOMERS
    assert f"were packed for contract {swapped_words().fingerprint.hex()}" in report.problems[0]


# --- the encoder ----------------------------------------------------------------------------------------------------


# What is put behind the right encoder of the shipped module.
SWAPPED_CODES = """

_right = encode_rows


def encode_rows(contract, given):
    rows = _right(contract, given)
    rows.categories[:, 0] = np.array([1, 0, 2, 3], np.int32)[rows.categories[:, 0]]
    return rows
"""
ROUNDED = """

_right = encode_rows


def encode_rows(contract, given):
    rows = _right(contract, given)
    return Encoded(np.round(rows.numbers, 3), rows.categories)
"""


@pytest.mark.parametrize("mistake", [SWAPPED_CODES, ROUNDED], ids=["codes", "rounded"])
def test_an_encoder_with_a_mistake_is_found(night, broken, mistake):
    def break_it(source: Path) -> None:
        with (source / "models" / "encoding.py").open("a") as code:
            code.write(mistake)

    with broken(break_it) as settings:
        report = night.replay(settings)
    assert {found.asked_by for found in report.disagreements} == {"features"}
    (problem,) = report.problems
    assert problem.endswith("so the service encodes otherwise: build its Bento again and deploy it.")


# --- the contract and the model file --------------------------------------------------------------------------------


def swapped_words() -> Contract:
    plan = CONTRACT.categories["plan"].model_copy(update={"values": ("plus", "basic", "pro")})
    return tiny_contract(features=CONTRACT.features | {"plan": plan})


def reordered_numbers() -> Contract:
    first, second, *others = CONTRACT.features
    return tiny_contract(features={name: CONTRACT.features[name] for name in (second, first, *others)})


def with_contract(contract: Contract) -> bytes:
    model = onnx.load_model_from_string(GOOD)
    (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    entry.value = contract.model_dump_json()
    return model.SerializeToString()


def with_a_nudged_weight() -> bytes:
    model = onnx.load_model_from_string(GOOD)
    (weights,) = [tensor for tensor in model.graph.initializer if tensor.name == "code_weights"]
    nudged = numpy_helper.to_array(weights).copy()
    nudged[0] += 1e-3
    weights.CopyFrom(numpy_helper.from_array(nudged, weights.name))
    return model.SerializeToString()


def put(file: bytes, lies: bool) -> Callable[[Path], None]:
    """Exchange the model file; the service then tells its sha256, or that of the good one."""

    def break_it(source: Path) -> None:
        (source / "model" / MODEL_FILE).write_bytes(file)
        if lies:
            with (source / "models" / "scoring.py").open("a") as code:
                code.write(f'\n\ndef sha256_of(_):\n    return "{LINEAGE.sha256}"\n')
        else:
            LINEAGE.model_copy(update={"sha256": sha256_of(file)}).write(source / "model")

    return break_it


@pytest.mark.parametrize("contract", [swapped_words(), reordered_numbers()], ids=["words", "order"])
def test_a_contract_with_a_mistake_is_found_by_the_scores_alone(night, broken, contract):
    assert contract.fingerprint != CONTRACT.fingerprint
    with broken(put(with_contract(contract), lies=True), contract) as settings:
        report = night.replay(settings)
    assert report.served_sha256 == LINEAGE.sha256
    assert {found.kind for found in report.disagreements} == {"scores"}
    assert {found.asked_by for found in report.disagreements} == {"key", "features"}
    (problem,) = report.problems
    assert problem.endswith("so it is the model file or what computes it: deploy its Bento again.")


def test_another_threshold_is_found_by_the_decisions(night, broken):
    with broken(put(with_contract(CONTRACT.model_copy(update={"decision_threshold": 0.7})), lies=True)) as settings:
        report = night.replay(settings)
    assert {found.kind for found in report.disagreements} == {"decisions"}


def test_a_nudged_weight_is_found_by_the_scores_alone(night, broken):
    with broken(put(with_a_nudged_weight(), lies=True)) as settings:
        report = night.replay(settings)
    assert {found.kind for found in report.disagreements} == {"scores"}
    basic = night.scored.filter(pa.compute.equal(night.scored["plan"], "basic"))["customer_id"].to_pylist()
    assert {found.key for found in report.disagreements} <= set(basic)
    assert report.problems[0].endswith("so it is the model file or what computes it: deploy its Bento again.")


def test_an_honest_service_of_another_file_is_named(night, broken):
    file = with_a_nudged_weight()
    with broken(put(file, lies=False)) as settings:
        report = night.replay(settings)
    assert len(report.disagreements) == report.compared == 6 * CUSTOMERS
    assert {found.kind for found in report.disagreements} == {"files", "scores"}
    assert report.problems[0].startswith(f"The API serves version 3 ({sha256_of(file)[:12]}), the newest night was")
