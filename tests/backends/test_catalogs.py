"""The same nights on the same customers, wherever the catalog and the files are: real servers, by environment alone."""

import json
import re
import socket
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest

from backends.batch_scoring import count_share, score_and_publish
from backends.engines import LocalEngine
from backends.gold_tables import PARTITION
from backends.lakehouse import connection
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.connection import CommitUnknownError, catalog_properties
from backends.lakehouse.files import files_below
from backends.lakehouse.loading import Incoming, load, loading
from backends.lakehouse.publishing import write_whole
from backends.lakehouse.reading import partition_is
from backends.nights import Published, published_nights
from backends.scored_parts import score_share
from backends.settings import ROOT, Settings, without_secrets
from models.errors import AuditError, LakehouseError
from tests.backends.nights import (
    FRIDAY,
    POPULATION,
    PREDICTIONS,
    REJECTS,
    SATURDAY,
    customers,
    night,
    with_column,
    write_files,
)
from tests.postgres import ENCODED, PASSWORD, Postgres, postgres
from tests.processes import Server
from tests.relay import Relay, relay
from tests.s3 import KEY, REGION, SECRET, moto, s3_client, s3_properties
from tests.seaweed import Seaweed, seaweed
from tests.serving import free_port

pytestmark = pytest.mark.slow

WITHOUT_PLACE = ["source_file", "source_snapshot"]


@dataclass(frozen=True)
class Store:
    """A catalog and a storage: the environment that names them, and the servers behind."""

    environment: dict[str, str]
    servers: dict[str, Server]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def rest(tmp_path_factory) -> Iterator[Seaweed]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="module")
def s3(tmp_path_factory) -> Iterator[str]:
    with moto(tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint


def bucket(endpoint: str) -> str:
    """Make a new bucket; return its name."""
    client = s3_client(endpoint)
    name = f"lake{len(client.list_buckets()['Buckets'])}-files"
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    return name


def sqlite_and_s3(request) -> Store:
    endpoint = request.getfixturevalue("s3")
    place = {
        "TANDEM_WAREHOUSE": f"s3://{bucket(endpoint)}/a folder/lake",
        "TANDEM_CATALOG_PROPERTIES": json.dumps(s3_properties(endpoint)),
    }
    return Store(place, {})


def postgresql_and_files(request) -> Store:
    server = request.getfixturevalue("postgresql")
    return Store({"TANDEM_CATALOG_URI": server.new_database()}, {"catalog": server.server})


def postgresql_and_s3(request) -> Store:
    catalog, storage = request.getfixturevalue("postgresql"), request.getfixturevalue("rest")
    place = {
        "TANDEM_CATALOG_URI": catalog.new_database(),
        "TANDEM_WAREHOUSE": f"s3://{bucket(storage.storage)}",
        "TANDEM_CATALOG_PROPERTIES": json.dumps(s3_properties(storage.storage)),
    }
    return Store(place, {"catalog": catalog.server, "storage": storage.server})


def rest_and_s3(request) -> Store:
    server = request.getfixturevalue("rest")
    place = {
        "TANDEM_CATALOG_URI": server.catalog,
        "TANDEM_WAREHOUSE": server.new_warehouse(),
        "TANDEM_CATALOG_PROPERTIES": json.dumps(server.properties),
    }
    return Store(place, {"catalog": server.server})


def glue_and_s3(request) -> Store:
    endpoint = request.getfixturevalue("s3")
    glue = {"type": "glue", "glue.endpoint": endpoint, "glue.region": REGION}
    keys = {"glue.access-key-id": KEY, "glue.secret-access-key": SECRET, **s3_properties(endpoint)}
    place = {
        "TANDEM_WAREHOUSE": f"s3://{bucket(endpoint)}",
        "TANDEM_CATALOG_PROPERTIES": json.dumps({**glue, **keys}),
    }
    return Store(place, {})


STORES = [sqlite_and_s3, postgresql_and_files, postgresql_and_s3, rest_and_s3, glue_and_s3]
CATALOGS = [postgresql_and_files, rest_and_s3]
STORAGES = [sqlite_and_s3, rest_and_s3]


def on(stores):
    """Run a test on each of the stores."""
    return pytest.mark.parametrize("store", stores, indirect=True, ids=name_of)


def name_of(parameter) -> str:
    return getattr(parameter, "__name__", parameter)


@pytest.fixture
def store(request) -> Store:
    return request.param(request)


@pytest.fixture
def settings(store, tmp_path, monkeypatch) -> Settings:
    return by_environment(store.environment | {"TANDEM_HOME": str(tmp_path / "home")}, monkeypatch)


def by_environment(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings()


def population(rows: int = 4000) -> list[pa.Table]:
    """Return files of customers, one of whom has an age that the contract refuses."""
    first, second = customers(rows // 2), customers(rows - rows // 2, first_key=rows // 2)
    ages = second["age_years"].to_pylist()
    return [first, with_column(second, "age_years", [*ages[:-1], 111.0])]


def publish(lake: Lakehouse, engine: LocalEngine | None = None, **changes) -> Published:
    return score_and_publish(lake, engine or LocalEngine(2), night(**changes))


def rows(lake: Lakehouse, table: str = PREDICTIONS) -> pa.Table:
    return lake.read(table).sort_by([(PARTITION, "ascending"), ("customer_id", "ascending")])


def files(lake: Lakehouse, table: str = PREDICTIONS) -> set[str]:
    """Return the addresses of the data files that there are, whatever names them."""
    loaded = lake.load(table)
    return {file.address for file in files_below(loaded.io, f"{loaded.location()}/data")}


def branches(lake: Lakehouse) -> set[str]:
    return {name for name in lake.load(PREDICTIONS).refs() if name.startswith("audit_")}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> dict[str, pa.Table]:
    """Publish Friday and Saturday on the embedded default; return both tables' rows."""
    with Lakehouse.open(Settings(home=tmp_path_factory.mktemp("embedded"))) as lake:
        write_files(lake, POPULATION, population())
        for day in (FRIDAY, SATURDAY):
            publish(lake, scored_on=day)
        return {table: rows(lake, table) for table in (PREDICTIONS, REJECTS)}


@pytest.fixture
def filled(lake) -> Lakehouse:
    """A lake with a population and Friday's night."""
    write_files(lake, POPULATION, population())
    publish(lake, scored_on=FRIDAY)
    return lake


class Interrupted(LocalEngine):
    """An engine between whose maps something happens: before or after that of a function."""

    def __init__(self, mapped, happens, before=False):
        super().__init__(2)
        self.mapped, self.happens, self.before = mapped, happens, before

    def map(self, function, tasks):
        its_turn = function.func is self.mapped
        if its_turn and self.before:
            self.happens()
        results = super().map(function, tasks)
        if its_turn and not self.before:
            self.happens()
        return results


# --- the same nights ------------------------------------------------------------------------------------------------


@on(STORES)
def test_the_rows_are_those_of_the_embedded_default_and_a_rerun_changes_none(filled, embedded, settings):
    first, again = publish(filled), publish(filled)
    assert first.snapshot.id != again.snapshot.id
    with Lakehouse.open(settings) as another:
        assert rows(another).equals(embedded[PREDICTIONS])
        rejects = rows(another, REJECTS)
        assert rejects.drop_columns(WITHOUT_PLACE).equals(embedded[REJECTS].drop_columns(WITHOUT_PLACE))
        assert rejects.num_rows == 2
    assert branches(filled) == set()
    assert filled.location(PREDICTIONS).startswith(settings.lake)


@on([*CATALOGS, sqlite_and_s3])
def test_two_days_at_once_both_publish(filled, embedded, settings):
    meeting = threading.Barrier(2)

    class MeetingEngine(LocalEngine):
        def map(self, function, tasks):
            results = super().map(function, tasks)
            meeting.wait(120)  # all steps of the two nights begin at the same moments
            return results

    def score(day):
        with Lakehouse.open(settings) as lake:
            return publish(lake, MeetingEngine(1), scored_on=day)

    with ThreadPoolExecutor(2) as both:
        assert [done.report.rows for done in both.map(score, (FRIDAY, SATURDAY))] == [3999, 3999]
    assert rows(filled).equals(embedded[PREDICTIONS])
    assert branches(filled) == set()


@on(CATALOGS)
def test_a_failed_audit_leaves_main(filled, embedded):
    before = filled.snapshot(PREDICTIONS)
    write_files(filled, POPULATION, [with_column(customers(800), "balance", np.full(800, 9_999, np.float32))])
    with pytest.raises(AuditError, match="score shift") as caught:
        publish(filled)
    assert filled.snapshot(PREDICTIONS) == before
    assert branches(filled) == {caught.value.branch}
    write_files(filled, POPULATION, population())
    publish(filled)
    assert branches(filled) == set()
    assert rows(filled).equals(embedded[PREDICTIONS])


@on(STORAGES)
def test_the_parts_of_a_run_that_is_given_up_are_removed(filled):
    before = files(filled), files(filled, REJECTS)
    seen = []

    def give_up():
        seen.extend(files(filled) - before[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(filled, Interrupted(score_share, give_up))
    assert len(seen) == 2
    assert (files(filled), files(filled, REJECTS)) == before


@on(STORAGES)
def test_the_parts_of_attempts_that_were_given_up_are_removed(filled):
    class Twice(LocalEngine):
        def map(self, function, tasks):
            tasks = list(tasks)
            super().map(function, tasks)
            return super().map(function, tasks)

    publish(filled, Twice(2))
    named = {file.address for file in filled.plan(PREDICTIONS, where=partition_is(PARTITION, SATURDAY)).files}
    assert {address for address in files(filled) if f"{SATURDAY}" in address} == named
    assert len(named) == 2


# --- a connection that is lost --------------------------------------------------------------------------------------

MOMENTS = {
    "scoring": (score_share, True),
    "staging": (score_share, False),
    "audit": (count_share, True),
    "publishing": (count_share, False),
}
LOSSES = [
    *((postgresql_and_files, "catalog", moment) for moment in MOMENTS),
    *((postgresql_and_s3, "storage", moment) for moment in ("scoring", "staging", "audit")),
    (rest_and_s3, "catalog", "publishing"),
]


@pytest.mark.parametrize(
    ("store", "lost", "moment"), LOSSES, indirect=["store"], ids=lambda it: getattr(it, "__name__", it)
)
def test_a_connection_that_is_lost_costs_a_rerun_and_nothing_else(filled, embedded, store, settings, lost, moment):
    before, server = filled.snapshot(PREDICTIONS), store.servers[lost]
    try:
        with pytest.raises(LakehouseError, match="run again") as caught:
            publish(filled, Interrupted(MOMENTS[moment][0], server.kill, before=MOMENTS[moment][1]))
    finally:
        server.start()
    addresses = [without_secrets(settings.catalog), settings.lake]
    assert any(address in str(caught.value) for address in addresses)
    assert_no_secret(caught.value)
    assert filled.snapshot(PREDICTIONS) == before
    publish(filled)
    assert set(published_nights(filled, PREDICTIONS)) == {f"{FRIDAY}", f"{SATURDAY}"}
    assert rows(filled).equals(embedded[PREDICTIONS])
    assert branches(filled) == set()


def assert_no_secret(error: BaseException) -> None:
    """Neither the message nor the whole traceback says what nobody may see."""
    shown = "".join(traceback.format_exception(error))
    assert not [secret for secret in (SECRET, PASSWORD, ENCODED) if secret in shown]


def relayed(settings: Settings, line: Relay) -> Settings:
    """Return the settings with the catalog at the other end of a line."""
    uri = re.sub(r":\d+(?=/|$)", f":{line.port}", settings.catalog)
    return settings.model_copy(update={"catalog_uri": uri})


def write_population(lake: Lakehouse, files: list[pa.Table], before_the_commit: Callable[[], None]) -> None:
    with lake.parts(POPULATION, "", files[0].schema) as parts:
        written = [parts.write(position, file.to_batches())[0] for position, file in enumerate(files)]
        before_the_commit()
        write_whole(lake, POPULATION, written, {})


@pytest.mark.parametrize(
    ("store", "commit"),
    [(postgresql_and_files, b"COMMIT"), (rest_and_s3, b"add-snapshot")],
    indirect=["store"],
    ids=["postgresql", "rest"],
)
def test_the_files_of_a_commit_whose_answer_is_lost_are_kept(filled, settings, commit):
    """The catalog carried it out, so the table needs them."""
    with relay(urlsplit(settings.catalog).port) as line, Lakehouse.open(relayed(settings, line)) as far:
        with pytest.raises(CommitUnknownError, match="may have taken place") as caught:
            write_population(far, [customers(300), customers(200, first_key=300)], lambda: line.swallow(commit))
        assert_no_secret(caught.value)
    assert filled.read(POPULATION).num_rows == 500
    assert publish(filled).report.rows == 500


# --- a connection that never was ------------------------------------------------------------------------------------


@contextmanager
def silent_port() -> Iterator[int]:
    """A server that takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield door.getsockname()[1]


def refusal(settings: Settings) -> str:
    """Open the lake, which must fail; return what is said."""
    with pytest.raises(LakehouseError) as caught:
        Lakehouse.open(settings).snapshot(POPULATION)
    assert_no_secret(caught.value)
    return str(caught.value)


def test_a_catalog_that_is_not_there_is_named(tmp_path):
    port = free_port()
    said = refusal(Settings(home=tmp_path, catalog_uri=f"postgresql+psycopg://tandem:{ENCODED}@127.0.0.1:{port}/lake"))
    assert f"The Iceberg catalog at postgresql+psycopg://127.0.0.1:{port}/lake does not answer as it should" in said
    assert "TANDEM_CATALOG_URI" in said
    properties = {"credential": f"tandem:{SECRET}", "oauth2-server-uri": f"http://127.0.0.1:{port}/v1/oauth/tokens"}
    said = refusal(Settings(home=tmp_path, catalog_uri=f"http://127.0.0.1:{port}", catalog_properties=properties))
    assert f"The Iceberg catalog at http://127.0.0.1:{port} does not answer as it should" in said


def test_a_server_that_never_answers_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.2)
    with silent_port() as port:
        said = refusal(Settings(home=tmp_path, catalog_uri=f"http://127.0.0.1:{port}"))
        assert "Read timed out" in said
        properties = {**s3_properties(f"http://127.0.0.1:{port}"), "s3.request-timeout": "0.2"}
        settings = Settings(home=tmp_path, warehouse="s3://lake", catalog_properties=properties)
        with (
            Lakehouse.open(settings) as lake,
            pytest.raises(LakehouseError, match=r"s3://lake.* at http://127") as caught,
        ):
            lake.ensure_table(POPULATION, customers(1).schema)
        assert_no_secret(caught.value)


def test_a_database_is_not_waited_for_without_end_unless_its_address_says_so(tmp_path, postgresql):
    settings = Settings(home=tmp_path, catalog_uri=f"{postgresql.new_database()}?connect_timeout=600")
    with Lakehouse.open(settings) as lake:
        waits = lake.catalog.engine.url.query
    assert (waits["connect_timeout"], waits["tcp_user_timeout"], waits["keepalives_idle"]) == ("600", "60000", "30")


def test_a_wrong_password_and_a_wrong_token_are_refused_unseen(tmp_path, postgresql, rest):
    uri = postgresql.new_database().replace(ENCODED, f"{SECRET}%2F")
    assert "password authentication failed" in refusal(Settings(home=tmp_path, catalog_uri=uri))
    wrong = {"catalog_uri": rest.catalog, "warehouse": rest.new_warehouse()}
    assert "does not answer as it should: " in refusal(
        Settings(home=tmp_path, **wrong, catalog_properties={"token": f"{SECRET}-of-somebody-else"})
    )
    assert "does not answer as it should: " in refusal(
        Settings(
            home=tmp_path, **wrong, catalog_properties={**rest.properties, "credential": f"tandem-key:no-{SECRET}"}
        )
    )


def test_what_is_no_catalog_is_named(tmp_path, s3):
    assert "does not answer as it should" in refusal(Settings(home=tmp_path, catalog_uri=f"{s3}/no-catalog"))
    assert "does not answer as it should" in refusal(Settings(home=tmp_path, catalog_uri="mysterious://host/lake"))


def test_many_open_a_new_database_at_once(tmp_path, postgresql):
    settings, meeting = Settings(home=tmp_path, catalog_uri=postgresql.new_database()), threading.Barrier(8)

    def first(_):
        meeting.wait(120)
        with Lakehouse.open(settings) as lake:
            return lake.catalog.list_namespaces()

    with ThreadPoolExecutor(8) as many:
        assert list(many.map(first, range(8))) == [[]] * 8


# --- what pyiceberg is told -----------------------------------------------------------------------------------------


def test_pyicebergs_own_variables_are_heard_below_those_of_tandem(tmp_path, monkeypatch):
    for name, value in {
        "S3__ENDPOINT": "http://minio:9000",
        "S3__SECRET_ACCESS_KEY": SECRET,
        "TOKEN": "theirs",
    }.items():
        monkeypatch.setenv(f"PYICEBERG_CATALOG__TANDEM__{name}", value)
    monkeypatch.setenv("PYICEBERG_CATALOG__TANDEM__WAREHOUSE", "s3://lake")
    monkeypatch.setenv("TANDEM_CATALOG_PROPERTIES", '{"token": "ours"}')
    properties = catalog_properties(Settings(home=tmp_path))
    assert properties["s3.endpoint"] == "http://minio:9000"
    assert properties["s3.secret-access-key"] == SECRET
    assert (properties["token"], properties["warehouse"]) == ("ours", "s3://lake")
    monkeypatch.setenv("TANDEM_WAREHOUSE", "s3://ours")
    assert catalog_properties(Settings(home=tmp_path))["warehouse"] == "s3://ours"


@pytest.mark.parametrize(
    ("uri", "properties", "kind"),
    [
        ("", {}, "sql"),
        ("postgresql+psycopg://host/lake", {}, "sql"),
        ("https://catalog.example.com", {}, "rest"),
        ("", {"type": "glue"}, "glue"),
        ("thrift://hive:9083", {"type": "hive"}, "hive"),
    ],
)
def test_the_kind_of_catalog_is_that_of_its_address_unless_it_is_said(tmp_path, uri, properties, kind):
    told = catalog_properties(Settings(home=tmp_path, catalog_uri=uri, catalog_properties=properties))
    assert told["type"] == kind


def test_a_storage_of_ones_own_is_not_looked_for_at_amazon(tmp_path):
    settings = Settings(home=tmp_path, catalog_properties={"s3.endpoint": "http://minio:9000"})
    assert catalog_properties(settings)["s3.region"] == "us-east-1"
    assert "s3.region" not in catalog_properties(Settings(home=tmp_path))


EXAMPLES = re.findall(r"^## (.+?)\n.*?```sh\n(.+?)```", (ROOT / "docs" / "storage.md").read_text(), re.M | re.S)
KINDS = {"PostgreSQL": "sql", "S3": "sql", "An Iceberg REST catalog": "rest", "AWS Glue": "glue"}


@pytest.mark.parametrize(("heading", "example"), EXAMPLES, ids=[heading for heading, _ in EXAMPLES])
def test_the_examples_of_the_docs_say_what_they_mean(tmp_path, monkeypatch, heading, example):
    done = subprocess.run(["sh", "-ec", f"{example}\nenv -0"], capture_output=True, text=True, env={}, check=True)
    variables = dict(
        line.split("=", 1) for line in done.stdout.split("\0") if line.startswith(("TANDEM_", "PYICEBERG_"))
    )
    told = catalog_properties(by_environment(variables, monkeypatch))
    assert told["type"] == KINDS[heading.split(",")[0]]
    assert told["warehouse"] == variables["TANDEM_WAREHOUSE"]
    named = {name for name in variables if name.startswith("PYICEBERG_")}
    assert {variables[name] for name in named} <= set(map(str, told.values()))


def test_every_example_of_the_docs_is_looked_at():
    assert [heading.split(",")[0] for heading, _ in EXAMPLES] == list(KINDS)


@on([postgresql_and_files, rest_and_s3, glue_and_s3])
def test_tables_that_come_in_are_made_replaced_and_put_back_on_every_kind_of_catalog(lake, settings):
    old, new = pa.table({"id": [1, 2], "x": ["a", None]}), pa.table({"id": ["k"], "y": [1.5]})
    tables = ("silver.first", "silver.second")

    def incoming(rows: pa.Table) -> list[Incoming]:
        return [Incoming(table, rows.schema, rows.to_batches) for table in tables]

    def load_and_fail(rows: pa.Table, replace: bool) -> None:
        with loading(lake, incoming(rows), replace):
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        load_and_fail(old, replace=False)
    assert not any(lake.catalog.table_exists(table) for table in tables)
    with Lakehouse.open(settings) as faster:

        def overtaken() -> Iterator[pa.RecordBatch]:
            load(faster, incoming(old), replace=False)
            yield from new.to_batches()

        with pytest.raises(LakehouseError, match="made by somebody else in the same moment"):
            load(lake, [Incoming(tables[0], new.schema, overtaken)], replace=False)
    with pytest.raises(OSError, match="no room"):
        load_and_fail(new, replace=True)
    assert [lake.read(table).to_pydict() for table in tables] == [old.to_pydict()] * 2
    load(lake, incoming(new), replace=True)
    assert [lake.read(table).to_pydict() for table in tables] == [new.to_pydict()] * 2
