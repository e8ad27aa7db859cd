"""The local engine: results in order, the first error stops the rest, nothing is left behind. Which engine it is."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from backends.engines import LocalEngine, engine_of
from backends.settings import ROOT, Settings
from models.errors import EngineError


def test_results_come_in_the_order_of_the_tasks():
    def slower_for_the_first(task: int) -> int:
        time.sleep(0.02 if task < 2 else 0)
        return task * task

    assert LocalEngine(4).map(slower_for_the_first, iter(range(20))) == [task * task for task in range(20)]


def test_there_may_be_nothing_to_do():
    assert LocalEngine(2).map(str, []) == []


def test_tasks_run_side_by_side_in_as_many_threads_as_asked_for():
    together = threading.Barrier(3, timeout=30)

    def meet(task: int) -> str:
        together.wait()
        return threading.current_thread().name

    names = LocalEngine(3).map(meet, range(6))
    assert len(set(names)) == 3
    assert all(name.startswith("engine") for name in names)


def test_the_first_error_is_raised_and_what_has_not_begun_never_begins():
    begun = []

    def fail_at_two(task: int) -> None:
        begun.append(task)
        if task == 2:
            raise ValueError(f"task {task} failed")
        time.sleep(0.01)

    with pytest.raises(ValueError, match="task 2 failed"):
        LocalEngine(1).map(fail_at_two, range(1000))
    assert begun[:3] == [0, 1, 2]
    assert len(begun) < 1000


def test_running_tasks_end_before_the_error_is_raised():
    both_run, ended = threading.Barrier(2, timeout=30), []

    def task_of(task: int) -> None:
        both_run.wait()
        if task == 0:
            raise ValueError("the first one")
        time.sleep(0.05)
        ended.append(task)

    with pytest.raises(ValueError, match="the first one"):
        LocalEngine(2).map(task_of, range(2))
    assert ended == [1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine")]


class Interrupted(BaseException):
    pass


@pytest.fixture
def _interruptible():
    def interrupt_once(*_: object) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt_once)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_stops_what_has_not_begun():
    begun, submitted = [], threading.Event()

    def tasks():
        yield from range(1000)
        submitted.set()

    def interrupt(task: int) -> None:
        begun.append(task)
        submitted.wait(30)
        # Again and again: a signal in the moment before a thread begins to wait does not end its wait.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        time.sleep(0.01)

    with pytest.raises(Interrupted):
        LocalEngine(1).map(interrupt, tasks())
    assert len(begun) < 1000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine")]


def test_the_settings_name_the_engine(tmp_path):
    engine = engine_of(Settings(home=tmp_path, threads=7))
    assert isinstance(engine, LocalEngine)
    assert engine.slots == 7


def test_spark_is_made_as_the_settings_say_and_starts_nothing_yet(tmp_path):
    spark_engine = pytest.importorskip("backends.spark_engine", reason="the spark extra is not installed")
    properties = {"spark.ui.enabled": True, "spark.executor.memory": "4g"}
    named = {"engine": "spark", "spark_master": "spark://spark:7077", "spark_properties": properties}
    engine = engine_of(Settings(home=tmp_path, **named))
    assert isinstance(engine, spark_engine.SparkEngine)
    assert (engine.master, engine.python) == ("spark://spark:7077", sys.executable)
    assert engine.properties["spark.ui.enabled"] == "true"
    assert engine.properties["spark.executor.memory"] == "4g"
    assert engine.properties["spark.python.worker.reuse"] == "true"
    assert engine_of(Settings(home=tmp_path, engine="spark", spark_python="/opt/python")).python == "/opt/python"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_pyspark_is_named_with_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "backends.spark_engine", raising=False)
    with pytest.raises(EngineError, match=r"'spark', but pyspark is not installed\. Install .* tandem\[spark\]"):
        engine_of(Settings(engine="spark"))


def test_pyspark_is_not_imported_before_it_is_asked_for():
    program = "import sys, backends.engines, backends.batch_scoring; assert not {'pyspark', 'py4j'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
