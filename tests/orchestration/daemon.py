"""Dagster's daemon with a clock of our own: it looks at the conditions, and runs what they request, at given times.

What runs here is recorded without the checks that were asked for beside its assets, other than by the real daemon: a
check that runs with the asset which it follows is requested a second time.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from unittest.mock import patch
from zoneinfo import ZoneInfo

import dagster as dg
from dagster._core.test_utils import get_freezable_log_manager

from backends.settings import Settings
from orchestration.definitions import assemble
from tests.lives import reason_of

logging.getLogger("dagster.automation_condition_tester").setLevel(logging.WARNING)

LOG_MANAGER = get_freezable_log_manager()  # whose records have the stopped clock's time
SOON = timedelta(minutes=1)  # how long a run takes, and until the next look


@dataclass(frozen=True)
class Run:
    """What was requested together, when, and what came of it."""

    requested: datetime
    at: datetime
    targets: frozenset[str]
    day: str | None
    success: bool
    reason: str

    def requested_at(self, zone: ZoneInfo, form: str = "%H:%M") -> str:
        """Return when it was requested, by a local clock."""
        return self.requested.astimezone(zone).strftime(form)


@dataclass
class Daemon:
    """One location, watched from `now` on."""

    settings: Settings
    instance: dg.DagsterInstance
    now: datetime
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = self.now.astimezone(UTC)  # the hours of other zones cannot be counted
        self.definitions = assemble(self.settings)
        self.target = self.definitions.resolve_sensor_def("automation").asset_selection
        self._cursor = None

    @cached_property
    def job(self) -> dg.JobDefinition:
        """The job that has every asset and check."""
        return self.definitions.resolve_implicit_global_asset_job_def()

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Stop Dagster's clock at the present."""
        now = self.now
        stopped = {  # as Dagster's own `freeze_time`, whose mocks note each of a hundred thousand calls
            "dagster._time._mockable_get_current_datetime": lambda: now,
            "dagster._time._mockable_get_current_timestamp": now.timestamp,
            "dagster._core.log_manager.DagsterLogManager": LOG_MANAGER,
        }
        with ExitStack() as stack:
            for name, new in stopped.items():
                stack.enter_context(patch(name, new))
            yield

    def look(self) -> dict[str | None, set[dg.AssetKey | dg.AssetCheckKey]]:
        """Look at the conditions once; return what is requested, by partition."""
        with self.clock():
            seen = dg.evaluate_automation_conditions(
                self.definitions, self.instance, self.target, evaluation_time=self.now, cursor=self._cursor
            )
        self._cursor = seen.cursor
        requested = defaultdict(set)
        for result in seen.results:
            subset = result.true_subset
            if not subset.is_empty:
                days = subset.expensively_compute_partition_keys() if subset.is_partitioned else [None]
                for day in days:
                    requested[day].add(result.key)
        return dict(requested)

    def tell(self, asset: str, version: str | None = None, day: str | None = None) -> None:
        """An asset (`a/b`) was made outside of Dagster's runs; `version` is that of its data."""
        tags = {"dagster/data_version": version} if version else {}
        with self.clock():
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(asset.split("/"), partition=day, tags=tags)
            )

    def requested_at(self, time: datetime, target: str) -> set[str | None]:
        """Look at a time, without running anything; return which days of a target are requested, None for the whole."""
        self.now = time.astimezone(UTC)
        return {day for day, keys in self.look().items() if target in map(name_of, keys)}

    def sleep_until(self, time: datetime) -> None:
        """Let time pass without a look: the daemon is down."""
        self.now = time.astimezone(UTC)

    def watch_until(self, time: datetime) -> None:
        """Look every so often, and soon after something was requested; run what is requested."""
        while self.now < time:
            looked, requested = self.now, self.look()
            for day, keys in requested.items():
                self.now += SOON
                self.runs.append(self._run(looked, keys, day))
            self.now = self.now + SOON if requested else _next_look(self.now)
        self.now = time.astimezone(UTC)

    def _run(self, looked: datetime, keys: set[dg.AssetKey | dg.AssetCheckKey], day: str | None) -> Run:
        """Execute together what was requested together; checks come after the assets."""
        assets = [key for key in keys if isinstance(key, dg.AssetKey)]
        checks = {key for key in keys if isinstance(key, dg.AssetCheckKey)}
        results = []
        with self.clock():
            if assets:
                results.append(
                    self.job.execute_in_process(
                        instance=self.instance, partition_key=day, asset_selection=assets, raise_on_error=False
                    )
                )
            if checks and all(result.success for result in results):
                job = self.job.get_subset(asset_check_selection=checks)
                results.append(job.execute_in_process(instance=self.instance, raise_on_error=False))
        reason = "\n".join(map(reason_of, results))
        names = frozenset(name_of(key) for key in keys)
        return Run(looked, self.now, names, day, all(result.success for result in results), reason)

    def runs_of(self, target: str) -> list[Run]:
        """Return the runs that made an asset (`a/b`) or a check (its name)."""
        return [run for run in self.runs if target in run.targets]


def _next_look(now: datetime) -> datetime:
    """While nothing happens: when a night is due, now and then in the nights of Europe, and hardly by day."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    hours = (1, 2, 4, 7, 13, 24)
    return next(midnight + timedelta(hours=hour) for hour in hours if midnight + timedelta(hours=hour) > now)


def name_of(key: dg.AssetKey | dg.AssetCheckKey) -> str:
    """Return an asset as `a/b`, a check by its name."""
    return key.name if isinstance(key, dg.AssetCheckKey) else key.to_user_string()
