"""Spark maps a function over file tasks, on one machine or many. The only file that knows pyspark.

Executors read files and write parts; Spark's own formats and catalogs are not used. What a task refuses comes back as
it was raised. A task is tried again only where that can help: its executor was lost, or a disk or a store failed.
"""

import atexit
import re
import socket
import threading
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark import Accumulator, AccumulatorParam, Broadcast, SparkConf, SparkContext, TaskContext, cloudpickle
from pyspark.errors import PySparkException
from pyspark.java_gateway import launch_gateway

from backends.engines import Result, Task
from models.errors import EngineError

POLL_SECONDS = 0.1
SETTLING_SECONDS = 1.0  # the executors of a cluster report one after the other
STRAGGLER_SECONDS = 30.0
SAME_VERSIONS = ("numpy", "onnxruntime", "pyarrow", "pyiceberg")  # they decide what is scored and written
PERMANENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
FRAMES = ("at ", "...", "Caused by: ", "SQLSTATE: ")  # of Java, in what Spark says

PROPERTIES = {
    "spark.app.name": "tandem",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.python.worker.reuse": "true",  # a process makes the model's session once
    "spark.executorEnv.OMP_NUM_THREADS": "1",  # a task has one core, Arrow too
}
ON_THIS_MACHINE = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}

_session_lock = threading.Lock()


class SparkEngine:
    """The executors of a Spark master. The session is made at the first use, once in a process, and reused.

    `python` is the interpreter of the executors, `properties` are Spark's own and replace the defaults. What Java
    writes to the console is appended to the file `log`.
    """

    def __init__(
        self, master: str, python: str, log: Path, properties: Mapping[str, str] | None = None, wait_seconds: int = 300
    ) -> None:
        self.master, self.python, self.log, self.wait_seconds = master, python, log, wait_seconds
        local = ON_THIS_MACHINE if re.match(r"local(\[|$)", master) else {}
        self.properties = {**PROPERTIES, **local, **(properties or {}), "spark.master": master}
        self._seconds_of_tasks = 0.0

    @property
    def slots(self) -> int:
        """How many tasks run at once: the cores of the executors that are there now."""
        session = self._session()
        with _giving_up_named(self.master):
            return int(session.defaultParallelism)

    @property
    def cpu_seconds(self) -> float:
        """A clock of the CPU time of this process and of the executors' Python; what Java takes is not in it."""
        return time.process_time() + self._seconds_of_tasks

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
        """Return the results in the order of the tasks; the first error stops the rest and is raised.

        `EngineError` when Spark itself gives up: without executors, or with a task that every executor is lost over.
        """
        listed = list(tasks)
        if not listed:
            return []
        session = self._session()
        with _giving_up_named(self.master):
            results = _Mapping(session, function, listed).results()
        self._seconds_of_tasks += sum(seconds for _, seconds in results)
        return [result for result, _ in results]

    def stop(self) -> None:
        """End this process's session; the next use makes another."""
        with _session_lock:
            if SparkContext._active_spark_context:
                SparkContext._active_spark_context.stop()

    def _session(self) -> SparkContext:
        with _session_lock:
            running = SparkContext._active_spark_context
            if running and running._jsc.sc().isStopped():  # by Spark itself: its master went away
                running.stop()
                running = None
            if running is None:
                return self._started()
            if running.master != self.master:
                raise EngineError(
                    f"This process has a Spark session on {running.master!r}, and one on {self.master!r} was asked for "
                    "too. Use another process for it."
                )
            return running

    def _started(self) -> SparkContext:
        try:
            # In a thread of its own: in the main one, pyspark would take over the handling of interrupts.
            with ThreadPoolExecutor(1, thread_name_prefix="spark") as pool:
                context = pool.submit(self._start).result()
        except (Py4JError, PySparkException) as error:
            raise EngineError(
                f"No Spark session on {self.master!r} can be started: {_reason(error)} Spark needs Java 17 or newer; "
                f"look at TANDEM_SPARK_MASTER and TANDEM_SPARK_PROPERTIES too. Spark's own words are in {self.log}."
            ) from error
        atexit.register(self.stop)
        try:
            self._wait_for_executors(context)
        except BaseException:
            context.stop()
            raise
        return context

    def _start(self) -> SparkContext:
        conf = SparkConf(loadDefaults=False).setAll(list(self.properties.items()))
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(), self.log.open("ab") as log:
            warnings.simplefilter("ignore")  # of pyspark's frames, which are not used, about pandas
            import_module("pyspark.testing.utils")
            gateway = SparkContext._gateway or launch_gateway(conf, {"stdout": log, "stderr": log})
            context = SparkContext(conf=conf, gateway=gateway)
        context.pythonExec = self.python
        return context

    def _wait_for_executors(self, context: SparkContext) -> None:
        """Wait until there is one, and then until no more of them report."""
        if context._jsc.sc().isLocal():
            return
        begun = settled = time.monotonic()
        cores = 0
        while not cores or time.monotonic() - settled < SETTLING_SECONDS:
            now = _cores(context)
            if now is None or (not now and time.monotonic() - begun > self.wait_seconds):
                raise EngineError(
                    f"Spark on {self.master!r} gave no executor within {time.monotonic() - begun:.0f} s. See that its "
                    "master runs and that a worker has cores and memory free, or set TANDEM_SPARK_WAIT_SECONDS higher. "
                    f"Spark's own words are in {self.log}."
                )
            if now != cores:
                cores, settled = now, time.monotonic()
            time.sleep(POLL_SECONDS)


# --- on the driver --------------------------------------------------------------------------------------------------


class _Mapping(Generic[Task, Result]):
    """One function over some tasks: one job of Spark, with a partition for each task."""

    def __init__(self, context: SparkContext, function: Callable[[Task], Result], tasks: list[Task]) -> None:
        self._context, self._tasks = context, tasks
        self._group = f"tandem-{uuid.uuid4().hex}"
        self._function = context.broadcast(_Sent(function))
        self._failures = context.accumulator([], _Gathered())

    def results(self) -> list[tuple[Result, float]]:
        """Run the job; the first refusal cancels it, and so does an interrupt. Each result has its CPU seconds."""
        with ThreadPoolExecutor(1, thread_name_prefix="spark") as pool:
            job = pool.submit(self._collect)
            try:
                while not wait([job], POLL_SECONDS).done and not self._failures.value:
                    pass
            finally:
                self._end(job)
        if self._failures.value:
            raise min(self._failures.value, key=lambda failure: failure.position).error()
        return job.result()

    def _collect(self) -> list[tuple[Result, float]]:
        # Not interrupted but ended by a kill of its Python process: Spark then waits until that is really dead.
        self._context.setJobGroup(self._group, f"map over {len(self._tasks)} tasks", interruptOnCancel=False)
        attempt = partial(_attempt, self._function, self._failures, _most_attempts(self._context))
        spread = self._context.parallelize(list(enumerate(self._tasks)), len(self._tasks))
        return list(spread.mapPartitions(attempt).collect())

    def _end(self, job: Future[list[tuple[Result, float]]]) -> None:
        """Cancel what still runs and wait for it: whoever tidies up afterwards finds nothing in the making."""
        with suppress(Py4JError):  # Spark itself has ended
            while not job.done():
                self._context.cancelJobGroup(self._group)
                wait([job], POLL_SECONDS)
            deadline = time.monotonic() + STRAGGLER_SECONDS
            while self._active_tasks() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            self._function.destroy()

    def _active_tasks(self) -> int:
        tracker = self._context.statusTracker()
        jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(self._group)]
        stages = [tracker.getStageInfo(stage) for job in jobs if job for stage in job.stageIds]
        return sum(stage.numActiveTasks for stage in stages if stage)


def _cores(context: SparkContext) -> int | None:
    """Return how many cores the executors of a cluster have; None when Spark has stopped the session itself."""
    try:
        executors = context._jsc.sc().getExecutorMemoryStatus().size() - 1  # the driver is one of them
        return int(context.defaultParallelism) if executors else 0
    except Py4JError:
        return None


def _most_attempts(context: SparkContext) -> int:
    """Return how often Spark tries a task: on this machine once, unless the master says `local[cores, attempts]`."""
    if context._jsc.sc().isLocal():
        found = re.fullmatch(r"local\[[^,]+,\s*(\d+)\s*\]", context.master)
        return int(found[1]) if found else 1
    return int(context.getConf().get("spark.task.maxFailures", "4"))


@contextmanager
def _giving_up_named(master: str) -> Iterator[None]:
    try:
        yield
    except Py4JError as error:
        raise EngineError(
            f"Spark on {master!r} gave up: {_reason(error)} Its executors need the Python packages of this process, "
            "and memory for a share each: see docs/scaling.md."
        ) from error


def _reason(error: Exception) -> str:
    """Return the first and the last line of what Spark says, without the frames of Java."""
    said = error.java_exception.getMessage() if isinstance(error, Py4JJavaError) else str(error)
    lines = [line.strip() for line in str(said).partition("Driver stacktrace:")[0].splitlines()]
    told = [line for line in lines if line and not line.startswith(FRAMES)]
    return " ... ".join(dict.fromkeys([*told[:1], *told[-1:]])) or type(error).__name__


# --- on the way -----------------------------------------------------------------------------------------------------


class _Sent:
    """A function on its way to the executors: pickled once, and unpickled once in each of their processes."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __call__(self, task: Any) -> Any:
        return self._function(task)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[bytes, dict[str, str]]]:
        return _arrived, (cloudpickle.dumps(self._function), _versions())


def _arrived(function: bytes, versions: dict[str, str]) -> Any:
    here = _versions()
    if here != versions:
        other = ", ".join(f"{name} {here[name]} instead of {versions[name]}" for name in here)
        raise EngineError(
            f"The executor on {socket.gethostname()} has {other}: its scores could differ from the driver's. Install "
            "the same packages there, or name another interpreter as TANDEM_SPARK_PYTHON."
        )
    return cloudpickle.loads(function)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in SAME_VERSIONS}


class _Gathered(AccumulatorParam[list[Any]]):  # type: ignore[misc]
    """Adds lists up."""

    def zero(self, value: list[Any]) -> list[Any]:  # noqa: ARG002  pyspark asks for it
        return []

    def addInPlace(self, value1: list[Any], value2: list[Any]) -> list[Any]:  # noqa: N802  pyspark's name
        return value1 + value2


@dataclass(frozen=True)
class _Failure:
    """An error on its way to the driver, in parts: many classes cannot be pickled, or lose their message over it."""

    position: int
    kind: type[BaseException]
    arguments: tuple[Any, ...]
    state: dict[str, Any]
    text: str
    cause: "_Failure | None"

    @classmethod
    def of(cls, position: int, error: BaseException) -> "_Failure":
        """Take the error of a task apart; one that cannot travel becomes an `EngineError` that tells about it."""
        cause = cls.of(position, error.__cause__) if error.__cause__ else None
        made = cls(position, type(error), error.args, vars(error), str(error), cause)
        try:
            cloudpickle.loads(cloudpickle.dumps(made))
        except Exception:  # noqa: BLE001  whatever the classes of others raise when they are pickled
            told = f"{type(error).__name__}: {error}"
            return cls(position, EngineError, (told,), {}, told, cause)
        return made

    def error(self) -> BaseException:
        """Put the error together again."""
        made = self._constructed()
        vars(made).update(self.state)
        made.__cause__ = self.cause.error() if self.cause else None
        return made

    def _constructed(self) -> BaseException:
        with suppress(Exception):
            made = self.kind(*self.arguments)
            if str(made) == self.text:
                return made
        return self.kind.__new__(self.kind, *self.arguments)


# --- on the executors -----------------------------------------------------------------------------------------------


def _attempt(
    function: "Broadcast[_Sent]", failures: "Accumulator[list[Any]]", most: int, tasks: Iterator[tuple[int, Any]]
) -> Iterator[Any]:
    """Yield the result of each task and its CPU seconds; there is one task.

    A refusal is handed in, what may pass is raised for another try.
    """
    for position, task in tasks:
        begun = time.process_time()  # a worker has one task at a time
        try:
            result = function.value(task)
        except Exception as error:
            if _may_pass(error) and _attempts_so_far() < most:
                raise
            error.add_note(f"On {socket.gethostname()}:\n{''.join(traceback.format_exception(error))}")
            failures.add([_Failure.of(position, error)])
        else:
            yield result, time.process_time() - begun


def _attempts_so_far() -> int:
    context = TaskContext.get()
    return int(context.attemptNumber()) + 1 if context else 1


def _may_pass(error: BaseException | None) -> bool:
    """Tell whether an error, or what caused it, is one of the outside world, which may be well again in a moment."""
    while error is not None:
        if isinstance(error, (OSError, MemoryError)) and not isinstance(error, PERMANENT):
            return True
        error = error.__cause__
    return False
