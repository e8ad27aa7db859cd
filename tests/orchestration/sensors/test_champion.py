"""A champion that was set in MLflow is reported once, with who and why; one that Dagster knows is not."""

import dagster as dg
import pytest

from assets.resources import Backends
from backends.promotion_ledger import Why, moves_of
from backends.promotions import Promotions
from backends.registry import CHAMPION
from backends.settings import Settings
from models.errors import RegistryError
from orchestration.sensors import champion
from orchestration.sensors.champion import champion_observer
from tests.lives import ARTIFACT, TINY, changed, declare, logged
from tests.tiny_model import tiny_contract

KEY = dg.AssetKey(["tiny", "champion"])


def registered(home: Settings, seed: int):
    """Make a hand-made file a version, without letting it be the champion."""
    run_id, sha256 = logged(home, tiny_contract(), seed)
    return Backends(home).registry().register("tiny", run_id, ARTIFACT, sha256, {"precision": "float32"})


def set_by_hand(home: Settings, version) -> None:
    Backends(home).registry().move_alias("tiny", version.version)


def take_away(home: Settings) -> None:
    Backends(home).registry()._client.delete_registered_model_alias("tiny", CHAMPION)


def ledger(home: Settings, tiny):
    with Backends(home).lakehouse() as lake:
        return moves_of(lake, tiny.promotions_table)


@pytest.fixture
def tiny(home):
    return declare(home, TINY)


@pytest.fixture
def look(tiny, tick):
    sensor = champion_observer(tiny)
    return lambda *settings: tick(sensor, *settings)


def facts(event) -> dict:
    return {name: value.value for name, value in event.metadata.items()}


def test_before_the_first_champion_there_is_nothing_to_report(look):
    data = look()
    assert (data.asset_events, "has no champion" in data.skip_message) == ([], True)


def test_a_champion_set_by_hand_is_reported_once_and_written_into_the_ledger(home, tiny, look):
    first, second = registered(home, 1), registered(home, 2)
    set_by_hand(home, first)
    look()
    set_by_hand(home, second)
    (event,) = look().asset_events
    assert isinstance(event, dg.AssetMaterialization)
    assert (event.asset_key, event.tags) == (KEY, {"dagster/data_version": second.sha256})
    found = facts(event)
    assert (found["model_version"], found["previous_version"]) == (2, 1)
    assert found["verdict"] == "changed by hand in MLflow"
    assert found["mlflow_run"].endswith(second.mlflow_run_id)
    assert [move.to_version for move in ledger(home, tiny)] == [1, 2]
    assert look().skip_message == "Version 2 is recorded already."


def test_what_the_champion_asset_has_recorded_is_not_reported(home, instance, look):
    version = registered(home, 1)
    set_by_hand(home, version)
    event = dg.AssetMaterialization(KEY, tags={"dagster/data_version": version.sha256})
    instance.report_runless_asset_event(event)
    assert look().asset_events == []


def promote(home: Settings, tiny, version, run_id: str = "") -> None:
    with Backends(home).lakehouse() as lake:
        promotions = Promotions(lake, Backends(home).registry(), "tiny", tiny.promotions_table)
        promotions.move(promotions.settle(), version, Why("manual", "ann", "the newer data", run_id))


def test_a_promotion_elsewhere_is_reported_with_who_and_why(home, tiny, look):
    promote(home, tiny, registered(home, 1))
    found = facts(look().asset_events[0])
    assert (found["verdict"], found["by"], found["reason"]) == ("promoted by hand", "ann", "the newer data")
    assert found["previous_version"] == "none"


def test_a_run_that_is_about_to_report_its_promotion_is_left_to_do_so(home, tiny, instance, look):
    run = instance.create_run_for_job(trained, status=dg.DagsterRunStatus.STARTED)
    promote(home, tiny, registered(home, 1), run.run_id)
    data = look()
    assert (data.asset_events, run.run_id in data.skip_message) == ([], True)
    instance.report_run_failed(run)  # it died before it could
    assert len(look().asset_events) == 1


@dg.job
def trained():
    pass


def test_a_champion_that_was_taken_away_is_said_once_and_its_return_too(home, tiny, look):
    version = registered(home, 1)
    set_by_hand(home, version)
    look()
    take_away(home)
    (event,) = look().asset_events
    assert isinstance(event, dg.AssetObservation)
    assert facts(event)["headline"] == "tiny has no champion any more"
    assert "Materialize tiny/champion" in facts(event)["reason"]
    assert ledger(home, tiny)[-1].to_version is None
    assert look().asset_events == []
    set_by_hand(home, version)
    assert facts(look().asset_events[0])["headline"] == "tiny has its champion back"
    assert look().asset_events == []


def test_a_version_that_tandem_did_not_register_is_said_once(home, look):
    set_by_hand(home, registered(home, 1))
    look()
    client = Backends(home).registry()._client
    made = client.create_model_version("tiny", "runs:/0/foreign", await_creation_for=None)
    client.set_registered_model_alias("tiny", CHAMPION, str(made.version))
    (event,) = look().asset_events
    assert facts(event)["headline"] == "tiny: the champion cannot be used"
    assert "not registered by Tandem" in facts(event)["reason"]
    assert look().asset_events == []


def test_a_registry_that_hangs_fails_the_tick_and_is_found_again(home, look, monkeypatch):
    set_by_hand(home, registered(home, 1))
    with monkeypatch.context() as patch:
        patch.setattr(champion, "PATIENCE_SECONDS", 0.2)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # seconds; it would go on for minutes
        with pytest.raises(RegistryError, match=r"no answer within 0\.2 s\. Start it"):
            look(changed(home, mlflow_uri="http://127.0.0.1:9"))
    assert len(look().asset_events) == 1
