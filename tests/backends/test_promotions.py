"""Moves of the champion: each is in the ledger, of two at once one wins, and no reader ever finds none."""

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlparse

import pytest

from assets.resources import Backends
from backends.lakehouse.reading import Snapshot
from backends.promotion_ledger import Move, Moves, Why, moves_of, read_moves
from backends.promotions import Promotions, Standing, next_step
from backends.registry import CHAMPION, Registry, Version
from backends.settings import Settings
from models.errors import ModelFileError, PromotionConflictError, PromotionError, TandemError
from models.scoring import sha256_of
from tests.backends.champions import ARTIFACT, FILES, PATIENCE, ROLLBACK, Champions, log_files
from tests.backends.moving_process import MOMENTS, MovingProcess

GAINS = {"auc_gain": 0.004, "auc_gain_lower": 0.001, "auc_gain_upper": 0.006, "log_loss_gain": 0.002}
EARNED = Why("promotion", "the gate", "better", "run-1", GAINS)


@pytest.fixture(scope="module")
def place(tmp_path_factory, empty_mlflow) -> tuple[Settings, list[str]]:
    """Return a home for all tests here, and the runs that have the files."""
    settings = Settings(home=tmp_path_factory.mktemp("champions"), threads=2)
    (settings.home / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
    return settings, log_files(Registry.open(settings))


@pytest.fixture
def champions(place, request) -> Iterator[Champions]:
    """A model of the test's own."""
    settings, runs = place
    model = "m" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    with Backends(settings).lakehouse() as lake:
        yield Champions(model, lake, Registry.open(settings), runs)


@pytest.fixture
def client(place):
    """Return MLflow's own client: a person who moves the alias by hand."""
    from mlflow import MlflowClient

    return MlflowClient(place[0].mlflow, place[0].mlflow)


# --- what is left to do -----------------------------------------------------------------------------------------------


def version(number: int) -> Version:
    return Version("m", number, f"run-{number}", f"sha-{number}")


def move(number: int, origin: int | None, to: int | None, settled: bool = True, kind="promotion") -> Move:
    sha256 = f"sha-{to}" if to else ""
    at = datetime(2026, 11, 21, tzinfo=UTC)
    return Move(number, at, kind, origin, to, sha256, "the gate", "better", "", "", "", settled, {})


@pytest.mark.parametrize(
    ("last", "alias", "placed", "step"),
    [
        (None, None, None, "nothing"),
        (None, 1, None, "record"),  # a champion from before the ledger
        (move(1, None, 1), 1, None, "nothing"),
        (move(1, None, 1, settled=False), None, None, "place"),  # the very first, claimed
        (move(2, 1, 2, settled=False), 1, None, "place"),
        (move(2, 1, 2, settled=False), 2, None, "mark"),
        (move(2, 1, 2, settled=False), 3, None, "record"),  # by hand, before the alias was set
        (move(2, 1, 2), 1, None, "record"),  # back by hand: never undone
        (move(2, 1, 2), None, None, "record"),  # taken away
        (move(3, 2, None, kind="by_hand"), None, None, "nothing"),
        (move(3, 2, None, kind="by_hand"), 2, None, "record"),  # given back
        (move(3, 2, 3), 2, move(2, 1, 2), "place"),  # we were too late
        (move(3, 2, None, kind="by_hand"), 2, move(2, 1, 2), "record"),
    ],
)
def test_what_is_left_to_do_follows_from_ledger_and_alias(last, alias, placed, step):
    moves = Moves(Snapshot("t", 1, 1, datetime.now(UTC)), (last,) if last else ())
    standing = Standing(version(alias) if alias else None, moves)
    assert next_step(standing, placed) == step


def test_a_version_of_the_same_number_with_other_bytes_is_another_one():
    assert not move(1, None, 1).leads_to(Version("m", 1, "run", "other bytes"))


# --- the ledger -------------------------------------------------------------------------------------------------------


def test_a_move_is_in_the_ledger_with_who_when_why_and_the_gains(champions):
    begun = datetime.now(UTC)
    assert moves_of(champions.lake, champions.table) == ()
    made = champions.moved(0, EARNED)
    assert (champions.serving(), champions.moves()) == (1, [("promotion", None, 1)])
    (row,) = champions.lake.read(champions.table).to_pylist()
    assert begun - timedelta(milliseconds=1) <= row.pop("moved_at") <= datetime.now(UTC)
    assert {name: value for name, value in row.items() if value is not None} == {
        "move": 1,
        "kind": "promotion",
        "to_version": 1,
        "to_sha256": sha256_of(FILES[0]),
        "by": "the gate",
        "reason": "better",
        "dagster_run_id": "run-1",
        "mlflow_run_id": champions.runs[0],
        "training_snapshot": "0",
        **GAINS,
    }
    assert moves_of(champions.lake, champions.table) == (made,)
    assert (made.settled, made.figures) == (True, GAINS)
    assert "promotion  none -> 1  by the gate: better" in str(made)


def test_moves_follow_each_other(champions):
    for file in (0, 1, 0, 2):
        champions.moved(file)
    assert champions.moves() == [("rollback", a, b) for a, b in ((None, 1), (1, 2), (2, 1), (1, 3))]
    assert champions.serving() == 3
    assert all(each.settled for each in moves_of(champions.lake, champions.table))


def test_a_home_that_had_a_champion_before_says_so_in_the_first_row(champions):
    champions.registry.promote(champions.model, champions.runs[0], ARTIFACT, sha256_of(FILES[0]), {})
    standing = champions.promotions.settle()
    assert standing.champion.version == 1
    (first,) = standing.moves.all
    assert (first.kind, first.from_version, first.to_version) == ("by_hand", None, 1)
    assert first.reason == "it was the champion before there was this ledger"
    assert champions.promotions.record_by_hand() is None
    champions.moved(1)
    assert champions.moves()[1:] == [("rollback", 1, 2)]


def test_without_a_champion_and_a_ledger_there_is_nothing_to_settle(champions):
    standing = champions.promotions.settle()
    assert (standing.champion, standing.moves.all, standing.withdrawn) == (None, (), None)


def test_the_champion_cannot_be_made_the_champion(champions):
    champions.moved(0)
    with pytest.raises(PromotionError, match=r"Version 1 of model '\w+' is the champion already"):
        champions.moved(0)
    assert len(champions.moves()) == 1


def test_a_version_whose_bytes_were_changed_is_not_made_the_champion(champions, client):
    champions.moved(0)
    folder = urlparse(client.get_run(champions.runs[3]).info.artifact_uri).path
    path, standing = Path(folder) / ARTIFACT / "model.onnx", champions.promotions.settle()
    path.write_bytes(FILES[3] + b"\0")
    try:
        with pytest.raises(ModelFileError, match="It was changed after it was registered"):
            champions.promotions.move(standing, champions.registered(3), ROLLBACK)
    finally:
        path.write_bytes(FILES[3])
    assert (champions.serving(), champions.moves()) == (1, [("rollback", None, 1)])


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_a_champion_that_was_set_by_hand_is_written_down_once_and_stands(champions, client):
    champions.moved(0)
    champions.moved(1)
    client.set_registered_model_alias(champions.model, CHAMPION, "1")
    found = champions.promotions.record_by_hand()
    assert (found.kind, found.from_version, found.to_version) == ("by_hand", 2, 1)
    assert found.reason == "the alias was moved in MLflow"
    assert champions.promotions.record_by_hand() is None
    assert champions.promotions.settle().champion.version == 1
    assert len(champions.moves()) == 3


def test_a_promotion_judged_against_a_champion_that_was_changed_by_hand_is_told(champions, client):
    champions.moved(0)
    champions.moved(1)
    standing, third = champions.promotions.settle(), champions.registered(2)
    client.set_registered_model_alias(champions.model, CHAMPION, "1")
    with pytest.raises(PromotionConflictError, match=r"Version 3 .* \(.* by_hand +2 -> 1  by unknown"):
        champions.promotions.move(standing, third, EARNED)
    assert champions.serving() == 1
    assert champions.moves()[2:] == [("by_hand", 2, 1)]


def test_after_the_alias_was_taken_away_only_a_person_gives_one(champions, client):
    champions.moved(0)
    client.delete_registered_model_alias(champions.model, CHAMPION)
    standing, second = champions.promotions.settle(), champions.registered(1)
    assert (standing.champion, standing.withdrawn.from_version) == (None, 1)
    with pytest.raises(
        PromotionError, match=rf"took the alias away from version 1 .* promote {champions.model} --to 2"
    ):
        champions.promotions.move(standing, second, EARNED)
    assert champions.registry.champion_or_none(champions.model) is None
    champions.promotions.move(standing, second, Why("manual", "marta", "a new beginning"))
    assert champions.serving() == 2
    assert champions.moves()[1:] == [("by_hand", 1, None), ("manual", None, 2)]


# --- two at once ------------------------------------------------------------------------------------------------------


def test_of_two_that_were_judged_against_the_same_champion_the_second_is_told_who_won(champions):
    champions.moved(0)
    standing = champions.promotions.settle()
    second, third = champions.registered(1), champions.registered(2)
    champions.promotions.move(standing, second, Why("promotion", "the gate", "the winner"))
    with pytest.raises(PromotionConflictError, match=r"Version 3 .* is not made .* 1 -> 2  by the gate: the winner\)"):
        champions.promotions.move(standing, third, EARNED)
    assert (champions.serving(), len(champions.moves())) == (2, 2)


def test_a_claim_counts_before_the_alias_has_followed(champions):
    champions.moved(0)
    standing = champions.promotions.settle()
    second, third = champions.registered(1), champions.registered(2)
    champions.promotions._claim(standing, second, EARNED)
    assert champions.serving() == 1
    with pytest.raises(PromotionConflictError, match=r"Version 3 .* promotion  1 -> 2"):
        champions.promotions.move(standing, third, EARNED)
    assert champions.serving() == 2  # made by the one who was told
    assert champions.moves()[1:] == [("promotion", 1, 2)]


class Reader:
    """Asks for the champion all the time, as a service that starts would."""

    def __init__(self, place, model: str) -> None:
        self.registry, self.model, self.seen, self.stop = Registry.open(place[0]), model, [], False
        self.thread = threading.Thread(target=self.read)

    def read(self) -> None:
        while not self.stop:
            try:
                self.seen.append(self.registry.champion(self.model).version)
            except TandemError as error:
                self.seen.append(error)
            time.sleep(0.002)  # without it, it takes more CPU time than those whom it watches

    def __enter__(self) -> "Reader":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop = True
        self.thread.join()
        assert self.seen
        assert [found for found in self.seen if not isinstance(found, int)] == []


def contest(place, champions, ends: list[str]) -> None:
    """Assert that one of two has won, that its move is the newest, and that it is the champion."""
    winners = [end for end in ends if not end.startswith("PromotionConflictError")]
    assert len(winners) == 1, ends
    last = moves_of(champions.lake, champions.table)[-1]
    assert winners == [str(last.to_version)]
    assert (champions.serving(), last.settled) == (last.to_version, True)


def test_of_two_threads_one_wins_each_time_and_readers_always_find_a_champion(place, champions):
    champions.moved(0)
    others = [champions.registered(file) for file in (1, 2, 3)]
    rounds = 6

    def attempt(standing: Standing, to: Version, barrier: threading.Barrier) -> str:
        registry = Registry.open(place[0])
        with Backends(place[0]).lakehouse() as lake:
            promotions = Promotions(lake, registry, champions.model, champions.table)
            barrier.wait()
            try:
                return str(promotions.move(standing, to, ROLLBACK).to_version)
            except PromotionConflictError as error:
                return f"PromotionConflictError {error}"

    with Reader(place, champions.model), ThreadPoolExecutor(2) as pool:
        for _ in range(rounds):
            standing, barrier = champions.promotions.settle(), threading.Barrier(2)
            free = [each for each in others if each.version != standing.champion.version][:2]
            contest(place, champions, list(pool.map(attempt, [standing] * 2, free, [barrier] * 2)))
    assert len(champions.moves()) == 1 + rounds


def test_of_two_processes_one_wins_each_time_and_readers_always_find_a_champion(place, champions):
    champions.moved(0)
    for file in (1, 2, 3):
        champions.registered(file)
    processes = [MovingProcess(place[0].home, champions.model) for _ in range(2)]
    rounds = 8
    with Reader(place, champions.model):
        for _ in range(rounds):
            now = champions.serving()
            for process, to in zip(processes, [number for number in (1, 2, 3, 4) if number != now], strict=False):
                process.settle(to)
            for process in processes:
                process.go()
            contest(place, champions, [process.outcome() for process in processes])
    for process in processes:
        process.end()
    assert len(champions.moves()) == 1 + rounds


class SlowRegistry(Registry):
    """A registry of somebody who falls asleep before he sets the alias."""

    def __init__(self, settings: Settings, asleep: threading.Event, awake: threading.Event) -> None:
        opened = Registry.open(settings)
        super().__init__(opened._client, opened._artifacts, opened._ui)
        self.asleep, self.awake = asleep, awake

    def move_alias(self, model: str, number: int) -> None:
        self.asleep.set()
        assert self.awake.wait(30)
        super().move_alias(model, number)


def test_who_sets_the_alias_too_late_makes_it_good_again(place, champions):
    champions.moved(0)
    second, third = champions.registered(1), champions.registered(2)
    asleep, awake = threading.Event(), threading.Event()
    made: list[Move] = []

    def slowly() -> None:
        registry = SlowRegistry(place[0], asleep, awake)
        with Backends(place[0]).lakehouse() as lake:
            promotions = Promotions(lake, registry, champions.model, champions.table)
            made.append(promotions.move(promotions.settle(), second, ROLLBACK))

    thread = threading.Thread(target=slowly)
    thread.start()
    assert asleep.wait(30)
    assert champions.serving() == 1  # claimed only
    begun = time.monotonic()
    champions.promotions.move(champions.promotions.settle(), third, ROLLBACK)
    assert time.monotonic() - begun >= PATIENCE  # others wait for him first
    assert (champions.serving(), champions.moves()[1:]) == (3, [("rollback", 1, 2), ("rollback", 2, 3)])
    awake.set()
    thread.join()
    assert made[0].to_version == 2
    assert champions.serving() == 3
    assert len(champions.moves()) == 3


def test_the_same_bytes_registered_at_once_are_one_version(place, champions):
    registries = [Registry.open(place[0]) for _ in range(4)]
    barrier = threading.Barrier(4)

    def register(registry: Registry) -> int:
        barrier.wait()
        return registry.register(champions.model, champions.runs[0], ARTIFACT, sha256_of(FILES[0]), {}).version

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(register, registries))
    assert numbers == [1] * 4
    assert [each.version for each in champions.registry.versions(champions.model)] == [1]


# --- kill -9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", MOMENTS)
def test_who_dies_between_two_steps_is_finished_or_undone_by_whoever_comes_next(place, champions, moment):
    champions.moved(0)
    champions.registered(1)
    process = MovingProcess(place[0].home, champions.model, moment)
    process.settle(2)
    process.go()
    assert process.outcome() == "killed"
    claimed = moment != "the claim is about to be committed"
    assert champions.serving() == (2 if moment in ("the alias is set", "it is marked") else 1)
    assert len(read_moves(champions.lake, champions.table).all) == (2 if claimed else 1)
    standing = champions.promotions.settle()
    assert standing.champion.version == (2 if claimed else 1)
    assert all(each.settled for each in standing.moves.all)
    assert champions.moved(2).from_version == standing.champion.version  # and life goes on


def test_who_dies_at_any_moment_leaves_a_champion_and_a_ledger_that_agree(place, champions):
    champions.moved(0)
    champions.registered(1)
    chance, ends = random.Random(20261121), []
    with Reader(place, champions.model):
        for _ in range(5):
            process = MovingProcess(place[0].home, champions.model)
            process.settle(3 - champions.serving())
            process.go()
            process.kill_after(chance.uniform(0, 0.25))
            ends.append(process.outcome())
            standing = champions.promotions.settle()
            assert standing.moves.last.leads_to(standing.champion)
            assert standing.moves.last.settled
    assert [each.move for each in standing.moves.all] == list(range(1, len(standing.moves.all) + 1))
    for before, after in zip(standing.moves.all, standing.moves.all[1:], strict=False):
        assert after.from_version == before.to_version
    assert "killed" in ends
