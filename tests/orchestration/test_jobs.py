"""The jobs of the platform engineer, as the UI starts them: what they do, what they report, and what they refuse."""

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.resources import Backends
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.orphans import plain
from backends.lakehouse.publishing import rollbacks
from backends.nights import newest_night, published_nights
from orchestration.definitions import assemble
from orchestration.jobs import UPKEEP, rollback_config, rollback_name
from orchestration.runs import observed
from tests.backends.nights import FRIDAY, POPULATION, PREDICTIONS, REJECTS, SATURDAY, customers
from tests.backends.quick_nights import SCHEMA, SUNDAY, night_tags, publish_quickly, rows_of, scores_at, three_nights
from tests.lives import TINY, declare, materialized, promoted, reason_of, run_job, write_table
from tests.tiny_model import tiny_contract

GOLD = dg.AssetKey(["gold", "tiny_predictions"])


@pytest.fixture
def tiny(home):
    return declare(home, TINY)


@pytest.fixture
def lake(home, tiny) -> Iterator[Lakehouse]:
    with Backends(home).lakehouse() as lake:
        yield lake


@pytest.fixture
def nights(lake):
    return three_nights(lake)


@pytest.fixture
def run(home, tiny, instance):
    """Run a job with the config that a person types in the launchpad."""

    def run(job: str, config: dict[str, Any]) -> dg.ExecuteInProcessResult:
        definition = assemble(home).resolve_job_def(job)
        return definition.execute_in_process(run_config=config, instance=instance, raise_on_error=False)

    return run


@pytest.fixture
def back(run):
    def back(to: object, reason: str = "scores are wrong", by: str = "marta") -> dg.ExecuteInProcessResult:
        return run(rollback_name("tiny"), rollback_config("tiny", str(to), reason, by))

    return back


# --- rollback -------------------------------------------------------------------------------------------------------


def test_every_model_has_its_rollback_in_the_pool_of_its_table(home, tiny):
    declare(home, TINY, name="other")
    definitions = assemble(home)
    for model in ("tiny", "other"):
        (step,) = definitions.resolve_job_def(f"rollback_{model}_predictions").nodes
        gold = definitions.resolve_assets_def(dg.AssetKey(["gold", f"{model}_predictions"]))
        assert step.definition.pool == gold.op.pool is not None


def test_a_rollback_moves_main_and_the_ui_tells_who_did_what_and_why(home, nights, lake, back, instance):
    result = back(nights[FRIDAY].id)
    assert result.success, reason_of(result)
    assert lake.snapshot(PREDICTIONS) == nights[FRIDAY]
    (event,) = instance.fetch_observations(GOLD, limit=5).records
    facts = {name: value.value for name, value in event.asset_observation.metadata.items()}
    (tag,) = [name for name in lake.load(PREDICTIONS).refs() if name.startswith("rolled_back_")]
    assert facts == {
        "rolled_back_from": str(nights[SUNDAY].id),
        "rolled_back_to": str(nights[FRIDAY].id),
        "by": "marta",
        "reason": "scores are wrong",
        "kept_as": tag,
        "withdrawn_days": "2026-11-21, 2026-11-22",
        "restored_days": "none",
        "dagster/row_count": 2,
    }


def test_a_rollback_is_undone_by_its_own_tag(nights, lake, back):
    before, tags = scores_at(lake), night_tags(lake)
    (facts,) = observed(back("2026-11-20"))
    assert back(facts["kept_as"], "it was right").success
    assert (scores_at(lake), night_tags(lake)) == (before, tags)
    assert [record["reason"] for record in rollbacks(lake, PREDICTIONS)] == ["scores are wrong", "it was right"]


def test_the_next_night_of_the_schedule_goes_on_top_and_its_features_online(home, lake, back, instance):
    promoted(home, tiny_contract())
    for rows, day in ((600, FRIDAY), (700, SATURDAY)):
        write_table(home, POPULATION, customers(rows))
        assert run_job(home, instance, "tiny_nightly", day).success
    assert back("2026-11-20").success
    assert set(published_nights(lake, PREDICTIONS)) == {"2026-11-20"}

    write_table(home, POPULATION, customers(650))
    result = run_job(home, instance, "tiny_nightly", SATURDAY)
    assert result.success, reason_of(result)
    assert materialized(result) == {"gold/tiny_predictions", "tiny/online_features"}
    assert lake.snapshot(PREDICTIONS).rows == 600 + 650
    newest = newest_night(lake, PREDICTIONS)
    assert night_tags(lake)["2026-11-21"] == newest.id
    online = Backends(home).online_store("tiny").describe()
    assert (online["rows"], online["source_snapshot"]) == ("650", newest.properties["source_snapshot"])


@pytest.mark.parametrize(
    ("to", "reason", "by", "said"),
    [
        (
            "4711",
            "why",
            "marta",
            "cannot go to '4711': it never showed that, or it is expired or withdrawn. Name",
        ),
        ("2026-11-22", "why", "marta", "cannot go to '2026-11-22': it shows that already"),
        ("2026-11-20", "  ", "marta", "is not rolled back: reason is '  '. Say it"),
        ("2026-11-20", "why", "", "is not rolled back: by is ''. Say it"),
    ],
)
def test_a_rollback_that_cannot_be_says_why_and_changes_nothing(nights, lake, back, instance, to, reason, by, said):
    result = back(to, reason, by)
    assert not result.success
    assert said in reason_of(result)
    assert lake.snapshot(PREDICTIONS) == nights[SUNDAY]
    assert instance.fetch_observations(GOLD, limit=5).records == []


@pytest.mark.parametrize("missing", ["to", "reason", "by"])
def test_each_field_of_a_rollback_is_asked_for(run, missing):
    config = rollback_config("tiny", "2026-11-20", "why", "marta")
    del next(iter(config["ops"].values()))["config"][missing]
    with pytest.raises(dg.DagsterInvalidConfigError, match=f'Missing required config entry "{missing}"'):
        run(rollback_name("tiny"), config)


def test_a_rollback_before_the_first_night_names_the_table(back):
    assert "The catalog has no table 'gold.tiny_predictions'" in reason_of(back("2026-11-20"))


# --- upkeep ---------------------------------------------------------------------------------------------------------


def leave_part(lake: Lakehouse, table: str, day: date = SUNDAY) -> Path:
    """Write an old part that no run has staged."""
    lake.ensure_table(table, SCHEMA, "scored_on")
    (address,) = lake.parts(table, f"scored_on={day}/", SCHEMA).write(0, rows_of(day, [0.5]).to_batches())
    return make_old(Path(plain(address)))


def make_old(path: Path) -> Path:
    at = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
    os.utime(path, (at, at))
    return path


def test_upkeep_is_a_dry_run_unless_told_otherwise(nights, lake, run):
    part = leave_part(lake, PREDICTIONS)
    (facts,) = observed(run(UPKEEP, {}))
    assert part.exists()
    assert (facts["table"], facts["dry_run"], facts["bytes_to_free"]) == (PREDICTIONS, True, part.stat().st_size)
    assert facts["names"] == f"data file file://{part} ({part.stat().st_size} bytes)"


def test_upkeep_removes_what_is_left_of_both_tables_and_reports_it_on_the_gold_asset(nights, lake, run, instance):
    parts = [leave_part(lake, PREDICTIONS), leave_part(lake, REJECTS)]
    sizes, live = [part.stat().st_size for part in parts], scores_at(lake)
    result = run(UPKEEP, {"apply": True})
    assert result.success, reason_of(result)
    assert not any(part.exists() for part in parts)
    facts = observed(result)
    assert [each["table"] for each in facts] == [PREDICTIONS, REJECTS]
    assert [each["bytes_freed"] for each in facts] == sizes
    removed = {record.data["kind"]: record.data["number"] for record in facts[0]["removed"].records}
    assert removed == {
        "audit branch": 0,
        "snapshot": 0,
        "data file": 1,
        "manifest list": 0,
        "manifest": 0,
        "metadata file": 0,
    }
    assert len(instance.fetch_observations(GOLD, limit=5).records) == 2
    assert scores_at(lake) == live


def test_upkeep_keeps_its_hands_off_the_tables_that_models_read(home, nights, lake, run):
    write_table(home, POPULATION, customers(10))
    write_table(home, POPULATION, customers(20))
    place = Path(plain(lake.location(POPULATION)))
    (place / "data" / "unnamed.parquet").write_bytes(b"theirs")
    make_old(place / "data" / "unnamed.parquet")
    before = sorted(place.rglob("*"))
    assert run(UPKEEP, {"apply": True}).success
    assert sorted(place.rglob("*")) == before


def test_upkeep_of_models_without_a_night_does_nothing(run):
    result = run(UPKEEP, {"apply": True})
    assert result.success
    assert observed(result) == []


def test_one_table_in_doubt_fails_the_run_and_the_others_are_tidied(home, nights, lake, run):
    declare(home, TINY, name="other")
    publish_quickly(lake, FRIDAY, [0.5], "gold.other_predictions")
    doubtful, sound = leave_part(lake, PREDICTIONS), leave_part(lake, "gold.other_predictions")
    Path(plain(lake.load(PREDICTIONS).snapshot_by_id(nights[FRIDAY].id).manifest_list)).unlink()
    result = run(UPKEEP, {"apply": True})
    assert "It cannot be told which files table 'gold.tiny_predictions' needs" in reason_of(result)
    assert (doubtful.exists(), sound.exists()) == (True, False)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"leftover_hours": 0.5}, "leftovers is 0:30:00: less than 1:00:00"),
        ({"history_days": 0}, "history is 0:00:00: less than 1:00:00"),
    ],
)
def test_ages_that_endanger_a_run_are_refused(nights, run, config, said):
    assert said in reason_of(run(UPKEEP, {"apply": True, **config}))


@pytest.mark.parametrize("config", [{"aply": True}, {"apply": "perhaps"}, {"history_days": "long"}])
def test_a_mistake_in_the_config_of_upkeep_is_refused(run, config):
    with pytest.raises(dg.DagsterInvalidConfigError):
        run(UPKEEP, config)


def test_upkeep_waits_for_the_writer_of_each_table(home, tiny):
    definitions = assemble(home)
    gold = definitions.resolve_assets_def(GOLD)
    assert [step.definition.pool for step in definitions.resolve_job_def(UPKEEP).nodes] == [gold.op.pool]


def test_the_weekly_upkeep_is_off_until_it_is_turned_on_and_then_removes_for_good(home, tiny):
    definitions = assemble(home)
    schedule = definitions.resolve_schedule_def("lake_maintenance_schedule")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    with dg.build_schedule_context(scheduled_execution_time=datetime(2026, 11, 22, 4, tzinfo=UTC)) as context:
        (request,) = schedule.evaluate_tick(context).run_requests
    assert request.run_config == {"apply": True}


def test_without_any_model_there_is_nothing_to_tidy(home):
    assert assemble(home).resolve_all_job_defs() is not None
    assert UPKEEP not in {job.name for job in assemble(home).resolve_all_job_defs()}
