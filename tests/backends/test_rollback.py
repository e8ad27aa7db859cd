"""Going back and forward again: nothing is lost, who follows `main` follows, and the next night goes on top."""

from datetime import date

import pytest

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.night_tags import night_tags_at, settle_night_tags
from backends.lakehouse.publishing import publish, rollback, rollbacks
from backends.lakehouse.reading import Snapshot
from backends.nights import newest_night, published_nights
from backends.rollbacks import Rollback, roll_back, targets
from models.errors import LakehouseError, PublishConflictError, SnapshotNotFoundError, TableNotFoundError
from tests.backends.nights import FRIDAY, PREDICTIONS, SATURDAY
from tests.backends.quick_nights import (
    MONDAY,
    SUNDAY,
    night_tags,
    publish_quickly,
    scores_at,
    stage_quickly,
    three_nights,
)


@pytest.fixture
def nights(lake) -> dict[date, Snapshot]:
    """Friday, Saturday and Sunday, published."""
    return three_nights(lake)


def back(lake: Lakehouse, to: object, reason: str = "scores are wrong") -> Rollback:
    return roll_back(lake, PREDICTIONS, str(to), reason, "marta")


def shown_nights(lake: Lakehouse) -> dict[str, int]:
    return {day: night.id for day, night in published_nights(lake, PREDICTIONS).items()}


def test_readers_see_the_earlier_state_row_by_row(lake, nights):
    friday = scores_at(lake, nights[FRIDAY].id)
    done = back(lake, nights[FRIDAY].id)
    assert (done.moved.before, done.moved.now) == (nights[SUNDAY], nights[FRIDAY])
    assert scores_at(lake) == friday
    assert friday == {("2026-11-20", 0): 0.0, ("2026-11-20", 1): 0.125}


def test_what_was_there_stays_readable_under_a_tag(lake, nights):
    before = scores_at(lake)
    done = back(lake, nights[FRIDAY].id)
    kept = lake.load(PREDICTIONS).refs()[done.moved.tag]
    assert kept.snapshot_id == nights[SUNDAY].id
    assert scores_at(lake, kept.snapshot_id) == before


def test_the_record_has_from_to_who_when_and_why(lake, nights):
    back(lake, nights[SATURDAY].id, "  a “bad” join,\nsee ticket 7  ")
    (record,) = rollbacks(lake, PREDICTIONS)
    assert record.pop("at").startswith("20")
    assert record == {
        "from": str(nights[SUNDAY].id),
        "to": str(nights[SATURDAY].id),
        "by": "marta",
        "reason": "a “bad” join,\nsee ticket 7",
    }


def test_the_records_of_several_rollbacks_are_in_their_order(lake, nights):
    for number, day in enumerate((SATURDAY, FRIDAY, SUNDAY)):
        back(lake, nights[day].id, f"reason {number}")
    assert [record["reason"] for record in rollbacks(lake, PREDICTIONS)] == ["reason 0", "reason 1", "reason 2"]


@pytest.mark.parametrize("name", ["2026-11-20", "night_2026-11-20", " 2026-11-20 "])
def test_a_state_can_be_named_by_its_day(lake, nights, name):
    assert back(lake, name).moved.now == nights[FRIDAY]


def test_who_follows_main_follows_it_back(lake, nights):
    back(lake, nights[FRIDAY].id)
    assert newest_night(lake, PREDICTIONS) == nights[FRIDAY]
    assert shown_nights(lake) == {"2026-11-20": nights[FRIDAY].id}


def test_the_tag_of_a_withdrawn_night_is_gone_and_the_others_stay(lake, nights):
    done = back(lake, "2026-11-20")
    assert night_tags(lake) == {"2026-11-20": nights[FRIDAY].id}
    assert (done.withdrawn, done.restored) == (["2026-11-21", "2026-11-22"], [])


def test_going_forward_again_restores_rows_nights_and_tags(lake, nights):
    before, tags = scores_at(lake), night_tags(lake)
    tag = back(lake, nights[FRIDAY].id).moved.tag
    done = back(lake, tag, "it was right after all")
    assert scores_at(lake) == before
    assert night_tags(lake) == tags == shown_nights(lake)
    assert (done.withdrawn, done.restored) == ([], ["2026-11-21", "2026-11-22"])


def test_a_rerun_that_is_taken_back_gives_the_tag_to_the_first_run_again(lake, nights):
    first, rerun = nights[SUNDAY], publish_quickly(lake, SUNDAY, [0.75])
    assert night_tags(lake)["2026-11-22"] == rerun.id
    done = back(lake, first.id)
    assert night_tags(lake) == shown_nights(lake)
    assert night_tags(lake)["2026-11-22"] == first.id
    assert (done.withdrawn, done.restored) == ([], ["2026-11-22"])


def test_the_next_night_is_published_on_top(lake, nights):
    back(lake, nights[FRIDAY].id)
    friday = scores_at(lake)
    sunday = publish_quickly(lake, SUNDAY, [0.875])
    assert newest_night(lake, PREDICTIONS) == sunday
    assert scores_at(lake) == friday | {("2026-11-22", 0): 0.875}
    assert (
        night_tags(lake)
        == shown_nights(lake)
        == {
            "2026-11-20": nights[FRIDAY].id,
            "2026-11-22": sunday.id,
        }
    )
    assert scores_at(lake, nights[SUNDAY].id)["2026-11-22", 0] == 0.5


def test_a_line_that_was_left_can_be_taken_up_again_after_other_nights(lake, nights):
    tags, before = night_tags(lake), scores_at(lake)
    tag = back(lake, nights[FRIDAY].id).moved.tag
    publish_quickly(lake, SUNDAY, [0.875])
    back(lake, tag)
    assert night_tags(lake) == shown_nights(lake) == tags
    assert scores_at(lake) == before


def test_a_night_that_was_staged_before_a_rollback_is_not_published_after_it(lake, nights):
    staged = stage_quickly(lake, MONDAY, [0.5])
    back(lake, nights[FRIDAY].id)
    with pytest.raises(PublishConflictError, match="run again"):
        publish(lake, staged)
    assert lake.snapshot(PREDICTIONS) == nights[FRIDAY]


def test_of_a_rollback_and_a_night_at_once_one_is_told(settings, lake, nights, monkeypatch):
    """The night is published when the rollback has looked, and has not committed yet."""
    snapshot = Lakehouse.snapshot

    def publish_first(self, *arguments):
        monkeypatch.setattr(Lakehouse, "snapshot", snapshot)
        found = snapshot(self, *arguments)
        with Lakehouse.open(settings) as other:
            publish_quickly(other, MONDAY, [0.5])
        return found

    monkeypatch.setattr(Lakehouse, "snapshot", publish_first)
    with pytest.raises(PublishConflictError, match="changed by somebody else"):
        rollback(lake, PREDICTIONS, nights[FRIDAY].id, "late", "marta")
    assert newest_night(lake, PREDICTIONS).properties["scored_on"] == "2026-11-23"
    assert rollbacks(lake, PREDICTIONS) == []
    assert not [name for name in lake.load(PREDICTIONS).refs() if name.startswith("rolled_back_")]


@pytest.mark.parametrize("to", ["4711", "2026-11-19", "main", "night_", "", "yesterday"])
def test_a_state_that_never_was_is_refused_with_those_that_there_are(lake, nights, to):
    with pytest.raises(SnapshotNotFoundError) as caught:
        back(lake, to)
    said = str(caught.value)
    assert f"cannot go to {to!r}" in said
    for day, night in list(nights.items())[:2]:
        assert f"{night.id}" in said
        assert f"night of {day} by version 3 [{day}]" in said
    assert str(nights[SUNDAY].id) not in said
    assert lake.snapshot(PREDICTIONS) == nights[SUNDAY]


def test_a_snapshot_that_was_only_staged_is_refused(lake, nights):
    staged = stage_quickly(lake, SUNDAY, [0.5])
    for to in (staged.snapshot.id, staged.branch):
        with pytest.raises(SnapshotNotFoundError, match="never showed that"):
            back(lake, to)


@pytest.mark.parametrize("name", ["2026-11-22", "night_2026-11-22"])
def test_going_where_main_is_already_is_said(lake, nights, name):
    for to in (name, nights[SUNDAY].id):
        with pytest.raises(SnapshotNotFoundError, match="it shows that already"):
            back(lake, to)
    assert rollbacks(lake, PREDICTIONS) == []


@pytest.mark.parametrize(
    ("reason", "by", "named"), [("", "marta", "reason is ''"), (" \n", "m", "reason"), ("x", " ", "by")]
)
def test_without_a_reason_and_a_name_nothing_happens(lake, nights, reason, by, named):
    with pytest.raises(LakehouseError, match=named):
        roll_back(lake, PREDICTIONS, str(nights[FRIDAY].id), reason, by)
    assert lake.snapshot(PREDICTIONS) == nights[SUNDAY]


def test_a_table_that_is_not_there_is_named(lake):
    with pytest.raises(TableNotFoundError, match=r"'gold\.tiny_predictions'"):
        back(lake, "2026-11-20")


def test_the_states_to_choose_from_are_listed_newest_first_with_their_names(lake, nights):
    tag = back(lake, nights[SATURDAY].id).moved.tag
    there = targets(lake, PREDICTIONS)
    assert [target.snapshot.id for target in there[:2]] == [nights[SUNDAY].id, nights[FRIDAY].id]
    assert (there[0].tags, there[0].days) == ((tag,), ())
    assert there[1].days == ("2026-11-20",)
    assert there[-1].snapshot.rows == 0  # the table before its first night


def test_of_many_states_an_error_names_the_newest_and_counts_the_others(lake, nights):
    for number in range(8):
        publish_quickly(lake, SUNDAY, [number / 8])
    with pytest.raises(SnapshotNotFoundError, match=r"\n  and 3 older ones$") as caught:
        back(lake, "2026-01-01")
    assert len(str(caught.value).splitlines()) == 1 + 8 + 1


# --- tags -----------------------------------------------------------------------------------------------------------


def test_tags_that_agree_with_main_are_left_alone(lake, nights):
    before = lake.load(PREDICTIONS).metadata_location
    assert settle_night_tags(lake, PREDICTIONS) == {}
    assert lake.load(PREDICTIONS).metadata_location == before


def test_tags_are_mended_after_somebody_elses_rollback(lake, nights):
    lake.load(PREDICTIONS).manage_snapshots().set_current_snapshot(nights[SATURDAY].id).commit()
    assert settle_night_tags(lake, PREDICTIONS) == {"night_2026-11-22": None}
    assert night_tags(lake) == shown_nights(lake)


def test_a_night_older_than_all_that_is_known_keeps_its_tag(lake, nights):
    loaded = lake.load(PREDICTIONS)
    cut = [s for s in loaded.metadata.snapshots if s.snapshot_id != nights[FRIDAY].id]
    orphaned = [
        s.model_copy(update={"parent_snapshot_id": None}) if s.parent_snapshot_id == nights[FRIDAY].id else s
        for s in cut
    ]
    older = next(s for s in loaded.metadata.snapshots if s.snapshot_id == nights[FRIDAY].id)
    metadata = loaded.metadata.model_copy(update={"snapshots": [*orphaned, older]})
    assert night_tags_at(metadata, nights[SATURDAY].id) == {"night_2026-11-22": None}


def test_a_rollback_and_its_tags_are_one_commit(lake, nights):
    before = len(lake.load(PREDICTIONS).metadata.metadata_log)
    rollback(lake, PREDICTIONS, nights[FRIDAY].id, "why not", "marta")
    assert len(lake.load(PREDICTIONS).metadata.metadata_log) == before + 1
    assert night_tags(lake) == shown_nights(lake) == {"2026-11-20": nights[FRIDAY].id}
