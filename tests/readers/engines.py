"""Engines that read an Iceberg table with their own code, from the metadata file down to the Parquet pages.

Each answers SQL over one table, which the text calls `scores`, in Arrow. The Rust table provider below DataFusion and
the libraries below DuckDB and ClickHouse share nothing with the writer; Polars lets pyiceberg parse the metadata file,
and follows it from there by itself.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from os import chdir
from pathlib import Path

import pyarrow as pa
import pytest

DUCKDB_EXTENSIONS = ("avro", "iceberg")

Query = Callable[..., pa.Table]


@dataclass(frozen=True)
class Engine:
    """A reader: `query(metadata, sql, snapshot_id=None)`, with the address of the table's metadata file."""

    query: Query
    modules: tuple[str, ...]
    needs_pyiceberg: bool = False
    prunes: bool = True  # opens the files of the day that is asked for alone

    @property
    def missing(self) -> list[str]:
        """The modules that are not installed."""
        return [name for name in self.modules if find_spec(name) is None]


def path_of(address: str) -> Path:
    """Return the path of a local address. Iceberg's addresses are not percent-encoded."""
    return Path(address.removeprefix("file://"))


def table_folder(metadata: str) -> Path:
    """Return the folder of the table that a metadata file describes."""
    return path_of(metadata).parent.parent


def metadata_files(metadata: str) -> list[str]:
    """Return each metadata file that the table ever had, oldest first."""
    return [f"file://{path}" for path in sorted(path_of(metadata).parent.glob("*.metadata.json"))]


def document(metadata: str) -> dict:
    """Return what a metadata file says."""
    return json.loads(path_of(metadata).read_text())


# --- the engines ----------------------------------------------------------------------------------------------------


def duckdb_extensions() -> list[Path]:
    """Return the files of the extensions that DuckDB needs, from the packages that ship them."""
    specs = {name: find_spec(f"duckdb_extension_{name}") for name in DUCKDB_EXTENSIONS}
    folders = {name: Path(spec.submodule_search_locations[0]) for name, spec in specs.items()}
    return [next(folder.rglob(f"{name}.duckdb_extension")) for name, folder in folders.items()]


def query_duckdb(metadata: str, sql: str, snapshot_id: int | None = None) -> pa.Table:
    """Ask DuckDB, through its Iceberg extension: C++."""
    pinned = {} if snapshot_id is None else {"snapshot_from_id": snapshot_id}
    arguments = ", ".join(["$metadata", *(f"{name} = ${name}" for name in pinned)])
    text = f"WITH scores AS (FROM iceberg_scan({arguments})) {sql}"
    with _duckdb().cursor() as connection:
        return connection.execute(text, {"metadata": metadata, **pinned}).to_arrow_table()


def query_polars(metadata: str, sql: str, snapshot_id: int | None = None) -> pa.Table:
    """Ask Polars: its planner and its Parquet reader, both Rust of its own."""
    import polars as pl

    scores = pl.scan_iceberg(metadata, snapshot_id=snapshot_id, reader_override="native")
    return pl.SQLContext(scores=scores).execute(sql).collect().to_arrow()


def query_datafusion(metadata: str, sql: str, snapshot_id: int | None = None) -> pa.Table:
    """Ask DataFusion, through iceberg-rust. It reads `main` only: for a snapshot it gets the file of that time."""
    from datafusion import SessionContext
    from pyiceberg_core.datafusion import IcebergDataFusionTable

    if snapshot_id is not None:
        metadata = next(file for file in metadata_files(metadata) if _current(file) == snapshot_id)
    session = SessionContext()
    name = ["gold", "scores"]
    session.register_table("scores", IcebergDataFusionTable(name, metadata_location=metadata, file_io_properties={}))
    return session.sql(sql).to_arrow_table()


def query_clickhouse(metadata: str, sql: str, snapshot_id: int | None = None) -> pa.Table:
    """Ask ClickHouse, in this process: C++. It opens files below the current folder only."""
    import chdb

    pinned = "" if snapshot_id is None else f", iceberg_snapshot_id = {snapshot_id}"
    source = "icebergLocal({folder:String}, SETTINGS iceberg_metadata_file_path = {file:String})"
    text = f"WITH scores AS (SELECT * FROM {source}) {sql} SETTINGS session_timezone = 'UTC'{pinned}"
    folder, file = table_folder(metadata), path_of(metadata)
    with _current_folder(Path("/")):
        return chdb.query(text, "ArrowTable", params={"folder": str(folder), "file": str(file.relative_to(folder))})


ENGINES = {
    "duckdb": Engine(query_duckdb, ("duckdb", *(f"duckdb_extension_{name}" for name in DUCKDB_EXTENSIONS))),
    "datafusion": Engine(query_datafusion, ("datafusion", "pyiceberg_core"), prunes=False),
    "polars": Engine(query_polars, ("polars", "polars_iceberg"), needs_pyiceberg=True),
}
if find_spec("chdb"):  # half a gigabyte, so no dependency: it is asked where somebody has installed it
    ENGINES["clickhouse"] = Engine(query_clickhouse, ("chdb",))


def installed(name: str) -> Engine:
    """Return a reader, or skip the test."""
    if missing := ENGINES[name].missing:
        pytest.skip(f"{name} cannot read Iceberg here: {', '.join(missing)} is not installed")
    return ENGINES[name]


@cache
def _duckdb():
    """Return a database with the extensions in it: loading them takes longer than reading."""
    import duckdb

    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    for extension in duckdb_extensions():
        connection.load_extension(str(extension))
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    return connection


def _current(metadata: str) -> int | None:
    return document(metadata).get("current-snapshot-id")


@contextmanager
def _current_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    chdir(folder)
    try:
        yield
    finally:
        chdir(before)
