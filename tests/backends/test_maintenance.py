"""Upkeep: what is left by crashes and time goes, what anybody can still read stays, and when in doubt nothing goes."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table.update import SetLocationUpdate

from backends.lakehouse import maintenance
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.files import FoundFile, files_below
from backends.lakehouse.maintenance import Ages, Upkeep, maintain
from backends.lakehouse.orphans import DATA, MANIFEST, MANIFEST_LIST, METADATA, orphans, plain
from backends.lakehouse.publishing import discard, publish, stage
from backends.nights import newest_night, published_nights
from backends.rollbacks import roll_back
from models.errors import LakehouseError, PublishConflictError, TableNotFoundError
from tests.backends.nights import FRIDAY, POPULATION, PREDICTIONS, SATURDAY, audit_branches, customers, write_files
from tests.backends.quick_nights import (
    MONDAY,
    SCHEMA,
    SUNDAY,
    night_tags,
    publish_quickly,
    rows_of,
    scores_at,
    stage_quickly,
    three_nights,
)

LATER = timedelta(days=4)  # leftovers of now are old then
MUCH_LATER = timedelta(days=400)
AT_ONCE = timedelta(milliseconds=1)


@pytest.fixture
def nights(lake):
    return three_nights(lake)


@pytest.fixture
def no_history(monkeypatch) -> Ages:
    """Ages by which all that `main` does not show at this very moment is old."""
    monkeypatch.setattr(maintenance, "SHORTEST", timedelta(0))
    return Ages(history=AT_ONCE, leftovers=AT_ONCE)


def tidy(lake: Lakehouse, after: timedelta = LATER, ages: Ages | None = None, apply: bool = True) -> Upkeep:
    return maintain(lake, PREDICTIONS, ages or Ages(), apply, datetime.now(UTC) + after)


def folder(lake: Lakehouse, table: str = PREDICTIONS) -> Path:
    return Path(plain(lake.location(table)))


def files(lake: Lakehouse, table: str = PREDICTIONS) -> dict[str, bytes]:
    """Return every file below a table's location."""
    place = folder(lake, table)
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def everything_readable(lake: Lakehouse) -> dict[str, dict]:
    """Read `main`, and whatever a branch or a tag names."""
    return {name: scores_at(lake, ref.snapshot_id) for name, ref in lake.load(PREDICTIONS).refs().items()}


def leave_parts(lake: Lakehouse, day: date = MONDAY) -> list[str]:
    """Write a part as a run does that is killed before it stages it."""
    return lake.parts(PREDICTIONS, f"scored_on={day}/", SCHEMA).write(0, rows_of(day, [0.5] * 100).to_batches())


def make_old(address: str, age: timedelta = timedelta(days=10)) -> None:
    at = (datetime.now(UTC) - age).timestamp()
    os.utime(plain(address), (at, at))


def kinds(upkeep: Upkeep) -> dict[str, int]:
    return {kind: number for kind, (number, _) in upkeep.counts().items() if number}


# --- leftovers ------------------------------------------------------------------------------------------------------


def test_a_table_without_leftovers_keeps_every_file(lake, nights):
    before = files(lake)
    upkeep = tidy(lake)
    assert (kinds(upkeep), upkeep.bytes) == ({}, 0)
    assert files(lake) == before


def test_parts_of_a_killed_run_go_and_their_bytes_are_counted(lake, nights):
    before, live = files(lake), everything_readable(lake)
    (part,) = leave_parts(lake)
    half = folder(lake) / "data" / f"scored_on={MONDAY}" / "half-written.parquet"
    half.write_bytes(b"PAR1 cut sho")
    size = Path(plain(part)).stat().st_size + 12
    upkeep = tidy(lake)
    assert kinds(upkeep) == {DATA: 2}
    assert upkeep.bytes == size
    assert files(lake) == before
    assert everything_readable(lake) == live


def test_young_leftovers_stay_for_they_may_be_of_a_run_in_progress(lake, nights):
    leave_parts(lake)
    staged = stage_quickly(lake, MONDAY, [0.5])
    before = files(lake)
    upkeep = tidy(lake, after=timedelta(0))
    assert kinds(upkeep) == {}
    assert files(lake) == before
    assert publish(lake, staged) == lake.snapshot(PREDICTIONS)


def test_only_what_is_old_enough_goes(lake, nights):
    old, young = leave_parts(lake), leave_parts(lake)
    make_old(*old, timedelta(hours=73))
    make_old(*young, timedelta(hours=71))
    upkeep = tidy(lake, after=timedelta(0))
    assert [orphan.file.address for orphan in upkeep.files] == old
    assert not Path(plain(*old)).exists()
    assert Path(plain(*young)).exists()


def test_the_branch_of_a_failed_audit_goes_with_its_snapshots_and_parts(lake, nights):
    before, live = files(lake), everything_readable(lake)
    staged = stage_quickly(lake, SUNDAY, [0.875, 0.5])  # a rerun: a snapshot that deletes, and one that adds
    assert audit_branches(lake) == {staged.branch}
    upkeep = tidy(lake)
    assert upkeep.branches == [staged.branch]
    assert staged.snapshot in upkeep.snapshots
    assert kinds(upkeep) == {"audit branch": 1, "snapshot": 2, DATA: 1, MANIFEST: 2, MANIFEST_LIST: 2}
    assert everything_readable(lake) == live
    assert {name for name in files(lake) if not name.startswith("metadata/0")} == {
        name for name in before if not name.startswith("metadata/0")
    }


def test_a_failed_audit_can_be_looked_at_for_days(lake, nights):
    staged = stage_quickly(lake, MONDAY, [0.875])
    upkeep = tidy(lake, after=timedelta(days=2, hours=23))
    assert kinds(upkeep) == {}
    assert scores_at(lake, staged.snapshot.id)["2026-11-23", 0] == 0.875


def empty_branch(lake: Lakehouse, name: str = "audit_20261124_0123abcd") -> str:
    """Make a branch as a run does that is killed before it adds its rows."""
    lake.load(PREDICTIONS).manage_snapshots().create_branch(lake.snapshot(PREDICTIONS).id, name).commit()
    return name


def test_an_empty_branch_is_as_old_as_the_first_metadata_that_has_it(lake, nights):
    make_all_old(lake)
    branch = empty_branch(lake)
    publish_quickly(lake, MONDAY, [0.5])
    assert tidy(lake, after=timedelta(0)).branches == []
    assert audit_branches(lake) == {branch}
    assert tidy(lake).branches == [branch]
    assert audit_branches(lake) == set()


def test_an_empty_branch_on_a_table_at_rest_goes(lake, nights):
    branch = empty_branch(lake)
    assert tidy(lake).branches == [branch]


@pytest.mark.parametrize("name", ["audited_by_somebody_else", "audit_2026", "audit_20261123_mine", "team_branch"])
def test_foreign_branches_stay_with_their_rows(lake, nights, name):
    loaded = lake.load(PREDICTIONS)
    loaded.manage_snapshots().create_branch(nights[FRIDAY].id, name).commit()
    loaded.append(rows_of(MONDAY, [0.5, 0.25]), branch=name)
    live = everything_readable(lake)
    assert kinds(tidy(lake, MUCH_LATER)) == {}
    assert everything_readable(lake) == live


def test_a_snapshot_that_no_branch_names_any_more_goes(lake, nights):
    staged = stage_quickly(lake, MONDAY, [0.5])
    discard(lake, staged)
    upkeep = tidy(lake)
    assert (upkeep.branches, upkeep.snapshots) == ([], [staged.snapshot])
    assert kinds(upkeep)[DATA] == 1


def test_old_metadata_files_that_the_table_has_forgotten_go(lake, nights):
    with lake.load(PREDICTIONS).transaction() as change:
        change.set_properties({"write.metadata.previous-versions-max": "2"})
    publish_quickly(lake, MONDAY, [0.5])
    live = everything_readable(lake)
    upkeep = tidy(lake)
    assert set(kinds(upkeep)) == {METADATA}
    assert len(list(folder(lake).glob("metadata/*.metadata.json"))) == 3
    assert everything_readable(lake) == live


def test_a_metadata_file_that_was_cut_short_is_a_leftover_too(lake, nights):
    whole = Path(plain(lake.load(PREDICTIONS).metadata_location))
    cut = whole.with_name("00099-0e1c.metadata.json")
    cut.write_bytes(whole.read_bytes()[:500])
    assert [orphan.file.address for orphan in tidy(lake).files] == [f"file://{cut}"]


# --- history --------------------------------------------------------------------------------------------------------


def test_what_main_showed_can_be_read_through_the_history(lake, nights):
    first = nights[SATURDAY]
    rerun = publish_quickly(lake, SATURDAY, [0.875])
    roll_back(lake, PREDICTIONS, str(nights[FRIDAY].id), "why not", "marta")
    last = publish_quickly(lake, MONDAY, [0.5])
    moments = [lake.snapshot_at(PREDICTIONS, s.committed_at + AT_ONCE) for s in (first, rerun, last)]
    shown, history = published_nights(lake, PREDICTIONS), lake.history(PREDICTIONS)
    before = {each.id: scores_at(lake, each.id) for each in (*nights.values(), rerun, last)}
    assert kinds(tidy(lake, timedelta(days=89))) == {}
    assert [lake.snapshot_at(PREDICTIONS, s.committed_at + AT_ONCE) for s in (first, rerun, last)] == moments
    assert (published_nights(lake, PREDICTIONS), lake.history(PREDICTIONS)) == (shown, history)
    assert {each: scores_at(lake, each) for each in before} == before


def test_a_table_at_rest_loses_nothing_however_old_it_is(lake, nights):
    publish_quickly(lake, SATURDAY, [0.875])
    roll_back(lake, PREDICTIONS, str(nights[FRIDAY].id), "why not", "marta")
    before = files(lake)
    assert kinds(tidy(lake, timedelta(days=4000))) == {}
    assert files(lake) == before


def test_after_the_history_the_first_run_of_a_rerun_day_goes_and_every_night_stays(lake, nights, no_history):
    publish_quickly(lake, FRIDAY, [0.875])
    publish_quickly(lake, MONDAY, [0.5])
    publish_quickly(lake, date(2026, 11, 24), [0.5])
    main, tags = scores_at(lake), night_tags(lake)
    newest = newest_night(lake, PREDICTIONS)
    friday = {day: scores_at(lake, at) for day, at in tags.items()}
    upkeep = tidy(lake, ages=no_history)
    assert nights[FRIDAY] in upkeep.snapshots
    assert night_tags(lake) == tags
    assert {day: scores_at(lake, at) for day, at in tags.items()} == friday
    assert scores_at(lake) == main
    assert newest_night(lake, PREDICTIONS) == newest
    assert kinds(tidy(lake, ages=no_history)) == {}
    publish_quickly(lake, SATURDAY, [0.25])
    assert scores_at(lake)["2026-11-21", 0] == 0.25


def test_rows_that_only_an_expired_snapshot_had_go(lake, no_history):
    for number in range(3):
        publish_quickly(lake, FRIDAY, [0.25 * number])
    publish_quickly(lake, SATURDAY, [0.5])
    upkeep = tidy(lake, ages=no_history)
    assert kinds(upkeep)[DATA] == 2
    assert scores_at(lake) == {("2026-11-20", 0): 0.5, ("2026-11-21", 0): 0.5}


def test_what_was_rolled_back_is_kept_beyond_the_history_and_can_come_back(lake, nights, no_history):
    before = scores_at(lake)
    tag = roll_back(lake, PREDICTIONS, str(nights[FRIDAY].id), "why not", "marta").moved.tag
    publish_quickly(lake, MONDAY, [0.5])
    publish_quickly(lake, date(2026, 11, 24), [0.5])
    tidy(lake, MUCH_LATER, no_history)
    roll_back(lake, PREDICTIONS, tag, "because", "marta")
    assert scores_at(lake) == before


def test_a_rollback_beyond_the_history_keeps_the_tags_of_still_older_nights(lake, nights, no_history):
    publish_quickly(lake, SUNDAY, [0.875])  # the line of main has a gap here, when the first Sunday is expired
    publish_quickly(lake, MONDAY, [0.5])
    for number in range(3):
        publish_quickly(lake, date(2026, 11, 24), [number / 8])
    tags = night_tags(lake)
    assert nights[SUNDAY] in tidy(lake, ages=no_history).snapshots
    roll_back(lake, PREDICTIONS, "2026-11-23", "why not", "marta")
    assert night_tags(lake) == {day: at for day, at in tags.items() if day <= "2026-11-23"}


def test_the_newest_night_is_found_below_old_commits_of_others(lake, nights, no_history):
    for _ in range(3):
        lake.load(PREDICTIONS).append(rows_of(date(2020, 1, 1), [0.5]).slice(0, 0))
    tidy(lake, ages=no_history)
    assert newest_night(lake, PREDICTIONS) == nights[SUNDAY]


@pytest.mark.parametrize("age", [timedelta(0), timedelta(minutes=59), timedelta(days=-1)])
@pytest.mark.parametrize("name", ["history", "leftovers"])
def test_ages_within_which_a_run_may_be_at_work_are_refused(name, age):
    with pytest.raises(LakehouseError, match=f"^{name} is "):
        replace(Ages(), **{name: age})


# --- the dry run ----------------------------------------------------------------------------------------------------


@pytest.fixture
def untidy(lake, nights) -> Lakehouse:
    leave_parts(lake)
    stage_quickly(lake, MONDAY, [0.5])
    empty_branch(lake)
    return lake


def test_a_dry_run_changes_nothing(untidy):
    before, at = files(untidy), untidy.load(PREDICTIONS).metadata_location
    assert kinds(tidy(untidy, apply=False))
    assert files(untidy) == before
    assert untidy.load(PREDICTIONS).metadata_location == at


def test_a_dry_run_names_exactly_what_goes(untidy):
    before = files(untidy)
    planned, done = tidy(untidy, apply=False), tidy(untidy)
    assert replace(planned, applied=True) == done
    assert len(list(done.lines())) == sum(kinds(done).values())
    gone = {str(folder(untidy) / name) for name in before.keys() - files(untidy).keys()}
    assert gone == {plain(orphan.file.address) for orphan in planned.files}
    assert planned.bytes == sum(len(before[str(Path(path).relative_to(folder(untidy)))]) for path in gone)


def test_a_second_run_finds_nothing(untidy):
    tidy(untidy)
    assert kinds(tidy(untidy)) == {}


# --- what is not ours -----------------------------------------------------------------------------------------------


def test_files_of_other_kinds_stay(lake, nights):
    names = [
        "README",
        "notes.parquet",
        "data/README.md",
        "data/x.csv",
        "metadata/version-hint.text",
        "metadata/a.stats",
    ]
    for name in names:
        path = folder(lake) / name
        path.write_text("kept")
    assert kinds(tidy(lake, MUCH_LATER)) == {}
    assert set(names) <= set(files(lake))


def test_a_table_that_others_write_is_left_to_them(lake, nights):
    lake.catalog.create_namespace_if_not_exists("gold")
    foreign = lake.catalog.create_table("gold.foreign", SCHEMA)
    foreign.append(rows_of(FRIDAY, [0.5]))
    foreign.overwrite(rows_of(FRIDAY, [0.25]))
    before = files(lake, "gold.foreign")
    with pytest.raises(LakehouseError, match=r"'gold\.foreign' has rows, and Tandem wrote none"):
        maintain(lake, "gold.foreign", Ages(), apply=True, now=datetime.now(UTC) + MUCH_LATER)
    assert files(lake, "gold.foreign") == before


def test_the_upkeep_of_one_table_touches_no_other(untidy):
    write_files(untidy, POPULATION, [customers(10)])
    write_files(untidy, POPULATION, [customers(5)])
    before = files(untidy, POPULATION)
    tidy(untidy, MUCH_LATER)
    assert files(untidy, POPULATION) == before


@pytest.mark.parametrize("inside", ["", "/data/deeper"])
def test_another_table_in_the_same_place_stops_the_removal(untidy, inside):
    place = untidy.location(PREDICTIONS) + inside
    untidy.catalog.create_table("gold.guest", SCHEMA, location=place).append(rows_of(FRIDAY, [0.5]))
    before = files(untidy)
    with pytest.raises(LakehouseError, match=r"is of table [0-9a-f-]{36}, but 'gold\.tiny_predictions' is"):
        tidy(untidy)
    assert files(untidy) == before
    assert untidy.read("gold.guest").num_rows == 1


def test_a_table_that_is_not_there_is_named(lake):
    with pytest.raises(TableNotFoundError, match=r"'gold\.tiny_predictions'"):
        tidy(lake)


def test_a_table_before_its_first_night_is_tidied_too(lake):
    lake.ensure_table(PREDICTIONS, SCHEMA, "scored_on")
    leave_parts(lake)
    assert kinds(tidy(lake)) == {DATA: 1}


# --- in doubt, nothing ----------------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("damage", [Path.unlink, cut_short, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("what", ["a manifest", "a manifest list"])
def test_what_cannot_be_read_stops_the_removal(untidy, nights, what, damage):
    loaded = untidy.load(PREDICTIONS)
    found = loaded.snapshot_by_id(nights[SATURDAY].id)
    manifest = found.manifests(loaded.io)[0].manifest_path
    address = found.manifest_list if what == "a manifest list" else manifest
    damage(Path(plain(address)))
    before, at = files(untidy), untidy.load(PREDICTIONS).metadata_location
    for apply in (False, True):
        with pytest.raises(LakehouseError, match=r"It cannot be told which files table .* needs: .* None was removed"):
            tidy(untidy, apply=apply)
    assert files(untidy) == before
    assert untidy.load(PREDICTIONS).metadata_location == at


def test_a_location_through_a_link_never_makes_a_live_file_an_orphan(untidy, tmp_path):
    link = tmp_path / "another way"
    link.symlink_to(folder(untidy))
    with untidy.load(PREDICTIONS).transaction() as change:
        change._stage((SetLocationUpdate(location=f"file:{link}"),))
    leave_parts(untidy)
    branches = audit_branches(untidy)
    live = {name: rows for name, rows in everything_readable(untidy).items() if name not in branches}
    upkeep = tidy(untidy)
    assert kinds(upkeep)[DATA] == 3
    assert everything_readable(untidy) == live


def test_files_that_share_no_spelling_with_the_table_are_refused(untidy):
    loaded = untidy.load(PREDICTIONS)
    found = [
        FoundFile(file.address.replace("file://", "s3://bucket"), file.size, file.modified)
        for file in files_below(loaded.io, loaded.location())
    ]
    with pytest.raises(LakehouseError, match=r"No file that table .* names is among those below .*s3://bucket"):
        orphans(PREDICTIONS, loaded, loaded.snapshots(), found, datetime.now(UTC) + LATER)


@pytest.mark.parametrize("spelling", ["file:/{}", "/{}", "file:///{}", "file:////{}", "//{}"])
def test_a_file_is_the_same_however_it_is_spelled(untidy, spelling):
    loaded, later = untidy.load(PREDICTIONS), datetime.now(UTC) + LATER
    listed = list(files_below(loaded.io, loaded.location()))
    respelled = [replace(file, address=spelling.format(plain(file.address).lstrip("/"))) for file in listed]
    usual = orphans(PREDICTIONS, loaded, loaded.snapshots(), listed, later)
    unusual = orphans(PREDICTIONS, loaded, loaded.snapshots(), respelled, later)
    assert [plain(o.file.address) for o in unusual] == [plain(o.file.address) for o in usual]
    assert len(usual) == 1


@pytest.mark.parametrize(
    ("address", "same"),
    [("s3a://b/k/x.parquet", "s3://b/k/x.parquet"), ("S3N://b/k", "s3://b/k"), ("abfs://c@a/k", "abfss://c@a/k")],
)
def test_storages_have_one_spelling(address, same):
    assert plain(address) == plain(same) == same


@pytest.mark.parametrize("other", ["s3://b//k/x", "s3://B/k/x", "gs://b/k/x", "/b/k/x"])
def test_other_files_are_not_taken_for_the_same(other):
    assert plain(other) != plain("s3://b/k/x")


# --- at the same time -----------------------------------------------------------------------------------------------


def publish_old_parts(lake: Lakehouse, addresses: list[str]) -> None:
    publish(lake, stage(lake, PREDICTIONS, "scored_on", MONDAY, addresses, {"scored_on": "2026-11-23"}))


@pytest.mark.parametrize("apply", [False, True])
def test_a_part_that_is_published_after_the_listing_stays(settings, lake, nights, monkeypatch, apply):
    part = leave_parts(lake)
    make_old(*part)

    def list_and_publish(*arguments: object) -> Iterator[FoundFile]:
        yield from list(files_below(*arguments))
        with Lakehouse.open(settings) as other:
            publish_old_parts(other, part)

    monkeypatch.setattr(maintenance, "files_below", list_and_publish)
    assert kinds(tidy(lake, after=timedelta(0), apply=apply)) == {}
    assert scores_at(lake)["2026-11-23", 99] == 0.5


def test_a_part_that_is_published_after_the_plan_stays(settings, lake, nights, monkeypatch):
    part, other_part = leave_parts(lake), leave_parts(lake)
    make_old(*part)
    make_old(*other_part)
    commit = maintenance._commit

    def publish_and_commit(*arguments: object) -> None:
        with Lakehouse.open(settings) as other:
            publish_old_parts(other, part)
        commit(*arguments)

    monkeypatch.setattr(maintenance, "_commit", publish_and_commit)
    upkeep = tidy(lake, after=timedelta(0))
    assert [orphan.file.address for orphan in upkeep.files] == other_part
    assert scores_at(lake)["2026-11-23", 99] == 0.5


@pytest.mark.parametrize("who", ["a night", "a rollback", "a tag"])
def test_what_moves_during_the_upkeep_stops_it(settings, lake, nights, monkeypatch, who):
    """Least of all may a snapshot expire to which `main` has just gone back: the branch `main` would go with it."""
    staged = stage_quickly(lake, MONDAY, [0.5])
    commit = maintenance._commit

    def move_and_commit(*arguments: object) -> None:
        with Lakehouse.open(settings) as other:
            if who == "a night":
                publish(other, staged)
            elif who == "a rollback":
                roll_back(other, PREDICTIONS, "2026-11-20", "why not", "marta")
            else:
                refs = other.load(PREDICTIONS).manage_snapshots()
                refs.create_tag(nights[FRIDAY].id, "night_2026-11-22").commit()
        commit(*arguments)

    monkeypatch.setattr(maintenance, "_commit", move_and_commit)
    with pytest.raises(PublishConflictError, match=r"changed by somebody else during its upkeep .* Nothing was"):
        tidy(lake)
    monkeypatch.undo()
    assert scores_at(lake)
    assert everything_readable(lake)
    tidy(lake)
    assert everything_readable(lake)


def test_a_file_that_cannot_be_deleted_is_reported_and_the_rerun_removes_it(untidy, monkeypatch):
    planned = tidy(untidy, apply=False)
    stubborn = planned.files[0].file
    delete = PyArrowFileIO.delete

    def refuse_one(self: PyArrowFileIO, address: str) -> None:
        if address == stubborn.address:
            raise PermissionError(f"access denied: {address}")
        delete(self, address)

    monkeypatch.setattr(PyArrowFileIO, "delete", refuse_one)
    upkeep = tidy(untidy)
    assert set(upkeep.failed) == {stubborn.address}
    assert "access denied" in upkeep.failed[stubborn.address]
    assert upkeep.bytes == planned.bytes - stubborn.size
    assert Path(plain(stubborn.address)).exists()
    monkeypatch.undo()
    again = tidy(untidy)
    assert [orphan.file for orphan in again.files] == [stubborn]
    assert (again.failed, again.bytes) == ({}, stubborn.size)
    assert not Path(plain(stubborn.address)).exists()


def test_a_file_that_is_gone_already_is_no_failure(untidy, monkeypatch):
    delete = PyArrowFileIO.delete

    def delete_twice(self: PyArrowFileIO, address: str) -> None:
        delete(self, address)
        delete(self, address)

    monkeypatch.setattr(PyArrowFileIO, "delete", delete_twice)
    assert tidy(untidy).failed == {}


def make_all_old(lake: Lakehouse) -> None:
    for path in folder(lake).rglob("*"):
        if path.is_file():
            make_old(str(path))
