"""The optional column of reasons, read by engines that share no code with the writer."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backends.lakehouse.catalog import Lakehouse
from backends.settings import Settings
from models.encoding import encode_arrow
from models.reasons import Explainer
from models.scoring import Scorer
from tests.backends.nights import (
    FRIDAY,
    POPULATION,
    PREDICTIONS,
    SATURDAY,
    customers,
    parts_on_disk,
    publish,
    write_files,
)
from tests.tiny_model import tiny_contract, tiny_onnx_with_reference

SCORER = Scorer(tiny_onnx_with_reference(tiny_contract()))
POPULATION_ROWS = customers(60)


@pytest.fixture(scope="module")
def explained(tmp_path_factory) -> Iterator[Lakehouse]:
    """A table whose first night knew no reasons, and whose second one gives two to each row above the threshold."""
    with Lakehouse.open(Settings(home=tmp_path_factory.mktemp("explained"), threads=2)) as lake:
        write_files(lake, POPULATION, [POPULATION_ROWS])
        publish(lake, scorer=SCORER, scored_on=FRIDAY)
        publish(lake, scorer=SCORER, reasons=2)
        yield lake


def expected() -> dict[int, list[tuple[str, float]]]:
    rows = encode_arrow(SCORER.contract, POPULATION_ROWS)
    scores = SCORER.score(rows)
    found = [list(reasons.most(2)) for reasons in Explainer(SCORER).explain(rows, scores)]
    keys = POPULATION_ROWS["customer_id"].to_pylist()
    return {
        key: some if positive else [] for key, some, positive in zip(keys, found, SCORER.decide(scores), strict=True)
    }


def in_pairs(reasons: list[dict] | None) -> list[tuple[str, float]] | None:
    return None if reasons is None else [(one["feature"], one["contribution"]) for one in reasons]


def by_day(table: pa.Table) -> dict:
    rows = table.select(["scored_on", "customer_id", "reasons"]).to_pylist()
    return {
        day: {row["customer_id"]: in_pairs(row["reasons"]) for row in rows if row["scored_on"] == day}
        for day in (FRIDAY, SATURDAY)
    }


def test_every_engine_reads_the_same_reasons(engine, explained):
    metadata = str(explained.load(PREDICTIONS).metadata_location)
    found = by_day(engine.query(metadata, "SELECT scored_on, customer_id, reasons FROM scores"))
    assert found[SATURDAY] == expected()
    assert set(found[FRIDAY].values()) == {None}


def test_pyiceberg_pandas_and_plain_parquet_read_them_too(explained):
    table = explained.load(PREDICTIONS)
    assert by_day(table.scan().to_arrow())[SATURDAY] == expected()
    frame = table.scan().to_pandas()
    frame = frame[frame["scored_on"] == SATURDAY]
    assert {
        key: in_pairs(list(some)) for key, some in zip(frame["customer_id"], frame["reasons"], strict=True)
    } == expected()
    (part,) = [part for part in parts_on_disk(explained) if f"{SATURDAY}" in str(part)]
    plain = pq.read_table(part)
    assert dict(zip(plain["customer_id"].to_pylist(), map(in_pairs, plain["reasons"].to_pylist()), strict=True)) == (
        expected()
    )
