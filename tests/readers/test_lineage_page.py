"""`docs/lineage.md` says what is true: its code is run over tables in which two versions have scored."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from backends.batch_scoring import score_and_publish
from backends.engines import LocalEngine
from backends.lakehouse.catalog import Lakehouse
from backends.promotion_ledger import Why, begin, read_moves, write_move
from backends.registry import Version
from backends.request_logs import carry_requests
from backends.settings import ROOT, Settings
from bento.observing.request_files import RequestFiles
from bento.observing.request_log import RequestLog
from models.audit import Limits
from models.contract import Contract
from models.scoring import Scorer
from tests.backends.nights import POPULATION, customers, night, write_files
from tests.backends.test_request_logs import answered
from tests.lives import tiny_examples
from tests.readers.engines import installed
from tests.readers.test_reading_page import install_extensions
from tests.tiny_model import tiny_contract, tiny_onnx

PAGE = (ROOT / "docs" / "lineage.md").read_text()
PREDICTIONS, REJECTS, REQUESTS = "gold.churn_predictions", "gold.churn_rejects", "silver.churn_requests"
EXAMPLES, LEDGER = "silver.churn_examples", "gold.churn_promotions"
FRIDAY, ROWS, ASKED = date(2026, 11, 20), 400, 9


@dataclass(frozen=True)
class Lives:
    """A folder with a `.tandem`: version 6 has scored Friday, version 7 Saturday, and each has answered a request."""

    folder: Path
    lake: Lakehouse
    trained_on: dict[int, pa.Table]  # the examples as they were, by version

    def request(self, version: int) -> str:
        return f"request-{version}"


@pytest.fixture(scope="module")
def lives(tmp_path_factory) -> Iterator[Lives]:
    installed("duckdb")
    folder, trained_on = tmp_path_factory.mktemp("auditor"), {}
    settings = Settings(home=folder / ".tandem", threads=2)
    with Lakehouse.open(settings) as lake:
        write_files(lake, POPULATION, [customers(ROWS)])
        begin(lake, LEDGER)
        for version in (6, 7):
            trained_on[version] = tiny_examples(300 + version, seed=version)
            snapshot = write_files(lake, EXAMPLES, [trained_on[version]])
            live(lake, settings, version, tiny_contract(model="churn", training_snapshot=str(snapshot.id)))
        write_files(lake, EXAMPLES, [tiny_examples(10)])  # what the table has today is no answer
        yield Lives(folder, lake, trained_on)


def live(lake: Lakehouse, settings: Settings, version: int, contract: Contract) -> None:
    """Promote a version, let it score a night, and answer a request."""
    scorer, day = Scorer(tiny_onnx(contract, seed=version)), FRIDAY + timedelta(days=version - 6)
    tags = {"training_snapshot": contract.training_snapshot}
    made = Version("churn", version, "an-mlflow-run", scorer.sha256, tags)
    write_move(lake, LEDGER, read_moves(lake, LEDGER), version - 1, made, Why("promotion", "a run", "it was better"))
    limits = Limits(max_shift=10, max_rejected_share=0.01)
    task: dict[str, Any] = {"predictions": PREDICTIONS, "rejects": REJECTS, "limits": limits, "scored_on": day}
    score_and_publish(lake, LocalEngine(2), night(scorer=scorer, version=version, **task))
    folder = settings.request_log_of("churn")
    files = RequestFiles(folder, 10**9)
    log = RequestLog(contract, str(version), scorer.sha256, 1.0, files, lambda *_: None)
    log.offer(answered(contract, ASKED, seed=version, keys=list(range(ASKED))))
    log.close()
    assert carry_requests(lake, REQUESTS, folder).rows == ASKED


def code(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def duckdb(lives, monkeypatch, tmp_path) -> Iterator[Any]:
    """Run the page's Python in the folder with `.tandem`; give the connection that it made."""
    monkeypatch.chdir(lives.folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    install_extensions()
    names: dict[str, Any] = {}
    (opening,) = code("python")
    exec(compile(opening, "lineage.md", "exec"), names)
    yield names["lake"]
    names["lake"].close()


def test_every_query_of_the_page_is_run():
    assert [sql.split()[0] for sql in code("sql")] == ["SELECT", "SET"]


@pytest.mark.parametrize("version", [6, 7])
def test_the_customers_that_a_version_scored_in_batch_and_live(lives, duckdb, version):
    query = code("sql")[0].replace("= 7", f"= {version}")
    found = duckdb.execute(query).to_arrow_table()
    by_lane = {lane: found.filter(pa.compute.equal(found["lane"], lane)) for lane in ("batch", "live")}
    published = lives.lake.read(PREDICTIONS).filter(pa.compute.field("model_version") == version)
    assert by_lane["batch"]["customer_id"].to_pylist() == sorted(published["customer_id"].to_pylist())
    assert set(by_lane["batch"]["day"].to_pylist()) == {FRIDAY + timedelta(days=version - 6)}
    assert by_lane["live"]["customer_id"].to_pylist() == list(range(ASKED))
    assert len(found) == ROWS + ASKED


@pytest.mark.parametrize("version", [6, 7])
def test_the_rows_that_trained_what_answered_a_request(lives, duckdb, version):
    query = code("sql")[1].replace("request-of-a-customer", lives.request(version))
    assert query != code("sql")[1]
    found = duckdb.execute(query).to_arrow_table()
    expected = lives.trained_on[version]
    assert found.num_rows == expected.num_rows == 300 + version
    key = "customer_id"
    assert found.sort_by(key).select([key]).to_pylist() == expected.sort_by(key).select([key]).to_pylist()
    assert set(found.column_names) == set(expected.column_names)


def test_a_request_that_was_never_logged_has_no_rows(duckdb):
    import duckdb as library

    with pytest.raises(library.Error):
        duckdb.execute(code("sql")[1]).fetchall()
