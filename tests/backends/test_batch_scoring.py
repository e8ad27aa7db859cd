"""A night on a real lake: what is published, and what is refused before the rows, on the way, and by a full disk."""

import contextlib
import json
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from backends.engines import LocalEngine
from backends.gold_tables import PARTITION, predictions_schema
from backends.lakehouse.catalog import Lakehouse
from backends.nights import newest_night, published_nights
from backends.scored_parts import ScoredPart
from backends.settings import Settings
from models.audit import Limits, histogram_of, histogram_to_text, population_stability_index
from models.errors import AuditError, ColumnError, LakehouseError, SnapshotNotFoundError, TableNotFoundError
from models.scoring import Scorer
from tests.backends.nights import (
    FRIDAY,
    LAX,
    POPULATION,
    PREDICTIONS,
    SATURDAY,
    SCORE,
    SCORED_AT,
    WatchedEngine,
    audit_branches,
    customers,
    night,
    parts_on_branches,
    parts_on_disk,
    publish,
    published_rows,
    rejected_rows,
    scored_directly,
    scores_by_key,
    with_column,
    write_files,
)
from tests.tiny_model import tiny_contract, tiny_onnx


@pytest.fixture
def population(lake) -> pa.Table:
    """Return the rows of a population of three files."""
    files = [customers(1500), customers(1, first_key=1500), customers(2499, first_key=1501)]
    write_files(lake, POPULATION, files)
    return pa.concat_tables(files)


# --- what is published ----------------------------------------------------------------------------------------------


def test_the_published_rows_are_the_scorers_bit_for_bit(lake, population):
    published = publish(lake)
    rows = published_rows(lake)
    assert scores_by_key(rows) == scored_directly(population, night().scorer)
    assert rows.num_rows == population.num_rows == published.report.rows
    assert published.parts == len(parts_on_disk(lake)) > 1
    decided = rows["tiny_predicted"].combine_chunks()
    assert decided.equals(pc.greater_equal(rows[SCORE], pa.scalar(0.5, pa.float32())).combine_chunks())
    assert 0 < published.positives == decided.true_count < rows.num_rows


def test_the_columns_say_what_the_score_is_and_where_it_comes_from(lake, population):
    publish(lake, version=12)
    rows = published_rows(lake)
    declared = predictions_schema(tiny_contract())
    assert rows.schema.names == declared.names
    assert rows.cast(declared).schema == declared
    assert rows.schema.field(SCORE).type == pa.float32()
    constants = {name: pc.unique(rows[name]).to_pylist() for name in rows.schema.names[3:]}
    assert constants == {
        "model_version": [12],
        "model_sha256": [night().scorer.sha256],
        "scored_at": [SCORED_AT],
        "scored_on": [SATURDAY],
    }
    assert sum(column.null_count for column in rows.columns) == 0


def test_the_snapshot_carries_the_lineage(lake, population):
    source = lake.snapshot(POPULATION)
    published = publish(lake)
    scorer = night().scorer
    histogram = histogram_of(np.array(list(scored_directly(population, scorer).values()), np.float32))
    assert published.snapshot == lake.snapshot(PREDICTIONS)
    assert published.source == source
    measured = {"scoring_cpu_seconds", "bytes_read"}
    assert {name: value for name, value in published.snapshot.properties.items() if name not in measured} == {
        "scored_on": "2026-11-21",
        "model": "tiny",
        "model_version": "3",
        "model_sha256": scorer.sha256,
        "training_snapshot": "8170927402156543211",
        "source_table": POPULATION,
        "source_snapshot": str(source.id),
        "dagster_run_id": "run-of-the-night",
        "rejected_rows": "0",
        "score_histogram": histogram_to_text(histogram),
    }
    assert published.report.tally.histogram.tolist() == json.loads(published.snapshot.properties["score_histogram"])


def test_the_report_has_the_figures_of_the_night(lake, population):
    report = publish(lake).report
    scores = np.array(list(scored_directly(population, night().scorer).values()), np.float32)
    assert report.mean == pytest.approx(scores.mean(dtype=np.float64))
    assert (report.tally.minimum, report.tally.maximum) == (scores.min(), scores.max())
    assert report.shift is None  # the first night has nothing to differ from
    assert report.problems == []


def test_each_day_is_a_partition_and_its_rerun_replaces_it_alone(lake, population):
    publish(lake, scored_on=FRIDAY)
    publish(lake)
    friday = published_rows(lake, FRIDAY)
    another = Scorer(tiny_onnx(tiny_contract(), seed=5))
    publish(lake, scorer=another, version=4, limits=LAX)
    publish(lake, scorer=another, version=4, limits=LAX)
    assert published_rows(lake, FRIDAY).equals(friday)
    assert scores_by_key(published_rows(lake)) == scored_directly(population, another)
    assert lake.snapshot(PREDICTIONS).rows == 2 * population.num_rows
    assert audit_branches(lake) == set()


def test_the_second_night_is_measured_against_the_first(lake, population):
    first = publish(lake, scored_on=FRIDAY)
    write_files(lake, POPULATION, [customers(1000, first_key=2000, seed=9)])
    second = publish(lake)
    histograms = [night.report.tally.histogram for night in (first, second)]
    assert second.report.shift == population_stability_index(*histograms) > 0


def test_after_a_rollback_a_night_may_resemble_the_last_one_of_its_own_model(lake, population):
    publish(lake, scored_on=FRIDAY - timedelta(days=1))
    publish(lake, scored_on=FRIDAY, scorer=Scorer(tiny_onnx(tiny_contract(), seed=5)), version=4, limits=LAX)
    back = publish(lake, limits=Limits(max_shift=0.001, max_rejected_share=0.001))
    assert back.report.shift == 0
    other = Scorer(tiny_onnx(tiny_contract(), seed=6))
    with pytest.raises(AuditError, match="score shift"):
        publish(lake, scored_on=SATURDAY + timedelta(days=1), scorer=other, version=5)


def test_a_day_that_is_made_up_for_is_measured_against_the_nights_before_it(lake, population):
    publish(lake)
    assert publish(lake, scored_on=FRIDAY).report.shift is None


def test_a_pinned_population_is_scored_as_it_was(lake, population):
    pinned = lake.snapshot(POPULATION)
    write_files(lake, POPULATION, [customers(10, first_key=9000)])
    published = publish(lake, population_snapshot=pinned.id)
    assert published.source == pinned
    assert scores_by_key(published_rows(lake)) == scored_directly(population, night().scorer)


@pytest.mark.parametrize("threads", [1, 4])
def test_the_number_of_threads_changes_no_score(lake, population, threads):
    publish(lake, LocalEngine(threads))
    assert scores_by_key(published_rows(lake)) == scored_directly(population, night().scorer)


def test_text_keys(lake):
    rows = with_column(customers(300), "customer_id", [f"Kunde-{i}-ß" for i in range(300)])
    write_files(lake, POPULATION, [rows])
    scorer = Scorer(tiny_onnx(tiny_contract(entity_key_type="string")))
    publish(lake, scorer=scorer)
    assert scores_by_key(published_rows(lake)) == scored_directly(rows, scorer)
    assert pa.types.is_large_string(lake.schema(PREDICTIONS).field("customer_id").type)


def test_narrow_integer_keys_become_wide_ones(lake):
    rows = with_column(customers(300), "customer_id", np.arange(300, dtype=np.int32) - 150)
    write_files(lake, POPULATION, [rows])
    publish(lake)
    assert lake.schema(PREDICTIONS).field("customer_id").type == pa.int64()
    assert scores_by_key(published_rows(lake)) == scored_directly(rows, night().scorer)


def test_a_population_of_more_columns_in_another_order(lake):
    rows = customers(300)
    write_files(lake, POPULATION, [rows.select(rows.schema.names[::-1]).append_column("device", pa.nulls(300, "str"))])
    publish(lake)
    assert scores_by_key(published_rows(lake)) == scored_directly(rows, night().scorer)


def test_a_file_without_rows_is_no_matter(lake):
    rows = customers(300)
    write_files(lake, POPULATION, [rows.slice(0, 200), rows.slice(0, 0), rows.slice(200)])
    publish(lake)
    assert scores_by_key(published_rows(lake)) == scored_directly(rows, night().scorer)
    assert len(parts_on_disk(lake)) == 2


# --- which nights there are -----------------------------------------------------------------------------------------


def test_the_newest_night_is_of_the_newest_day_whichever_was_scored_last(lake, population):
    saturday, friday = publish(lake), publish(lake, scored_on=FRIDAY)
    assert newest_night(lake, PREDICTIONS) == saturday.snapshot
    assert published_nights(lake, PREDICTIONS) == {"2026-11-21": saturday.snapshot, "2026-11-20": friday.snapshot}
    again = publish(lake)
    assert newest_night(lake, PREDICTIONS) == again.snapshot


def test_a_night_that_was_rolled_back_is_none(lake, population):
    friday = publish(lake, scored_on=FRIDAY)
    publish(lake)
    lake.catalog.load_table(PREDICTIONS).manage_snapshots().set_current_snapshot(friday.snapshot.id).commit()
    assert newest_night(lake, PREDICTIONS) == friday.snapshot
    assert publish(lake).report.shift == 0


def test_before_the_first_night_there_is_none(lake):
    lake.ensure_table(PREDICTIONS, predictions_schema(tiny_contract()), PARTITION)
    with pytest.raises(SnapshotNotFoundError, match=r"no published night\. Materialize gold/tiny_predictions"):
        newest_night(lake, PREDICTIONS)


# --- what is refused before any row is read -------------------------------------------------------------------------


def test_an_empty_population_is_refused(lake):
    lake.ensure_table(POPULATION, customers(1).schema)
    with pytest.raises(LakehouseError, match=r"'silver\.active_customers' has no rows"):
        publish(lake)
    with pytest.raises(TableNotFoundError):
        lake.snapshot(PREDICTIONS)


def test_a_missing_population_is_named(lake):
    with pytest.raises(TableNotFoundError, match=r"'silver\.active_customers'"):
        publish(lake)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.drop_columns(["balance"]), "'balance' is missing"),
        (lambda t: t.drop_columns(["customer_id"]), "'customer_id' must be a column of integers or texts"),
        (lambda t: with_column(t, "balance", ["1"] * 20), "'balance' has type large_string"),
        (lambda t: with_column(t, "plan", [1.5] * 20), "'plan' has type double"),
        (lambda t: with_column(t, "customer_id", list(map(str, range(20)))), "'customer_id'.* is now of type string"),
        (lambda t: with_column(t, "customer_id", [0.5] * 20), "'customer_id' must be .* type double"),
    ],
)
def test_a_column_that_does_not_fit_is_named_before_any_row_is_read(lake, change, named):
    write_files(lake, POPULATION, [change(customers(20))])
    for file in parts_on_disk(lake, POPULATION):
        file.unlink()  # whoever reads a row now fails otherwise
    with pytest.raises(ColumnError, match=named):
        publish(lake)
    with pytest.raises(TableNotFoundError):
        lake.snapshot(PREDICTIONS)


def test_a_gold_table_of_other_columns_is_refused_by_its_name(lake, population):
    publish(lake)
    before, parts = lake.snapshot(PREDICTIONS), parts_on_disk(lake)
    with pytest.raises(
        LakehouseError, match=r"'gold\.tiny_predictions' .* of 'other': it lacks other_probability \(float"
    ):
        publish(lake, scorer=Scorer(tiny_onnx(tiny_contract(model="other"))))
    write_files(lake, "silver.texts", [with_column(customers(3), "customer_id", ["a", "b", "c"])])
    texts = Scorer(tiny_onnx(tiny_contract(entity_key_type="string")))
    with pytest.raises(LakehouseError, match=r"lacks customer_id \(string\)\. Its columns: customer_id, tiny_prob"):
        publish(lake, scorer=texts, population="silver.texts")
    assert (lake.snapshot(PREDICTIONS), parts_on_disk(lake)) == (before, parts)


# --- what is refused on the way -------------------------------------------------------------------------------------


@pytest.fixture
def friday(lake, population) -> Iterator[dict[int | str, float]]:
    """Publish Friday's scores; however the test goes on, they are still there afterwards."""
    publish(lake, scored_on=FRIDAY)
    scores = scores_by_key(published_rows(lake, FRIDAY))
    yield scores
    assert scores_by_key(published_rows(lake, FRIDAY)) == scores


def refused(lake: Lakehouse, error: type[Exception], match: str, **changes) -> Exception:
    """Score a night that must fail; main, whatever is wrong, must not move."""
    before = lake.snapshot(PREDICTIONS)
    with pytest.raises(error, match=match) as caught:
        publish(lake, **changes)
    assert lake.snapshot(PREDICTIONS) == before
    return caught.value


def test_a_damaged_file_of_the_population_stops_the_night(lake, friday):
    parts = parts_on_disk(lake)
    damaged = parts_on_disk(lake, POPULATION)[-1]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    refused(lake, LakehouseError, rf"{damaged.name} of table 'silver\.active_customers' cannot be read: ")
    assert parts_on_disk(lake) == parts


DAMAGES = {
    "a key that stands twice": (lambda t: with_column(t, "customer_id", [7, 7, *range(100, 898)]), "rejected rows", 2),
    "a null key": (lambda t: with_column(t, "customer_id", [None, *range(799)]), "rejected rows", 1),
    "other customers": (lambda t: with_column(t, "balance", np.full(800, 9_999, np.float32)), "score shift", 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_population_that_fails_the_audit_is_not_published(lake, friday, damage):
    change, field, rejected = DAMAGES[damage]
    rows = customers(800)
    write_files(lake, POPULATION, [change(rows)])
    error = refused(lake, AuditError, r"The predictions of 2026-11-21 failed their audit .* branch 'audit_20261121_")
    assert [problem.field for problem in error.problems] == [field]
    assert audit_branches(lake) == {error.branch}
    assert (
        lake.catalog.load_table(PREDICTIONS).scan().use_ref(error.branch).to_arrow().num_rows
        == len(friday) + 800 - rejected
    )
    assert len(rejected_rows(lake)) == rejected  # so that a person can look

    write_files(lake, POPULATION, [rows])
    publish(lake)
    assert audit_branches(lake) == set()
    assert rejected_rows(lake) == []
    assert scores_by_key(published_rows(lake)) == scored_directly(rows, night().scorer)


def forgetful(written: list[Any]) -> list[Any]:
    """Lose a part, as a cluster that drops a task would."""
    return written[:-1] if isinstance(written[0], ScoredPart) else written


def careless(written: list[Any]) -> list[Any]:
    """Write other scores into a part, as somebody at the disk may between the write and the audit."""
    if isinstance(written[0], ScoredPart):
        path = urlparse(written[0].parts[0]).path
        part = pq.read_table(path)
        pq.write_table(with_column(part, SCORE, np.full(len(part), 0.5, np.float32)), path)
    return written


def destructive(written: list[Any]) -> list[Any]:
    """Cut a part short before it is staged."""
    if isinstance(written[0], ScoredPart):
        cut_short(written[-1].parts[0])
    return written


def cut_short(address: str) -> None:
    path = Path(urlparse(address).path)
    path.write_bytes(path.read_bytes()[:-40])


class DestructiveAudit(LocalEngine):
    """An engine with somebody at the disk behind it who cuts a staged part short before the audit reads it."""

    def map(self, function, tasks):
        tasks = list(tasks)
        staged = [file.address for task in tasks for file in task.files if str(SATURDAY) in file.address]
        for address in staged[:1]:
            cut_short(address)
        return super().map(function, tasks)


def thieving(written: list[Any]) -> list[Any]:
    """Put one part in the place of another: as many rows or not, they are not the ones that were written there."""
    if isinstance(written[0], ScoredPart):
        first, last = (Path(urlparse(part.parts[0]).path) for part in (written[0], written[-1]))
        last.write_bytes(first.read_bytes())
    return written


def test_lost_rows_are_found(lake, friday):
    error = refused(lake, AuditError, "differ in number from the 4,000 that the", engine=WatchedEngine(forgetful))
    assert [problem.field for problem in error.problems] == ["rows"]
    assert publish(lake).report.rows == len(friday)


def test_a_part_that_changed_on_the_disk_is_found(lake, friday):
    error = refused(lake, AuditError, "read back differs from the score that was", engine=WatchedEngine(careless))
    assert {problem.field for problem in error.problems} >= {"score"}
    assert publish(lake).report.rows == len(friday)


def test_a_part_in_the_place_of_another_is_found(lake, friday):
    error = refused(lake, AuditError, "keys stand more than once", engine=WatchedEngine(thieving))
    assert {problem.field for problem in error.problems} >= {"entity key", "rows"}
    assert publish(lake).report.rows == len(friday)


@pytest.mark.parametrize("engine", [WatchedEngine(destructive), DestructiveAudit(2)], ids=["before", "after"])
def test_a_part_that_was_cut_short_before_or_after_it_was_staged_is_found(lake, friday, engine):
    refused(lake, LakehouseError, rf"'{PREDICTIONS}' cannot be (read|changed): .*footer.*again", engine=engine)
    assert publish(lake).report.rows == len(friday)
    assert audit_branches(lake) == set()


def test_scores_that_are_no_probabilities_are_found(lake, friday):
    graph = onnx.load_model_from_string(tiny_onnx(tiny_contract()))
    (sigmoid,) = [node for node in graph.graph.node if node.op_type == "Sigmoid"]
    sigmoid.op_type = "Identity"
    broken = Scorer(graph.SerializeToString())
    error = refused(lake, AuditError, "is not a number from 0 to 1", scorer=broken, limits=LAX)
    assert [problem.field for problem in error.problems] == ["score"]


# --- full disks -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes: a full disk, as far as a writer can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_a_rerun_and_nothing_else(lake, friday):
    large = customers(100_000, first_key=10_000)
    write_files(lake, POPULATION, [customers(1000), large])
    before, parts = lake.snapshot(PREDICTIONS), parts_on_disk(lake)
    with largest_file(200_000), pytest.raises(LakehouseError, match=r"cannot be written: .*File too large.*make room"):
        publish(lake)
    assert lake.snapshot(PREDICTIONS) == before
    assert parts_on_disk(lake) == parts
    assert audit_branches(lake) == set()
    published = publish(lake)
    assert max(part.stat().st_size for part in parts_on_disk(lake)) > 200_000
    assert published.report.rows == 101_000


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """Mount a disk of 8 MB."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    if not shutil.which("mount"):
        pytest.skip("there is no program `mount`")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tandem-test", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("catalog", ["beside the table", "on a disk of its own"])
def test_a_disk_that_fills_at_any_step_costs_a_rerun_and_nothing_else(small_disk, tmp_path, catalog):
    rows = with_column(customers(40_000), "tenure_months", np.arange(40_000, dtype=np.int32) % 603)
    others = Scorer(tiny_onnx(tiny_contract(), seed=5))
    beside = catalog == "beside the table"
    settings = Settings(home=(small_disk if beside else tmp_path) / "tandem", warehouse=str(small_disk / "lake"))
    with Lakehouse.open(settings) as lake:
        write_files(lake, POPULATION, [rows.slice(start, 10_000) for start in range(0, 40_000, 10_000)])
        free = shutil.disk_usage(small_disk).free
        old = publish(lake, limits=LAX)
        size = free - shutil.disk_usage(small_disk).free
        before, rejected = published_rows(lake), rejected_keys(lake)
        assert len(rejected) == 40_000 - old.report.rows > 0
        refusals, room = [], 0
        while True:
            parts = set(parts_on_disk(lake))
            with filled(small_disk, room):
                try:
                    publish(lake, scorer=others, version=4, limits=LAX)
                    break
                except LakehouseError as error:
                    refusals.append(str(error))
            assert lake.snapshot(PREDICTIONS) == old.snapshot
            assert published_rows(lake).equals(before)
            assert rejected_keys(lake) == rejected
            assert beside or set(parts_on_disk(lake)) - parts <= parts_on_branches(lake)
            room += size // 12
        assert len(refusals) >= 5
        assert all("run again" in refusal and re.search("No space left|is full", refusal) for refusal in refusals)
        publish(lake, scorer=others, version=4, limits=LAX)
        good = rows.filter(pc.less_equal(rows["tenure_months"], 600))
        assert scores_by_key(published_rows(lake)) == scored_directly(good, others)
        assert audit_branches(lake) == set()


def rejected_keys(lake: Lakehouse) -> set[int]:
    return {row["customer_id"] for row in rejected_rows(lake)}


@contextlib.contextmanager
def filled(disk: Path, room: int) -> Iterator[None]:
    """Leave `room` bytes on a disk, for a while."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - room)))
    try:
        yield
    finally:
        ballast.unlink()
