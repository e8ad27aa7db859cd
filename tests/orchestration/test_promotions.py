"""The jobs and verbs that move a champion by hand: what they do, what follows, and what they refuse."""

import os
from collections.abc import Iterator
from datetime import date
from typing import Any
from unittest.mock import patch

import dagster as dg
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from assets.resources import Backends
from backends.promotion_ledger import moves_of
from backends.registry import Version
from models.contract import CategoryFeature
from models.errors import StoreMismatchError, TandemError
from models.scoring import Scorer
from orchestration.cli import app
from orchestration.definitions import assemble
from orchestration.promotion_verbs import possible_model_rollbacks, possible_promotions, promote, roll_back_model
from orchestration.promotions import model_rollback_name, move_config, promotion_name
from tests.backends.nights import customers
from tests.lives import ARTIFACT, TINY, declare, definitions_of, logged, promoted, reason_of, run_job, write_table
from tests.tiny_model import FEATURES, tiny_contract

CHAMPION, POPULATION, GOLD = dg.AssetKey(["tiny", "champion"]), "silver.active_customers", "gold.tiny_predictions"
FRIDAY, SATURDAY = date(2026, 11, 20), date(2026, 11, 21)
BRANCH = {**FEATURES, "branch": CategoryFeature(kind="category", values=("a", "b"))}


@pytest.fixture(autouse=True)
def _environment_of_its_own() -> Iterator[None]:
    """A run points every tool at its home by the environment."""
    with patch.dict(os.environ):
        yield


@pytest.fixture
def tiny(home):
    return declare(home, TINY, gates={"max_score_shift": 100})  # versions made by hand have little in common


def registered(home, seed: int, contract=None, **tags: str) -> Version:
    """Make a hand-made file a version that is not served."""
    run_id, sha256 = logged(home, contract or tiny_contract(), seed)
    tags = {"precision": "float32", "metric.auc": "0.8125", **tags}
    return Backends(home).registry().register("tiny", run_id, ARTIFACT, sha256, tags)


@pytest.fixture
def first(home, tiny) -> Version:
    return promoted(home, tiny_contract())


@pytest.fixture
def tied(home, first) -> Version:
    return registered(home, 1, verdict="tie")


@pytest.fixture
def run(home, tiny, instance):
    """Run a job with the config that a person types in the launchpad."""

    def run(job: str, to: int | None = None, reason: str = "holidays", by: str = "marta") -> Any:
        definition = definitions_of(home).resolve_job_def(job)
        return definition.execute_in_process(
            run_config=move_config(job, to, reason, by), instance=instance, raise_on_error=False
        )

    return run


PROMOTE, BACK = promotion_name("tiny"), model_rollback_name("tiny")


def serving(home) -> int:
    return Backends(home).registry().champion("tiny").version


def moves(home) -> list[tuple[str, int | None, int | None]]:
    with Backends(home).lakehouse() as lake:
        return [(m.kind, m.from_version, m.to_version) for m in moves_of(lake, "gold.tiny_promotions")]


# --- the jobs ---------------------------------------------------------------------------------------------------------


def test_a_tied_version_is_promoted_by_a_person_and_everybody_sees_who_and_why(home, tied, run, instance):
    result = run(PROMOTE)
    assert result.success, reason_of(result)
    assert serving(home) == 2
    with Backends(home).lakehouse() as lake:
        last = moves_of(lake, "gold.tiny_promotions")[-1]
    assert (last.kind, last.from_version, last.to_version, last.by, last.reason) == (
        "manual",
        1,
        2,
        "marta",
        "holidays",
    )
    assert last.dagster_run_id == result.run_id
    event = instance.get_latest_materialization_event(CHAMPION)
    facts = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert event.asset_materialization.tags["dagster/data_version"] == tied.sha256
    assert (facts["verdict"], facts["model_version"], facts["previous_version"]) == ("promoted by hand", 2, 1)
    assert (facts["by"], facts["reason"]) == ("marta", "holidays")


def test_a_rollback_goes_to_the_champion_before_and_the_next_one_further_back(home, tied, run):
    assert run(PROMOTE).success
    registered(home, 2, verdict="better")
    assert run(PROMOTE, 3).success
    assert run(BACK).success
    assert serving(home) == 2
    assert run(BACK).success
    assert serving(home) == 1
    assert "No version of model 'tiny' offers itself: name one. These can be:\n" in reason_of(run(BACK))
    assert run(BACK, 3, "it was right").success
    assert moves(home)[1:] == [
        ("manual", 1, 2),
        ("manual", 2, 3),
        ("rollback", 3, 2),
        ("rollback", 2, 1),
        ("rollback", 1, 3),
    ]


@pytest.mark.parametrize(
    ("job", "to", "reason", "by", "said"),
    [
        (
            PROMOTE,
            4711,
            "why",
            "marta",
            "Version 4711 of model 'tiny' cannot be made the champion: it is not registered",
        ),
        (
            PROMOTE,
            1,
            "why",
            "marta",
            "cannot be made the champion: it is that already. These can be:\n   2  auc 0.8125",
        ),
        (PROMOTE, 3, "why", "marta", "Version 3 of model 'tiny' cannot be promoted: it has not passed its gates"),
        (PROMOTE, 4, "why", "marta", "Version 4 of model 'tiny' cannot be promoted: it has not passed its gates"),
        (BACK, 2, "why", "marta", "cannot be rolled back to: it never was the champion. There is none that can be."),
        (BACK, None, "why", "marta", "No version of model 'tiny' offers itself"),
        (PROMOTE, 2, " ", "marta", "The champion of 'tiny' is not moved: reason is ''. Say it: it is kept."),
        (BACK, 2, "why", "", "The champion of 'tiny' is not moved: by is ''"),
    ],
)
def test_what_cannot_be_is_said_with_what_can_and_changes_nothing(home, tied, run, instance, job, to, reason, by, said):
    registered(home, 2, verdict="rejected")
    registered(home, 3)  # never before a gate
    result = run(job, to, reason, by)
    assert not result.success
    assert said in reason_of(result)
    assert serving(home) == 1
    assert moves(home) in ([], [("by_hand", None, 1)])
    assert instance.get_latest_materialization_event(CHAMPION) is None


@pytest.mark.parametrize("missing", ["reason", "by"])
@pytest.mark.parametrize("job", [PROMOTE, BACK])
def test_each_field_is_asked_for(home, tiny, job, missing):
    config = move_config(job, 1, "why", "marta")
    del next(iter(config["ops"].values()))["config"][missing]
    with pytest.raises(dg.DagsterInvalidConfigError, match=f'Missing required config entry "{missing}"'):
        assemble(home).resolve_job_def(job).execute_in_process(run_config=config)


def test_whatever_moves_a_champion_does_so_one_at_a_time(home, tiny):
    declare(home, TINY, name="other")
    definitions = assemble(home)
    for model in ("tiny", "other"):
        pools = {definitions.resolve_assets_def(dg.AssetKey([model, "champion"])).op.pool}
        for name in (promotion_name(model), model_rollback_name(model)):
            job = definitions.resolve_job_def(name)
            assert job.description
            pools |= {node.definition.pool for node in job.nodes}
        assert pools == {f"{model}_champion"}


# --- what follows -----------------------------------------------------------------------------------------------------


def night(home, instance, day: date) -> None:
    result = run_job(home, instance, "tiny_nightly", day)
    assert result.success, reason_of(result)


def versions_in_gold(home) -> dict[date, set[int]]:
    with Backends(home).lakehouse() as lake:
        rows = lake.read(GOLD, ["scored_on", "model_version"]).to_pylist()
    found: dict[date, set[int]] = {}
    for row in rows:
        found.setdefault(row["scored_on"], set()).add(row["model_version"])
    return found


def test_after_a_rollback_the_next_night_the_online_lane_and_the_asset_agree(home, tied, run, instance):
    write_table(home, POPULATION, customers(600))
    assert run(PROMOTE).success
    night(home, instance, FRIDAY)
    assert run(BACK).success
    online = Backends(home).online_store("tiny")
    assert versions_in_gold(home) == {FRIDAY: {2}}  # until the next night, what is there says who made it
    assert online.describe()["model_version"] == "2"
    night(home, instance, SATURDAY)
    assert versions_in_gold(home) == {FRIDAY: {2}, SATURDAY: {1}}
    assert online.describe()["model_version"] == "1"
    event = instance.get_latest_materialization_event(CHAMPION).asset_materialization
    champion = Backends(home).registry().champion("tiny")
    assert event.tags["dagster/data_version"] == champion.sha256
    assert event.metadata["model_version"].value == champion.version == 1


def test_dagster_asks_for_what_reads_the_champion_once_it_has_moved(home, tied, run, instance):
    """The report of the job counts like the asset's own: conditions on the champion's data version see it."""
    changed = dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())

    @dg.asset(deps=[CHAMPION], automation_condition=changed)
    def reader() -> None:
        """Reads the champion."""

    definitions = dg.Definitions(assets=[dg.AssetSpec(CHAMPION), reader])
    cursor, requested = None, []

    def look() -> None:
        nonlocal cursor
        seen = dg.evaluate_automation_conditions(
            definitions, instance, dg.AssetSelection.assets("reader"), cursor=cursor
        )
        cursor = seen.cursor
        requested.append(seen.total_requested)

    look()
    assert run(PROMOTE).success
    look()
    look()
    assert run(BACK).success
    look()
    assert requested == [0, 1, 0, 1]


def test_a_version_that_cannot_read_the_population_is_refused_by_the_name_of_the_column(home, first, run):
    registered(home, 1, tiny_contract(features=BRANCH), verdict="tie")
    write_table(home, POPULATION, customers(50))
    said = reason_of(run(PROMOTE, 2))
    assert f"Version 2 of model 'tiny' cannot score '{POPULATION}' as it is" in said
    assert "column 'branch' is missing" in said
    assert serving(home) == 1


def test_between_versions_of_other_features_the_online_store_refuses_until_it_is_loaded_again(
    home, first, run, instance
):
    wide = registered(home, 1, tiny_contract(features=BRANCH), verdict="tie")
    write_table(home, POPULATION, customers(50).append_column("branch", pa.array(["a"] * 50)))
    night(home, instance, FRIDAY)
    assert run(PROMOTE, 2).success
    registry, online = Backends(home).registry(), Backends(home).online_store("tiny")
    contracts = [Scorer(registry.read_version(each)).contract for each in (first, wide)]
    assert len(online.get_many(contracts[0], [1]).rows) == 1  # the service of version 1 goes on
    with pytest.raises(StoreMismatchError, match=r"were packed for contract .* Materialize tiny/online_features"):
        online.get_many(contracts[1], [1])
    night(home, instance, SATURDAY)
    assert len(online.get_many(contracts[1], [1]).rows) == 1
    with pytest.raises(StoreMismatchError):
        online.get_many(contracts[0], [1])
    assert run(BACK).success
    night(home, instance, SATURDAY)
    assert len(online.get_many(contracts[0], [1]).rows) == 1


# --- the verbs --------------------------------------------------------------------------------------------------------


def test_the_verbs_list_what_there_is_and_move_the_champion(home, tied):
    listed = possible_promotions(home, "tiny").splitlines()
    assert listed == [
        "The champion of tiny is version 1.",
        "It can be moved --to one of these:",
        "   2  auc 0.8125, verdict: tie",
    ]
    assert possible_model_rollbacks(home, "tiny").splitlines()[-1] == "  none: it never had another champion"
    said = dict(line.split(None, 1) for line in promote(home, "tiny", 2, "holidays", "marta").splitlines())
    assert (said["verdict"], said["model_version"], said["by"]) == ("promoted by hand", "2", "marta")
    assert roll_back_model(home, "tiny", 1, "over", "").splitlines()[0].split() == ["verdict", "rolled", "back"]
    listed = possible_model_rollbacks(home, "tiny").splitlines()
    assert listed[1] == "Past moves, the last one at the end:"
    assert [line.split("UTC")[1].split("  by ")[0].split() for line in listed[2:5]] == [
        ["by_hand", "none", "->", "1"],
        ["manual", "1", "->", "2"],
        ["rollback", "2", "->", "1"],
    ]
    assert listed[-2].startswith("   2  auc 0.8125")
    assert "manual     1 -> 2  by marta: holidays" in listed[-1]


def test_a_verb_that_is_refused_says_so(home, tied):
    with pytest.raises(TandemError, match=r"^Job promote_tiny failed\. .*PromotionError: Version 7 of model 'tiny'"):
        promote(home, "tiny", 7, "why", "marta")


@pytest.mark.parametrize("verb", ["promote", "rollback-model"])
def test_without_a_version_a_verb_lists_and_does_nothing(home, tied, verb, monkeypatch):
    monkeypatch.setenv("TANDEM_HOME", str(home.home))
    monkeypatch.setenv("TANDEM_MODELS", str(home.models))
    done = CliRunner().invoke(app, [verb, "tiny", "--reason", "why"])
    assert done.exit_code == 1, done.output
    assert done.output.startswith("The champion of tiny is version 1.\n")
    assert serving(home) == 1
    moved = CliRunner().invoke(app, ["promote", "tiny", "--to", "2", "--reason", "why", "--by", "marta"])
    assert moved.exit_code == 0, moved.output
    assert serving(home) == 2
