"""Two weeks of a model under the daemon, with a clock of our own: what goes wrong, and that each night is scored once.

Everything is real but the clock: the definitions and their conditions, Iceberg, MLflow, the online store, the Bentos.
The model is the hand-made one, so that a night takes a quarter of a second. The clock goes back on Sunday the 25th.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

import dagster as dg
import pyarrow as pa
import pytest

from assets.manifests import Candidate, TrainingSet
from assets.resources import Backends
from assets.sources import report_tables
from backends.settings import Settings
from models.scoring import sha256_of
from tests.backends.nights import customers
from tests.lives import (
    ARTIFACT,
    TINY,
    declare,
    logged,
    promoted,
    reason_of,
    run_job,
    silent_instance,
    tiny_examples,
    write_table,
)
from tests.orchestration.daemon import Daemon
from tests.tiny_model import tiny_contract

pytestmark = pytest.mark.slow

ZONE = ZoneInfo("Europe/Berlin")
POPULATION, EXAMPLES, GOLD = "silver.active_customers", "silver.tiny_examples", "gold.tiny_predictions"
FIRST_CHAMPION, TRAINED_CHAMPION, CHAMPION_BY_HAND = "18 12:00", "24 12:00", "31 12:00"
NEW_CHAMPIONS = [TRAINED_CHAMPION, CHAMPION_BY_HAND]
NIGHT, ONLINE, BENTO, PARITY = "gold/tiny_predictions", "tiny/online_features", "tiny/bento", "api_agrees_with_gold"
FAIR, BETTER, WORSE = 2, 0, 1  # seeds of hand-made models; the outcomes are drawn from the scores of `BETTER`
ROWS = 600

WHEN = {"score_at": "02:00", "ready_by": "08:00", "timezone": "Europe/Berlin", "first_day": "2026-10-19"}
LAX = {"max_score_shift": 100, "min_auc": 0.5, "max_calibration_error": 0.5}  # who wins is decided by the comparison

# day  what happens                                                                  the night is there at
TWO_WEEKS = """
19     population 01:30                                                              02:00
20     population 05:10 (late)                                                       05:10
21     population 01:30 with every customer twice (fails its audit); mended 06:20    06:20
22     no population until after midnight                                            never
23     population 00:20 (yesterday's, late)                                          02:00
24     population 01:30; a better candidate is promoted at 12:00                     02:00
25     population 01:30; the clock goes back; a worse candidate is refused at 05:30  02:00
26     population 01:30; the daemon is down all day                                  never
27     population 01:30; the daemon is back at 09:30                                 09:30
28     population 01:30, and again at 10:00                                          02:00
29     population 01:30; MLflow's files are away until 04:00                         05:00
30     population 01:30; 22 and 26 are made up for by hand at 11:00                  02:00
31     population 01:30; the champion is put back by hand at 12:00                   02:00
01     population 01:30                                                              02:00
"""


def local(day: int, time: str) -> datetime:
    month = 11 if day < 15 else 10
    hour, minute = map(int, time.split(":"))
    return datetime(2026, month, day, hour, minute, tzinfo=ZONE)


class World:
    """What happens outside of Dagster, and by a person's hand."""

    def __init__(self, settings, instance, daemon: Daemon, pinned: int) -> None:
        self.settings, self.instance, self.daemon, self.pinned = settings, instance, daemon, pinned
        self.champions: list[str] = []
        self.refused: set[str] = set()

    def population(self, table: pa.Table | None = None) -> None:
        """Somebody writes the population; the sensor of the tables reports it."""
        write_table(self.settings, POPULATION, table or customers(ROWS))
        with self.daemon.clock():
            report_tables(Backends(self.settings), self.instance, [POPULATION])

    def first_champion(self, seed: int) -> None:
        self.champions.append(promoted(self.settings, tiny_contract(), seed).sha256)
        self.alias_is_seen()

    def candidate(self, seed: int) -> bool:
        """A training ends with a candidate before the real gates, and its Bento; return whether it is promoted."""
        run_id, sha256 = logged(self.settings, tiny_contract(), seed)
        rows = TrainingSet(table=EXAMPLES, snapshot_id=self.pinned, rows=2000, entity_key_type="integer")
        candidate = Candidate(
            training_set=rows,
            mlflow_run_id=run_id,
            artifact=ARTIFACT,
            sha256=sha256,
            precision="float32",
            dagster_run_id="run-of-the-candidate",
        )
        manifest = self.settings.home / "manifests" / "tiny" / "quantized_model.json"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(candidate.model_dump_json())
        with self.daemon.clock():
            done = run_job(self.settings, self.instance, "tiny_training", stages=["tiny/champion", "tiny/bento"])
        if done.success:
            self.champions.append(sha256)
        else:
            assert "is not promoted" in reason_of(done)
            self.refused.add(sha256)
        return done.success

    def alias_is_seen(self) -> None:
        """The sensor of the alias reports the champion that it found."""
        champion = Backends(self.settings).registry().champion("tiny")
        tags = {"dagster/data_version": champion.sha256}
        with self.daemon.clock():
            self.instance.report_runless_asset_event(dg.AssetMaterialization(["tiny", "champion"], tags=tags))

    def alias_is_moved(self, version: int) -> None:
        """Somebody moves the alias on MLflow's page."""
        Backends(self.settings).registry()._client.set_registered_model_alias("tiny", "champion", str(version))
        self.alias_is_seen()

    def by_hand(self, day: int) -> None:
        with self.daemon.clock():
            done = run_job(self.settings, self.instance, "tiny_nightly", date(2026, 10, day), [NIGHT])
        assert done.success, reason_of(done)

    def files(self, away: bool) -> None:
        here, there = self.settings.home / "mlflow", self.settings.home / "away"
        (here if away else there).rename(there if away else here)


@dataclass(frozen=True)
class Weeks:
    """What two weeks have left."""

    settings: Settings
    instance: dg.DagsterInstance
    daemon: Daemon
    world: World


@pytest.fixture(scope="module")
def weeks(tmp_path_factory, empty_mlflow) -> Iterator[Weeks]:
    """Live through them once; the tests look at what was left."""
    folder = tmp_path_factory.mktemp("weeks")
    settings = Settings(home=folder / "home", models=folder / "models", threads=2, api_url="http://127.0.0.1:9")
    settings.home.mkdir()
    shutil.copyfile(empty_mlflow, settings.home / "mlflow.db")
    declare(settings, TINY, predictions=WHEN, gates=LAX)
    pinned = write_table(settings, EXAMPLES, tiny_examples())
    with silent_instance() as instance:
        daemon = Daemon(settings, instance, local(18, "12:00"))
        world = World(settings, instance, daemon, pinned)
        live(world, daemon)
        yield Weeks(settings, instance, daemon, world)


def live(world: World, daemon: Daemon) -> None:
    def at(day: int, time: str, happens: Callable[[], object]) -> None:
        daemon.watch_until(local(day, time))
        happens()

    daemon.look()
    world.first_champion(FAIR)
    at(19, "01:30", world.population)
    at(20, "05:10", world.population)
    at(21, "01:30", lambda: world.population(pa.concat_tables([customers(ROWS), customers(ROWS)])))
    at(21, "06:20", world.population)
    at(23, "00:20", world.population)
    at(24, "01:30", world.population)
    at(24, "12:00", lambda: world.candidate(BETTER) or pytest.fail("the better one is not promoted"))
    at(25, "01:30", world.population)
    at(25, "05:30", lambda: world.candidate(WORSE) and pytest.fail("the worse one is promoted"))
    daemon.watch_until(local(25, "23:00"))
    daemon.sleep_until(local(27, "09:30"))  # the daemon is down, and its sensors with it
    world.population()
    at(28, "01:30", world.population)
    at(28, "10:00", world.population)
    at(29, "01:30", lambda: (world.population(), world.files(away=True)))
    at(29, "04:00", lambda: world.files(away=False))
    at(30, "01:30", world.population)
    at(30, "11:00", lambda: (world.by_hand(22), world.by_hand(26)))
    at(31, "01:30", world.population)
    at(31, "12:00", lambda: world.alias_is_moved(1))
    at(1, "01:30", world.population)
    daemon.watch_until(local(1, "12:00"))


def expected() -> dict[str, str]:
    """Read the table above: day -> when its night is there, or `never`."""
    rows = [line.split() for line in TWO_WEEKS.strip().splitlines()]
    return {f"2026-{11 if int(row[0]) < 15 else 10}-{row[0]}": row[-1] for row in rows}


def test_each_night_is_scored_exactly_once_and_as_soon_as_it_can_be(weeks):
    nights = [run for run in weeks.daemon.runs_of(NIGHT) if run.success]
    requested = [(run.day, run.requested_at(ZONE)) for run in nights]
    assert requested == [(day, time) for day, time in expected().items() if time != "never"]


def test_a_night_that_fails_is_tried_again_when_there_is_reason_to(weeks):
    failed = {run.day: run for run in weeks.daemon.runs_of(NIGHT) if not run.success}
    assert {day: run.requested_at(ZONE) for day, run in failed.items()} == {
        "2026-10-21": "02:00",
        "2026-10-29": "02:00",
    }
    assert "failed their audit" in failed["2026-10-21"].reason
    assert "has no file" in failed["2026-10-29"].reason


def test_every_row_is_there_once_and_was_scored_by_the_champion_of_its_hour(weeks):
    with Backends(weeks.settings).lakehouse() as lake:
        gold = lake.read(GOLD, ["scored_on", "customer_id", "model_sha256"])
    by_day = gold.group_by(["scored_on", "model_sha256"]).aggregate(
        [("customer_id", "count_distinct"), ([], "count_all")]
    )
    found = {str(row["scored_on"]): row for row in by_day.to_pylist()}
    assert len(found) == len(by_day)  # no day has two models
    assert set(found) == {*expected()}  # 22 and 26 were made up for by hand
    assert {(row["customer_id_count_distinct"], row["count_all"]) for row in found.values()} == {(ROWS, ROWS)}
    fair, better = weeks.world.champions
    late = {"2026-10-22", "2026-10-26"}  # by the champion of the hour at which they were made up for
    for day, row in found.items():
        assert row["model_sha256"] == (better if day in late or "2026-10-25" <= day < "2026-11-01" else fair), day


def test_a_refused_candidate_is_nowhere(weeks):
    refused = weeks.world.refused
    assert refused
    with Backends(weeks.settings).lakehouse() as lake:
        assert refused.isdisjoint(lake.read(GOLD, ["model_sha256"])["model_sha256"].unique().to_pylist())
    served = {sha256_of(path.read_bytes()) for path in weeks.settings.bentoml_home.rglob("*.onnx")}
    assert served == set(weeks.world.champions)
    for asset in ("bento", "champion"):
        for event in weeks.instance.fetch_materializations(dg.AssetKey(["tiny", asset]), limit=100).records:
            assert event.asset_materialization.tags["dagster/data_version"] in weeks.world.champions


def test_a_new_champion_gets_its_bento_once_where_its_training_has_not_built_one(weeks):
    made = [run.requested_at(ZONE, "%d %H:%M") for run in weeks.daemon.runs_of(BENTO)]
    assert made == [FIRST_CHAMPION, CHAMPION_BY_HAND]
    assert all(run.success for run in weeks.daemon.runs_of(BENTO))
    built = weeks.instance.fetch_materializations(dg.AssetKey(["tiny", "bento"]), limit=9, ascending=True).records
    fair, better = weeks.world.champions
    assert [event.asset_materialization.tags["dagster/data_version"] for event in built] == [fair, better, fair]


def test_the_online_features_follow_each_night_and_each_champion_but_no_day_that_was_made_up_for(weeks):
    nights = [run.requested_at(ZONE, "%d") for run in weeks.daemon.runs_of(NIGHT) if run.success]
    reloads = [run.requested_at(ZONE, "%d %H:%M") for run in weeks.daemon.runs_of(ONLINE)]
    assert [time for time in reloads if time in NEW_CHAMPIONS] == NEW_CHAMPIONS
    assert [time[:2] for time in reloads if time not in NEW_CHAMPIONS] == nights
    assert all(run.success for run in weeks.daemon.runs_of(ONLINE))


def test_each_reload_is_replayed_through_the_api_after_it(weeks):
    reloads = [run.at for run in weeks.daemon.runs_of(ONLINE)]
    replays = [run.at for run in weeks.daemon.runs_of(PARITY)]
    for reload, following in zip(reloads, [*reloads[1:], None], strict=True):
        assert any(reload <= replay and (following is None or replay < following) for replay in replays)


@pytest.mark.parametrize("asset", ["tiny/drift", "tiny/costs"])
def test_every_published_day_is_watched_once_those_that_were_made_up_for_too(weeks, asset):
    runs = weeks.daemon.runs_of(asset)
    assert all(run.success for run in runs), runs
    assert sorted(run.day for run in runs) == list(expected())


def test_outcomes_are_looked_at_after_each_night(weeks):
    nights = [run.requested_at(ZONE, "%d") for run in weeks.daemon.runs_of(NIGHT) if run.success]
    assert [run.requested_at(ZONE, "%d") for run in weeks.daemon.runs_of("tiny/outcomes")] == nights


def test_nothing_is_requested_that_nobody_asked_for(weeks):
    made = {target for run in weeks.daemon.runs for target in run.targets}
    assert made == {NIGHT, ONLINE, BENTO, PARITY, "tiny/drift", "tiny/costs", "tiny/outcomes"}
