"""`docs/reading-the-gold-table.md` says what is true: its snippets are run, its tables are held against the tables."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from backends.batch_scoring import score_and_publish
from backends.engines import LocalEngine
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import partition_is
from backends.nights import published_nights
from backends.rollbacks import roll_back
from backends.settings import ROOT, Settings
from models.audit import Limits
from models.scoring import Scorer
from tests.backends.nights import POPULATION, customers, night, with_column, write_files
from tests.readers.engines import ENGINES, duckdb_extensions, installed
from tests.tiny_model import tiny_contract, tiny_onnx_with_profile

PAGE = (ROOT / "docs" / "reading-the-gold-table.md").read_text()
PREDICTIONS, REJECTS = "gold.churn_predictions", "gold.churn_rejects"
SCORES = ["customer_id", "churn_probability"]

READERS = {"DuckDB": "duckdb", "Polars": "polars", "DataFusion": "datafusion", "ClickHouse": "clickhouse"}
FIRST = ["This morning's scores", "Where a row comes from"]


def blocks(language: str) -> dict[str, list[str]]:
    """Return the fenced blocks of the page by the heading that they stand under."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^#+ ", PAGE, flags=re.MULTILINE):
        heading = section.partition("\n")[0]
        if code := re.findall(rf"^```{language}\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
            found[heading] = code
    return found


def told(first: str) -> dict[str, str]:
    """Return the first two columns of the page's table that begins with the heading `first`."""
    rows = PAGE[PAGE.index(f"| {first} |") :].partition("\n\n")[0].splitlines()[2:]
    return {cells[1].strip(" `"): cells[2].strip() for cells in (row.split("|") for row in rows)}


@dataclass(frozen=True)
class Churn:
    """A folder with a `.tandem` in which two nights of churn are published, today's and tomorrow's.

    It is today all through the test, or it becomes tomorrow.
    """

    folder: Path
    lake: Lakehouse
    days: tuple[date, date]

    def to_call(self, day: date) -> list[dict]:
        """Return the customers to call, with pyiceberg alone."""
        rows = self.lake.read(PREDICTIONS, where=partition_is("scored_on", day)).to_pylist()
        likely = sorted((r for r in rows if r["churn_predicted"]), key=lambda r: (-r[SCORES[1]], r[SCORES[0]]))
        return [{name: row[name] for name in SCORES} for row in likely[:1000]]


@pytest.fixture(scope="module")
def churn(tmp_path_factory) -> Iterator[Churn]:
    folder, today = tmp_path_factory.mktemp("marketing's"), date.today()
    days = (today, today + timedelta(days=1))
    onnx = tiny_onnx_with_profile(tiny_contract(model="churn"), customers(500, seed=1))
    scorer, limits = Scorer(onnx), Limits(max_shift=10, max_rejected_share=0.01)
    task = {"predictions": PREDICTIONS, "rejects": REJECTS, "scorer": scorer, "limits": limits}
    with Lakehouse.open(Settings(home=folder / ".tandem", threads=2)) as lake:
        for seed, day in enumerate(days):
            rows = customers(4000, seed=seed)
            wrong = with_column(rows, "tenure_months", np.array([601] * 7 + [12] * 3993, np.int32))
            write_files(lake, POPULATION, [wrong.slice(0, 1000), wrong.slice(1000)])
            score_and_publish(lake, LocalEngine(2), night(scored_on=day, **task))
        yield Churn(folder, lake, days)


@pytest.fixture
def page(churn, monkeypatch, tmp_path) -> dict[str, Any]:
    """Run what stands before the readers, in the folder with `.tandem`; return the names that it made."""
    monkeypatch.chdir(churn.folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    return run({}, *FIRST)


def run(names: dict[str, Any], *headings: str) -> dict[str, Any]:
    for heading in headings:
        for code in blocks("python")[heading]:
            exec(compile(code, f"reading-the-gold-table.md, {heading}", "exec"), names)
    return names


def has_found(churn: Churn, names: dict[str, Any]) -> None:
    day = names["day"]
    assert pa.table(names["to_call"]).select(SCORES).to_pylist() == churn.to_call(day)
    then = churn.lake.snapshot(PREDICTIONS, published_nights(churn.lake, PREDICTIONS)[day.isoformat()].id)
    assert names.get("rows_then", then.rows) == then.rows


def test_every_snippet_of_the_page_is_run():
    assert list(blocks("python")) == [*FIRST, "pyiceberg", *READERS]
    assert "Not tested here" in PAGE[PAGE.index("### Spark") :]


@pytest.mark.parametrize("heading", [heading for heading, name in READERS.items() if name in ENGINES])
def test_a_readers_snippet_finds_this_mornings_scores(churn, page, heading):
    installed(READERS[heading])
    if heading == "DuckDB":
        install_extensions()
    has_found(churn, run(page, heading))
    assert ("rows_then" in page) == (heading != "DataFusion")


def test_the_snippet_of_pyiceberg_finds_this_mornings_scores(churn, page):
    has_found(churn, run(page, "pyiceberg"))
    assert "rows_then" in page


def test_the_snippets_find_the_night_and_its_lineage(churn, page):
    snapshot = published_nights(churn.lake, PREDICTIONS)[page["day"].isoformat()]
    assert page["night"]["snapshot-id"] == snapshot.id == page["table"]["refs"][f"night_{page['day']}"]["snapshot-id"]
    assert page["lineage"] == snapshot.properties
    assert page["published"](churn.days[0] - timedelta(days=1)) is None


def test_the_snippets_do_not_find_a_night_that_was_rolled_back(churn, page):
    """Last in the file: `main` is put back afterwards."""
    today, tomorrow = (published_nights(churn.lake, PREDICTIONS)[day.isoformat()] for day in churn.days)
    roll_back(churn.lake, PREDICTIONS, str(today.id), reason="too early", by="a test")
    try:
        names = run({}, FIRST[0])
        assert names["published"](churn.days[1]) is None
        tags = {name for name in names["table"]["refs"] if not name.startswith("rolled_back_")}
        assert tags == {"main", f"night_{churn.days[0]}"}
        assert names["published"](churn.days[0])["snapshot-id"] == today.id
        assert [name for name in names["table"]["properties"] if name.startswith("tandem.rollback.")]
    finally:
        roll_back(churn.lake, PREDICTIONS, str(tomorrow.id), reason="it was right", by="a test")


@pytest.mark.parametrize("table", [PREDICTIONS, REJECTS])
def test_the_columns_are_those_of_the_table(churn, table):
    fields = churn.lake.load(table).schema().fields
    assert told(f"`{table}`") == {field.name: str(field.field_type) for field in fields}


def test_the_properties_are_those_of_the_snapshot(churn, page):
    names = [name.strip(" `") for row in told("property (`tandem.` before each)") for name in row.split(",")]
    assert sorted(names) == sorted(page["lineage"])


def install_extensions() -> None:
    """Do what DuckDB's download does, from the packages that ship the extensions."""
    import duckdb

    with duckdb.connect() as connection:
        for extension in duckdb_extensions():
            connection.execute(f"INSTALL '{extension}'")
