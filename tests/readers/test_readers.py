"""What one engine publishes, others read: engines that share no code with the writer agree with it, row by row."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from packaging.requirements import Requirement

from backends.gold_tables import predictions_schema, rejects_schema
from backends.settings import ROOT
from tests.backends.nights import FRIDAY, PREDICTIONS, REJECTS, SATURDAY, SCORED_AT
from tests.backends.nights import night as night_of
from tests.readers.engines import ENGINES, document, installed, metadata_files, table_folder
from tests.readers.published import SUNDAY, TEXT_PREDICTIONS, Night, Scores
from tests.tiny_model import tiny_contract

SAME_TYPE = {"large_string": "string", "string_view": "string", "timestamp[us, tz=+00:00]": "timestamp[us, tz=UTC]"}

FIGURES = """
SELECT
    scored_on,
    count(*) AS scored,
    count(DISTINCT customer_id) AS customers,
    sum(CAST(tiny_probability AS DOUBLE)) AS total,
    min(tiny_probability) AS lowest,
    max(tiny_probability) AS highest,
    count(CASE WHEN tiny_predicted THEN 1 END) AS positives,
    count(DISTINCT model_sha256) AS models,
    max(model_version) AS version,
    min(scored_at) AS first_scored,
    max(scored_at) AS last_scored
FROM scores GROUP BY scored_on ORDER BY scored_on
"""


def rows_of(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return rows in the order of their keys, with the table's own types."""
    return table.cast(schema).combine_chunks().sort_by([("scored_on", "ascending"), ("customer_id", "ascending")])


def scores_of(table: pa.Table, day: date) -> Scores:
    mask = np.array(table["scored_on"]) == np.datetime64(day)
    found = table.filter(pa.array(mask))
    return dict(zip(found["customer_id"].to_pylist(), found["tiny_probability"].to_numpy(), strict=True))


def figures_of(day: date, night: Night) -> dict:
    """Return what `FIGURES` must find, from the scorer's own scores.

    They are above 2**-8, so multiples of 2**-32, and fewer than 2**20: float64 adds them exactly, in any order.
    """
    scores = np.array(list(night.scores.values()))
    assert scores.min() > 2**-8
    return {
        "scored_on": day,
        "scored": len(scores),
        "customers": len(scores),
        "total": scores.sum(dtype=np.float64),
        "lowest": scores.min(),
        "highest": scores.max(),
        "positives": int(np.count_nonzero(scores >= np.float32(0.5))),
        "models": 1,
        "version": int(night.published.snapshot.properties["model_version"]),
        "first_scored": SCORED_AT,
        "last_scored": SCORED_AT,
    }


def counts(table: pa.Table) -> dict[date, int]:
    return {row["scored_on"]: row["n"] for row in table.to_pylist()}


COUNTS = "SELECT scored_on, count(*) AS n FROM scores GROUP BY scored_on"


# --- the rows -------------------------------------------------------------------------------------------------------


def test_every_row_is_the_one_that_was_written(engine, gold):
    schema = predictions_schema(tiny_contract())
    found = rows_of(engine.query(gold.metadata(), "SELECT * FROM scores"), schema)
    assert found.equals(rows_of(gold.lake.load(PREDICTIONS).scan().to_arrow(), schema))
    assert {day: scores_of(found, day) for day in gold.nights} == {day: n.scores for day, n in gold.nights.items()}
    assert sum(column.null_count for column in found.columns) == 0


def test_the_figures_of_each_day_are_the_scorers(engine, gold):
    found = engine.query(gold.metadata(), FIGURES).to_pylist()
    assert found == [figures_of(day, night) for day, night in gold.nights.items()]


def test_the_columns_have_their_names_and_types(engine, gold):
    tables = {PREDICTIONS: predictions_schema(tiny_contract()), REJECTS: rejects_schema(tiny_contract())}
    for table, schema in tables.items():
        found = engine.query(gold.metadata(table), "SELECT * FROM scores").schema
        types = [(field.name, SAME_TYPE.get(str(field.type), str(field.type)), field.nullable) for field in found]
        assert types == [(field.name, str(field.type), True) for field in schema]


def test_text_keys_read_as_they_were_written(engine, gold):
    found = engine.query(gold.metadata(TEXT_PREDICTIONS), "SELECT * FROM scores")
    assert scores_of(found, SATURDAY) == gold.texts.scores


def test_the_files_themselves_say_which_column_is_which(engine, gold):
    """Some tools drop properties that they do not know, the table's name mapping among them."""
    loaded, mapping = gold.lake.load(TEXT_PREDICTIONS), "schema.name-mapping.default"
    if mapping in loaded.properties:
        with loaded.transaction() as change:
            change.remove_properties(mapping)
    found = engine.query(gold.metadata(TEXT_PREDICTIONS), "SELECT * FROM scores")
    assert scores_of(found, SATURDAY) == gold.texts.scores
    assert sum(column.null_count for column in found.columns) == 0


def test_the_rejects_are_those_of_the_last_run_of_each_day(engine, gold):
    schema = rejects_schema(tiny_contract())
    found = rows_of(engine.query(gold.metadata(REJECTS), "SELECT * FROM scores"), schema)
    assert found.equals(rows_of(gold.lake.load(REJECTS).scan().to_arrow(), schema))
    assert found["customer_id"].to_pylist() == gold.saturday.rejected
    assert {(row["column"], row["value"]) for row in found.to_pylist()} == {("tenure_months", "601")}


# --- which rows -----------------------------------------------------------------------------------------------------


@contextmanager
def without(folder: Path) -> Iterator[None]:
    """Take a folder away: whoever opens a file in it fails."""
    away = folder.with_name("away")
    folder.rename(away)
    try:
        yield
    finally:
        away.rename(folder)


ONE_DAY = f"SELECT customer_id, tiny_probability FROM scores WHERE scored_on = DATE '{FRIDAY}'"


@pytest.mark.parametrize("name", [name for name, engine in ENGINES.items() if engine.prunes])
def test_reading_one_day_opens_the_files_of_that_day_alone(gold, name):
    reader = installed(name)
    with without(table_folder(gold.metadata()) / "data" / f"scored_on={SATURDAY}"):
        assert len(reader.query(gold.metadata(), ONE_DAY)) == len(gold.friday.scores)


@pytest.mark.parametrize("name", [name for name, engine in ENGINES.items() if not engine.prunes])
def test_these_open_the_files_of_all_days(gold, name):
    """As the page says: no filter reaches the table provider of pyiceberg-core."""
    reader = installed(name)
    assert len(reader.query(gold.metadata(), ONE_DAY)) == len(gold.friday.scores)
    with (
        without(table_folder(gold.metadata()) / "data" / f"scored_on={SATURDAY}"),
        pytest.raises(Exception, match=f"scored_on={SATURDAY}"),
    ):
        reader.query(gold.metadata(), ONE_DAY)


def test_a_snapshot_reads_as_it_was(engine, gold):
    before, sql = gold.saturday_at_first.published.snapshot.id, FIGURES
    expected = [figures_of(FRIDAY, gold.friday), figures_of(SATURDAY, gold.saturday_at_first)]
    assert engine.query(gold.metadata(), sql, before).to_pylist() == expected


@pytest.mark.parametrize("day", [FRIDAY, SATURDAY])
def test_the_tag_of_a_night_leads_to_its_snapshot(engine, gold, day):
    snapshot = document(gold.metadata())["refs"][f"night_{day}"]["snapshot-id"]
    assert snapshot == gold.nights[day].published.snapshot.id
    found = engine.query(gold.metadata(), FIGURES, snapshot).to_pylist()
    assert found == [figures_of(each, night) for each, night in gold.nights.items() if each <= day]


def test_a_night_that_was_rolled_back_is_seen_by_its_snapshot_alone(engine, gold):
    assert f"night_{SUNDAY}" not in document(gold.metadata())["refs"]
    assert SUNDAY not in counts(engine.query(gold.metadata(), COUNTS))
    then = counts(engine.query(gold.metadata(), COUNTS, gold.sunday.published.snapshot.id))
    assert then[SUNDAY] == len(gold.sunday.scores)


def test_a_reader_at_any_moment_sees_whole_nights(engine, gold):
    """Whoever looked at the table looked at one of its metadata files."""
    friday, first, saturday, sunday = (
        {day: len(night.scores)}
        for day, night in (
            (FRIDAY, gold.friday),
            (SATURDAY, gold.saturday_at_first),
            (SATURDAY, gold.saturday),
            (SUNDAY, gold.sunday),
        )
    )
    seen: list[dict[date, int]] = []
    for metadata in metadata_files(gold.metadata()):
        now = counts(engine.query(metadata, COUNTS))
        if not seen or now != seen[-1]:
            seen.append(now)
    assert seen == [{}, friday, friday | first, friday | saturday, friday | saturday | sunday, friday | saturday]


def test_a_glob_of_the_files_finds_rows_that_are_not_in_the_table(gold):
    """Why a reader has to go through the metadata."""
    files = ds.dataset(table_folder(gold.metadata()) / "data", format="parquet")
    extra = len(gold.saturday_at_first.scores) + len(gold.sunday.scores)
    assert files.count_rows() == gold.lake.snapshot(PREDICTIONS).rows + extra


# --- the readers themselves -----------------------------------------------------------------------------------------

READ_WITHOUT_THE_WRITER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "pyiceberg":
            raise ImportError(f"{name} is the writer's")

sys.meta_path.insert(0, Blocker())
from tests.readers.engines import ENGINES

print(ENGINES[sys.argv[1]].query(sys.argv[2], "SELECT count(*) AS n FROM scores")["n"][0])
"""


@pytest.mark.parametrize("name", [name for name, engine in ENGINES.items() if not engine.needs_pyiceberg])
def test_it_reads_without_the_library_of_the_writer(gold, name):
    installed(name)
    command = [sys.executable, "-c", READ_WITHOUT_THE_WRITER, name, gold.metadata()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == gold.lake.snapshot(PREDICTIONS).rows


def test_the_snapshot_says_where_the_rows_come_from(gold):
    """With nothing but the metadata file, which any engine has."""
    metadata = document(gold.metadata())
    by_id = {snapshot["snapshot-id"]: snapshot["summary"] for snapshot in metadata["snapshots"]}
    summary = by_id[metadata["current-snapshot-id"]]
    said = {name.removeprefix("tandem."): value for name, value in summary.items() if name.startswith("tandem.")}
    assert said == gold.saturday.published.snapshot.properties
    assert said["model_sha256"] == night_of().scorer.sha256
    assert said["source_snapshot"] == str(gold.saturday.published.source.id)


@pytest.mark.skipif("CI" not in os.environ, reason="only CI must have every reader")
def test_the_declared_readers_are_installed():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for requirement in map(Requirement, extras["readers"]):
        assert requirement.specifier.contains(importlib.metadata.version(requirement.name))
