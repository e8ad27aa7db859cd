"""The verbs `rollback` and `maintenance`: Dagster records what they do, and they say it in lines."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import dagster as dg
import pytest
from typer.testing import CliRunner

from assets.resources import Backends
from backends.lakehouse.orphans import plain
from models.errors import DeclarationError, TandemError
from orchestration.cli import app
from orchestration.operations import possible_rollbacks, roll_back, tidy
from tests.backends.nights import FRIDAY, PREDICTIONS
from tests.backends.quick_nights import MONDAY, SCHEMA, SUNDAY, rows_of, three_nights
from tests.lives import TINY, declare
from tests.orchestration.test_cli import tandem


@pytest.fixture(autouse=True)
def _environment_of_its_own() -> Iterator[None]:
    """A run points every tool at its home by the environment."""
    with patch.dict(os.environ):
        yield


@pytest.fixture
def nights(home):
    declare(home, TINY)
    with Backends(home).lakehouse() as lake:
        return three_nights(lake)


def current(home) -> int:
    with Backends(home).lakehouse() as lake:
        return lake.snapshot(PREDICTIONS).id


def runs() -> list[tuple[str, dg.DagsterRunStatus]]:
    """Return what Dagster's UI lists, newest first."""
    with dg.DagsterInstance.get() as instance:
        return [(run.job_name, run.status) for run in instance.get_runs()]


def test_the_verb_rollback_moves_main_and_says_what_it_did(home, nights):
    done = tandem(home, "rollback", "tiny", "--to", "2026-11-20", "--reason", "scores are wrong", "--by", "marta")
    assert done.returncode == 0, done.stderr
    assert current(home) == nights[FRIDAY].id
    said = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert (said["rolled_back_from"], said["rolled_back_to"]) == (str(nights[SUNDAY].id), str(nights[FRIDAY].id))
    assert (said["by"], said["reason"]) == ("marta", "scores are wrong")
    assert said["withdrawn_days"] == "2026-11-21, 2026-11-22"


def test_the_verb_rollback_without_a_state_lists_them_and_does_nothing(home, nights, monkeypatch):
    monkeypatch.setenv("TANDEM_HOME", str(home.home))
    monkeypatch.setenv("TANDEM_MODELS", str(home.models))
    done = CliRunner().invoke(app, ["rollback", "tiny", "--reason", "scores are wrong"])
    assert done.exit_code == 1, done.output
    assert done.stdout == possible_rollbacks(home, "tiny") + "\n"
    assert current(home) == nights[SUNDAY].id


def test_a_rollback_is_listed_and_undone(home, nights):
    assert possible_rollbacks(home, "tiny").splitlines()[:2] == [
        f"gold.tiny_predictions shows snapshot {nights[SUNDAY].id}.",
        "It can be put --to one of these:",
    ]
    roll_back(home, "tiny", "2026-11-20", "scores are wrong", "marta")
    lines = possible_rollbacks(home, "tiny").splitlines()
    assert lines[1] == "Past rollbacks, the last one at the end:"
    assert f"from {nights[SUNDAY].id} to {nights[FRIDAY].id} by marta: scores are wrong" in lines[2]
    (state,) = [line for line in lines if line.startswith(f"  {nights[SUNDAY].id}")]
    assert "6 rows, night of 2026-11-22 by version 3 [rolled_back_" in state
    roll_back(home, "tiny", str(nights[SUNDAY].id), "it was right", "")
    assert current(home) == nights[SUNDAY].id
    assert "by :" not in possible_rollbacks(home, "tiny")  # nobody named: the user of the shell
    assert runs() == [("rollback_tiny_predictions", dg.DagsterRunStatus.SUCCESS)] * 2


@pytest.mark.parametrize(
    ("to", "reason", "said"),
    [
        ("4711", "why", r"^Job rollback_tiny_predictions failed\. .*SnapshotNotFoundError: .* cannot go to '4711'"),
        ("2026-11-20", "", "is not rolled back: reason is ''"),
    ],
)
def test_a_rollback_that_cannot_be_is_said_and_recorded(home, nights, to, reason, said):
    with pytest.raises(TandemError, match=said):
        roll_back(home, "tiny", to, reason, "marta")
    assert current(home) == nights[SUNDAY].id
    assert runs() == [("rollback_tiny_predictions", dg.DagsterRunStatus.FAILURE)]


def test_a_rollback_of_a_model_that_is_not_there_names_its_file(home, nights):
    with pytest.raises(DeclarationError, match=r"no_such\.yaml has 1 error"):
        roll_back(home, "no_such", "2026-11-20", "why", "marta")


def test_maintenance_says_what_it_would_remove_and_then_what_it_removed(home, nights):
    with Backends(home).lakehouse() as lake:
        (address,) = lake.parts(PREDICTIONS, "scored_on=x/", SCHEMA).write(0, rows_of(MONDAY, [0.5]).to_batches())
    part = Path(plain(address))
    os.utime(part, (0, 0))
    size = part.stat().st_size
    ages = {"history_days": 90, "leftover_hours": 72}
    headline, *counts = tidy(home, apply=False, names=False, **ages)
    assert headline == f"gold.tiny_predictions: {size:,} bytes would be removed (a dry run: --apply removes it)"
    assert [line.split() for line in counts if line.split()[0] != "0"] == [
        ["1", "x", "data", "file", f"{size:,}", "bytes"]
    ]
    assert part.exists()
    headline, *same, named = tidy(home, apply=True, names=True, **ages)
    assert (headline, same) == (f"gold.tiny_predictions: {size:,} bytes removed", counts)
    assert named == f"    data file {address} ({size} bytes)"
    assert not part.exists()
    assert runs() == [("lake_maintenance", dg.DagsterRunStatus.SUCCESS)] * 2


def test_the_verb_maintenance_refuses_ages_that_endanger_a_run(home, nights, monkeypatch):
    monkeypatch.setenv("TANDEM_HOME", str(home.home))
    monkeypatch.setenv("TANDEM_MODELS", str(home.models))
    done = CliRunner().invoke(app, ["maintenance", "--apply", "--leftover-hours", "0.1"])
    assert isinstance(done.exception, TandemError)  # which the program says in one message: test_cli.py
    assert "leftovers is 0:06:00: less than 1:00:00" in str(done.exception)
