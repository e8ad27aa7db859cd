"""Messages on their way: the oldest first, some in a tick, not twice to one who fails, and none lost without a word."""

import pytest
from pydantic import SecretStr

from backends.notifications import Message, Recipients
from orchestration.sensors import outbox
from orchestration.sensors.outbox import DAY, MOST_WAITING, PER_TICK, Waiting, enqueued, post
from tests.inboxes import webhook
from tests.serving import free_port

NOW = 1_000_000.0


@pytest.fixture
def hook():
    with webhook() as running:
        yield running


def some(number: int, places: list[int], since: float = NOW) -> list[Waiting]:
    messages = [Message(f"message {position}", "text", "info") for position in range(number)]
    return enqueued(messages, places, since)


def to(*addresses: str) -> Recipients:
    return Recipients.of(SecretStr(" ".join(addresses)))


def test_the_oldest_come_first_and_the_rest_in_the_next_tick(hook):
    posted = post(some(PER_TICK + 2, [1]), to(hook.address), NOW)
    assert hook.titles == [f"message {position}" for position in range(PER_TICK)]
    assert (posted.told, len(posted.waiting)) == (PER_TICK, 2)
    assert post(posted.waiting, to(hook.address), NOW).waiting == []
    assert len(hook.received) == PER_TICK + 2


def test_who_fails_once_is_left_alone_in_this_tick(hook):
    hook.status = 500
    posted = post(some(3, [1]), to(hook.address), NOW)
    assert hook.asked == 1
    assert [one.title for one in posted.waiting] == ["message 0", "message 1", "message 2"]


def test_one_who_fails_does_not_hold_up_another(hook):
    posted = post(some(3, [1, 2]), to(f"json://127.0.0.1:{free_port()}", hook.address), NOW)
    assert len(hook.received) == 3
    assert [one.places for one in posted.waiting] == [[1], [1], [1]]
    assert posted.told == 3


def test_a_tick_ends_when_its_time_is_up(hook, monkeypatch):
    monkeypatch.setattr(outbox, "SECONDS_PER_TICK", -1.0)
    assert len(post(some(3, [1]), to(hook.address), NOW).waiting) == 3
    assert hook.received == []


@pytest.mark.parametrize(("age", "kept"), [(DAY, True), (DAY + 1, False)])
def test_a_message_is_tried_for_a_day(hook, age, kept):
    posted = post(some(1, [1], NOW - age), to(hook.address), NOW)
    assert (hook.titles == ["message 0"]) is kept
    assert posted.lost == (0 if kept else 1)


def test_of_too_many_the_newest_are_kept_and_the_others_counted(hook):
    hook.status = 500
    posted = post(some(MOST_WAITING + 3, [1]), to(hook.address), NOW)
    notice, *kept = posted.waiting
    assert (notice.lost, posted.lost) == (3, 3)
    assert [one.title for one in kept][:1] == ["message 3"]
    assert len(kept) == MOST_WAITING


def test_what_was_lost_before_is_added_up(hook):
    hook.status = 500
    first = post(some(2, [1], NOW - DAY - 1), to(hook.address), NOW)
    again = post([*first.waiting, *some(1, [1], NOW - DAY - 1)], to(hook.address), NOW)
    assert [one.lost for one in again.waiting] == [3]
    assert again.lost == 1


def test_a_recipient_that_is_no_longer_in_the_setting_is_forgotten(hook):
    posted = post(some(1, [1, 2]), to(hook.address), NOW)
    assert (hook.titles, posted.waiting) == (["message 0"], [])
