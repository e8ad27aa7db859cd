"""Where a function over files runs: on the threads of this machine, or on Spark (`spark_engine`).

An engine maps a function over file tasks and returns its results in order; only the caller talks to the catalog.
"""

import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

from backends.settings import Settings
from models.errors import EngineError

Task = TypeVar("Task")
Result = TypeVar("Result")


class Engine(Protocol):
    """Maps a function over tasks."""

    @property
    def slots(self) -> int:
        """How many tasks run at once."""
        ...

    @property
    def cpu_seconds(self) -> float:
        """A clock of the CPU time that this process and the engine's tasks take; two readings tell what lay between."""
        ...

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
        """Return the results in the order of the tasks; the first error stops the rest and is raised."""
        ...


class LocalEngine:
    """Threads of this process: reading Parquet, encoding and the network all release Python's lock."""

    def __init__(self, threads: int) -> None:
        self.slots = threads

    @property
    def cpu_seconds(self) -> float:
        """A clock of the CPU time of this process, all of its threads."""
        return time.process_time()

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
        """Return the results in the order of the tasks; the first error stops the rest and is raised."""
        pool = ThreadPoolExecutor(self.slots, thread_name_prefix="engine")
        try:
            futures = [pool.submit(function, task) for task in tasks]
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # an interrupt ends the wait too: what has not begun then never begins
            pool.shutdown(wait=True, cancel_futures=True)
        failed = [future for future in futures if not future.cancelled() and future.exception()]
        return [future.result() for future in failed or futures]


def engine_of(settings: Settings) -> Engine:
    """Return the engine that the settings name; `EngineError` when it is not installed."""
    if settings.engine == "local":
        return LocalEngine(settings.threads)
    try:
        from backends.spark_engine import SparkEngine
    except ModuleNotFoundError as error:
        raise EngineError(
            f"TANDEM_ENGINE is 'spark', but {error.name} is not installed. Install the extra: tandem[spark]."
        ) from error
    return SparkEngine(
        settings.spark_master,
        settings.spark_python or sys.executable,
        settings.spark_log,
        settings.spark_properties,
        settings.spark_wait_seconds,
    )
