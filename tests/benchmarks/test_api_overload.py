"""A flood, and a caller beside it: what is counted in each phase."""

import os
import sys

import pytest

from benchmarks import api_overload
from benchmarks.api_load import write_bodies
from benchmarks.api_overload import Phase, _phase, measured
from benchmarks.api_systems import free_port
from benchmarks.api_wires import Plan
from benchmarks.processes import serving
from tests.benchmarks.test_api_records import _listens


def test_a_phase_counts_what_was_not_answered_as_asked():
    outcome = {
        "seconds": 2.0,
        "answered": 60,
        "errors": {"503": 30, "unanswered": 10},
        "waited_us": [1000] * 50 + [5000] * 9 + [90_000],
    }
    found = _phase("flood", 0, 1.0, outcome, os.getpid())
    assert (found.asked_per_second, found.answered_per_second) == (50, 30)
    assert found.statuses == {"200": 60, "503": 30, "unanswered": 10}
    assert (found.p50_ms, found.p90_ms) == (1, 5)
    assert 5 < found.p99_ms < 90
    assert found.rss_mb > 5


def test_a_phase_without_an_answer_has_no_times_and_lasts_as_long_as_was_meant():
    outcome = {"seconds": 0.0, "answered": 0, "errors": {"connection lost": 10}, "waited_us": []}
    found = _phase("flood", 300, 2.0, outcome, os.getpid())
    assert (found.asked_per_second, found.answered_per_second, found.p99_ms) == (300, 0, 0)


@pytest.fixture(scope="module")
def phases(tmp_path_factory) -> dict[str, Phase]:
    """All phases at a tiny size, of a server that answers at once."""
    folder, port = tmp_path_factory.mktemp("overload"), free_port()
    write_bodies(folder / "bodies", [b"{}"])
    command = [sys.executable, "-m", "benchmarks.api_null", str(port)]
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(command, os.environ, folder / "log", lambda: _listens(port)) as (pid, _),
    ):
        patch.setattr(api_overload, "CAPACITY_SECONDS", 0.2)
        patch.setattr(api_overload, "AFTER_SECONDS", 0.2)
        plan = Plan("http", port, "/", str(folder / "bodies"), rate=0, seconds=1, connections=1)
        return {phase.phase: phase for phase in measured(pid, plan, times=0.02, seconds=2.3)}


def test_every_phase_is_measured_in_its_order(phases):
    names = ["before", "as fast as it can", "flood, 0.02 x", "beside the flood", "right after"]
    assert list(phases) == [*names, "as fast as it can, again"]
    assert all(phase.statuses["200"] > 0 for phase in phases.values())
    assert phases["before"].asked_per_second == phases["beside the flood"].asked_per_second == 300


def test_the_flood_is_so_many_times_what_the_server_can_take(phases):
    capacity = phases["as fast as it can"].answered_per_second
    assert phases["flood, 0.02 x"].asked_per_second == pytest.approx(0.02 * capacity)
