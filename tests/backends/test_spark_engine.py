"""Spark on a real cluster: the same night as on this machine, whoever is killed; errors as they were raised."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import psutil
import pyarrow as pa
import pytest

from backends.batch_scoring import score_and_publish
from backends.engines import LocalEngine, engine_of
from backends.lakehouse.catalog import Lakehouse
from backends.nights import Published
from backends.scored_parts import ScoredPart
from backends.settings import ROOT, Settings
from models import counting
from models.audit import Limits
from models.errors import EngineError, LakehouseError, Problem, ValueRejectedError
from models.scoring import Scorer
from tests.backends.nights import POPULATION, PREDICTIONS, REJECTS, customers, night, with_column, write_files
from tests.spark_cluster import SMALL, Cluster, java_is_missing, running_cluster
from tests.tiny_model import tiny_contract, tiny_onnx_with_profile, tiny_onnx_with_reference

pytest.importorskip("pyspark", reason="the spark extra is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(java_is_missing(), reason="Spark needs Java")]

PROFILED = Scorer(tiny_onnx_with_profile(tiny_contract(), customers(5000, seed=1)))
SPARK_PREDICTIONS, SPARK_REJECTS = "gold.spark_predictions", "gold.spark_rejects"
PATIENCE = 120
QUICK_SPECULATION = {
    "spark.speculation": "true",
    "spark.speculation.interval": "100ms",
    "spark.speculation.quantile": "0.1",
    "spark.speculation.minTaskRuntime": "500ms",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("spark")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def engine_on(cluster, tmp_path_factory) -> Iterator[Callable[..., Any]]:
    """Return how to make an engine; all share the process's one session."""
    home = tmp_path_factory.mktemp("home")

    def make(master: str = cluster.master, wait_seconds: int = PATIENCE, **properties: str) -> Any:
        return engine_of(
            Settings(
                home=home,
                engine="spark",
                spark_master=master,
                spark_properties={**SMALL, **{name.replace("_", "."): text for name, text in properties.items()}},
                spark_wait_seconds=wait_seconds,
            )
        )

    yield make
    make().stop()


@pytest.fixture(scope="module")
def engine(engine_on):
    return engine_on()


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def wait_until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def burn(seconds: float) -> float:
    """Take CPU time; a function that an engine maps."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return seconds


# --- mapping --------------------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_tasks_from_all_slots(engine):
    interrupts = signal.getsignal(signal.SIGINT)

    def square(task: int) -> tuple[int, int, str]:
        time.sleep(0.5 if task < 2 else 0.01)
        return task * task, os.getpid(), os.environ["OMP_NUM_THREADS"]

    assert engine.slots == 2
    squares, processes, threads = zip(*engine.map(square, iter(range(20))), strict=True)
    assert squares == tuple(task * task for task in range(20))
    assert len(set(processes)) == 2
    assert os.getpid() not in processes
    assert set(threads) == {"1"}
    assert signal.getsignal(signal.SIGINT) == interrupts  # pyspark puts in one of its own


def test_the_cpu_time_of_the_executors_counts(engine):
    engine.map(burn, [0.0, 0.0, 0.0])  # what their Python takes to start is not to be looked at
    own, before = time.process_time(), engine.cpu_seconds
    assert engine.map(burn, [0.3, 0.2, 0.5]) == [0.3, 0.2, 0.5]
    elsewhere = engine.cpu_seconds - before - (time.process_time() - own)
    assert 1.0 <= elsewhere < 3.0


def test_what_the_function_carries_is_made_once_in_each_process(engine, tmp_path):
    class Model:
        def __init__(self, made: Path) -> None:
            self.made = made
            with made.open("a") as file:
                file.write(f"{os.getpid()}\n")

        def __reduce__(self):
            return type(self), (self.made,)

        def __call__(self, task: int) -> int:
            time.sleep(0.05)
            return os.getpid()

    processes = engine.map(Model(tmp_path / "made"), range(16))
    made = lines(tmp_path / "made")
    assert sorted(made) == sorted(map(str, {os.getpid(), *processes}))


def test_there_may_be_nothing_to_do(engine_on):
    assert engine_on("spark://127.0.0.1:1").map(str, []) == []


# --- errors ---------------------------------------------------------------------------------------------------------


def test_a_refusal_arrives_as_it_was_raised_and_stops_the_rest(engine, tmp_path):
    begun = tmp_path / "begun"

    def refuse(task: int) -> int:
        with begun.open("a") as file:
            file.write(f"{task}\n")
        if task == 3:
            raise ValueRejectedError([Problem("age_years", 7.0, "is out of bounds", "Mend it.")]) from KeyError("age")
        time.sleep(0.1)
        return task

    with pytest.raises(ValueRejectedError) as caught:
        engine.map(refuse, range(2000))
    assert str(caught.value) == "age_years: is out of bounds (value: 7.0). Mend it."
    assert caught.value.problems == [Problem("age_years", 7.0, "is out of bounds", "Mend it.")]
    assert repr(caught.value.__cause__) == "KeyError('age')"
    assert "in refuse" in "".join(caught.value.__notes__)
    assert lines(begun).count("3") == 1
    assert len(lines(begun)) < 2000


@pytest.mark.parametrize("times", [1, 4])
def test_what_may_pass_is_tried_again_and_arrives_when_it_does_not_pass(engine, tmp_path, times):
    tried = tmp_path / "tried"

    def fail(task: int) -> int:
        if task == 1:
            with tried.open("a") as file:
                file.write("once more\n")
            if len(tried.read_text().splitlines()) <= times:
                raise LakehouseError("a part cannot be read") from OSError(5, "the store is busy")
        return task

    if times == 1:
        assert engine.map(fail, range(3)) == [0, 1, 2]
    else:
        with pytest.raises(LakehouseError, match="a part cannot be read") as caught:
            engine.map(fail, range(3))
        assert repr(caught.value.__cause__) == "OSError(5, 'the store is busy')"
    assert len(lines(tried)) == min(times + 1, 4)


def test_a_file_that_is_gone_is_not_looked_for_again(engine, tmp_path):
    tried = tmp_path / "tried"

    def read(task: int) -> str:
        with tried.open("a") as file:
            file.write("once more\n")
        return Path("/nowhere/at/all").read_text()

    with pytest.raises(FileNotFoundError, match="/nowhere/at/all"):
        engine.map(read, range(1))
    assert len(lines(tried)) == 1


def test_an_error_that_cannot_travel_is_told(engine):
    class LockedError(Exception):
        def __init__(self) -> None:
            super().__init__("nobody gets in")
            self.lock = threading.Lock()

    def fail(task: int) -> None:
        raise LockedError

    with pytest.raises(EngineError, match="LockedError: nobody gets in"):
        engine.map(fail, range(2))


def test_a_task_that_no_executor_survives_is_given_up(engine):
    def die(task: int) -> None:
        os._exit(1)

    with pytest.raises(EngineError, match=r"Spark on 'spark://.*' gave up: .*failed 4 times.*Python worker exited"):
        engine.map(die, range(1))


def test_other_packages_on_an_executor_are_refused(engine, monkeypatch):
    import backends.spark_engine

    monkeypatch.setattr(backends.spark_engine, "version", lambda name: "0.0.1")
    with pytest.raises(EngineError, match=r"has numpy .* instead of 0\.0\.1.*Install the same packages there"):
        engine.map(str, range(1))


class Interrupted(BaseException):
    pass


def test_an_interrupt_ends_the_job_and_its_processes(engine, tmp_path):
    began = tmp_path / "began"

    def interrupt(*_: object) -> None:
        raise Interrupted

    def sleep(task: int) -> None:
        with began.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(600)

    def interrupt_when_begun() -> None:
        wait_until(lambda: len(lines(began)) == 2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        threading.Thread(target=interrupt_when_begun).start()
        with pytest.raises(Interrupted):
            engine.map(sleep, range(4))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not [pid for pid in lines(began) if psutil.pid_exists(int(pid))]
    assert engine.map(str, range(2)) == ["0", "1"]


# --- the night ------------------------------------------------------------------------------------------------------


@pytest.fixture
def lake(tmp_path, monkeypatch) -> Iterator[Lakehouse]:
    """Return a lake with a population of twelve files, some rows of which are refused. Of four, one is counted."""
    monkeypatch.setattr(counting, "SAMPLED_ROWS", 600)
    with Lakehouse.open(Settings(home=tmp_path / "tandem's höme")) as lake:
        files = [customers(200, first_key=200 * number) for number in range(12)]
        files[3] = with_column(files[3], "tenure_months", np.array([601, *range(199)], np.int32))
        files[5] = with_column(files[5], "customer_id", [None, *range(1001, 1200)])
        files[7] = with_column(files[7], "customer_id", [1599, *range(1401, 1600)])
        write_files(lake, POPULATION, files)
        yield lake


def publish(lake: Lakehouse, engine: Any, predictions: str, rejects: str) -> Published:
    limits = Limits(max_shift=0.25, max_rejected_share=0.01)
    tonight = night(predictions=predictions, rejects=rejects, limits=limits, scorer=PROFILED)
    return score_and_publish(lake, engine, tonight)


def rows_of(lake: Lakehouse, table: str, *order: str) -> pa.Table:
    return lake.read(table).sort_by([(column, "ascending") for column in order])


def files_of(lake: Lakehouse, table: str) -> set[str]:
    return {urlparse(file.address).path for file in lake.plan(table).files}


def files_on_disk(lake: Lakehouse, table: str) -> set[str]:
    return {str(path) for path in Path(urlparse(lake.location(table)).path).glob("data/**/*.*")}


def assert_the_same_night(lake: Lakehouse, local: Published, spark: Published) -> None:
    """Compare what two engines published, row by row and bit by bit, and find nothing else on the disk."""
    key = "customer_id"
    assert rows_of(lake, SPARK_PREDICTIONS, key).equals(rows_of(lake, PREDICTIONS, key))
    assert rows_of(lake, SPARK_REJECTS, key, "reason").equals(rows_of(lake, REJECTS, key, "reason"))
    told, measured = spark.snapshot.properties, "scoring_cpu_seconds"
    assert told == local.snapshot.properties | {measured: told[measured]}
    assert json.loads(told["drift"])["rows"] == pytest.approx(600, abs=spark.parts)
    assert (spark.report.tally.rows, spark.report.problems) == (local.report.tally.rows, [])
    for figure in ("source", "positives", "parts", "unseen", "reasons"):
        assert getattr(spark, figure) == getattr(local, figure)
    assert len(files_of(lake, SPARK_PREDICTIONS)) == spark.parts == 8  # four for each slot, out of twelve files
    for table in (SPARK_PREDICTIONS, SPARK_REJECTS):
        assert files_on_disk(lake, table) == files_of(lake, table)


@pytest.fixture
def local(lake) -> Published:
    """Return what this machine publishes."""
    published = publish(lake, LocalEngine(2), PREDICTIONS, REJECTS)
    assert published.report.rows == 2400 - 4
    assert sum(published.reasons.values()) == 4
    return published


def test_a_night_on_spark_is_that_of_this_machine(lake, local, engine):
    spark = publish(lake, engine, SPARK_PREDICTIONS, SPARK_REJECTS)
    assert_the_same_night(lake, local, spark)


def test_reasons_that_spark_gives_are_those_of_this_machine(lake, engine):
    scorer = Scorer(tiny_onnx_with_reference(tiny_contract()))
    limits = Limits(max_shift=0.25, max_rejected_share=0.01)
    for one, predictions, rejects in (
        (LocalEngine(2), PREDICTIONS, REJECTS),
        (engine, SPARK_PREDICTIONS, SPARK_REJECTS),
    ):
        tonight = night(predictions=predictions, rejects=rejects, limits=limits, scorer=scorer, reasons=2)
        score_and_publish(lake, one, tonight)
    rows = rows_of(lake, PREDICTIONS, "customer_id")
    assert any(rows["reasons"].to_pylist())
    assert rows_of(lake, SPARK_PREDICTIONS, "customer_id").equals(rows)


class HoldingEngine:
    """An engine whose third share is written, but held back when it is tried first: its process is in `held`."""

    def __init__(self, engine: Any, held: Path) -> None:
        self.engine, self.held, self.slots = engine, held, engine.slots

    @property
    def cpu_seconds(self) -> float:
        return self.engine.cpu_seconds

    def map(self, function: Callable[[Any], Any], tasks: Any) -> list[Any]:
        held = self.held

        def hold(task: Any) -> Any:
            from pyspark import TaskContext

            result = function(task)
            is_third = isinstance(result, ScoredPart) and task.position == 2
            if is_third and TaskContext.get().attemptNumber() == 0 and not held.exists():
                with held.open("a") as file:
                    file.write(f"{os.getpid()}\n{result.parts[0]}\n")
                time.sleep(600)
            return result

        return self.engine.map(hold, tasks)


def test_an_executor_that_is_killed_costs_a_retry_and_nothing_else(lake, local, engine, cluster, tmp_path):
    held = tmp_path / "held"

    def kill_its_executor() -> None:
        wait_until(lambda: len(lines(held)) == 2)
        cluster.executor_of(int(lines(held)[0])).kill()

    killer = threading.Thread(target=kill_its_executor)
    killer.start()
    spark = publish(lake, HoldingEngine(engine, held), SPARK_PREDICTIONS, SPARK_REJECTS)
    killer.join()
    process, part = lines(held)
    assert_the_same_night(lake, local, spark)
    assert urlparse(part).path not in files_on_disk(lake, SPARK_PREDICTIONS)  # it was written, and its attempt lost
    wait_until(lambda: not psutil.pid_exists(int(process)))


def test_a_damaged_file_stops_the_night_by_its_name(lake, engine):
    damaged = sorted(files_on_disk(lake, POPULATION))[4]
    Path(damaged).write_bytes(Path(damaged).read_bytes()[:-100])
    with pytest.raises(LakehouseError, match=rf"{Path(damaged).name} of table '{POPULATION}' cannot be read: "):
        publish(lake, engine, SPARK_PREDICTIONS, SPARK_REJECTS)
    assert lake.snapshot(SPARK_PREDICTIONS).rows == 0
    assert files_on_disk(lake, SPARK_PREDICTIONS) == set()


# --- sessions: what follows stops the one of the tests above --------------------------------------------------------


def test_a_share_that_runs_twice_is_published_once(lake, local, engine, engine_on, tmp_path):
    engine.stop()
    eager = engine_on(**{name.replace(".", "_"): value for name, value in QUICK_SPECULATION.items()})
    spark = publish(lake, HoldingEngine(eager, tmp_path / "held"), SPARK_PREDICTIONS, SPARK_REJECTS)
    process, part = lines(tmp_path / "held")
    assert_the_same_night(lake, local, spark)
    assert urlparse(part).path not in files_on_disk(lake, SPARK_PREDICTIONS)
    wait_until(lambda: not psutil.pid_exists(int(process)))


def test_a_process_has_one_session(engine, engine_on):
    assert engine.map(str, [1]) == ["1"]
    with pytest.raises(EngineError, match=r"has a Spark session on 'spark://.*', and one on 'local\[2\]' was"):
        engine_on("local[2]").map(str, [1])


def test_a_cluster_without_room_is_named(engine, engine_on):
    engine.stop()
    greedy = engine_on(wait_seconds=2, spark_executor_memory="64g")
    with pytest.raises(EngineError, match=r"gave no executor within \d+ s.* TANDEM_SPARK_WAIT_SECONDS"):
        greedy.map(str, [1])


def test_spark_runs_on_this_machine_alone_too(engine, engine_on):
    engine.stop()
    alone = engine_on("local[2]")
    assert alone.slots == 2
    assert alone.map(str, range(3)) == ["0", "1", "2"]
    alone.stop()


def test_a_machine_without_java_is_told_so(tmp_path):
    program = (
        "from backends.settings import Settings; from backends.engines import engine_of\n"
        "from models.errors import EngineError\n"
        "try: engine_of(Settings()).slots\n"
        "except EngineError as error: print(error)"
    )
    environment = {**os.environ, "JAVA_HOME": "/nowhere", "TANDEM_HOME": str(tmp_path), "TANDEM_ENGINE": "spark"}
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "No Spark session on 'local[*]' can be started" in told.stdout
    assert "Java 17" in told.stdout
    assert "/nowhere/bin/java" in (tmp_path / "spark.log").read_text()
    assert told.stderr == ""
