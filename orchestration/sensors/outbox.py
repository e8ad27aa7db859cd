"""Messages on their way: what still has to reach whom. A recipient that fails is asked again, for a day."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import BaseModel

from backends.notifications import Kind, Message, Recipients

PER_TICK = 10  # messages
SECONDS_PER_TICK = 20.0  # a sensor's tick is killed after 60
DAY = 86_400.0
MOST_WAITING = 50  # for one recipient


class Waiting(BaseModel):
    """A message, and the places in TANDEM_NOTIFY of those who have not got it. `lost` counts what it stands for."""

    title: str
    body: str
    kind: Kind
    places: list[int]
    since: float  # seconds of the epoch
    lost: int = 0

    @property
    def message(self) -> Message:
        """What is said."""
        return Message(self.title, self.body, self.kind)


@dataclass
class Posted:
    """What became of one tick's messages."""

    waiting: list[Waiting] = field(default_factory=list)
    told: int = 0  # messages that reached somebody
    failed: dict[int, str] = field(default_factory=dict)  # why, by place
    lost: int = 0  # given up


def enqueued(messages: Sequence[Message], places: Sequence[int], now: float) -> list[Waiting]:
    """Address messages to everybody."""
    return [Waiting(title=m.title, body=m.body, kind=m.kind, places=list(places), since=now) for m in messages]


def post(waiting: Sequence[Waiting], recipients: Recipients, now: float) -> Posted:
    """Deliver what can be delivered, the oldest first; who fails once is left alone until the next tick."""
    posted, begun = Posted(), time.monotonic()
    for position, one in enumerate(_in_bounds(waiting, recipients.places, now, posted)):
        asked = [place for place in one.places if place not in posted.failed]
        if not asked or position >= PER_TICK or time.monotonic() - begun > SECONDS_PER_TICK:
            posted.waiting.append(one)
            continue
        failed = recipients.tell(one.message, asked)
        posted.failed |= failed
        posted.told += len(failed) < len(asked)
        if left := [place for place in one.places if place not in asked or place in failed]:
            posted.waiting.append(one.model_copy(update={"places": left}))
    return posted


def _in_bounds(waiting: Sequence[Waiting], places: Sequence[int], now: float, posted: Posted) -> Iterator[Waiting]:
    """Give up what is too old, or too much for one recipient; the recipient is told first how much that was."""
    kept: list[Waiting] = []
    lost, room = Counter[int](), dict.fromkeys(places, MOST_WAITING)
    for one in reversed(waiting):  # the newest are kept
        if one.lost:  # a notice, which is written anew
            lost.update(dict.fromkeys(one.places, one.lost))
            continue
        fits = [place for place in one.places if room.get(place) and now - one.since <= DAY]
        dropped = [place for place in one.places if place not in fits]
        lost.update(dropped)
        posted.lost += len(dropped)
        room |= {place: room[place] - 1 for place in fits}
        if fits:
            kept.append(one.model_copy(update={"places": fits}))
    yield from (_notice(place, lost[place], now) for place in places if lost[place])
    yield from reversed(kept)


def _notice(place: int, count: int, now: float) -> Waiting:
    text = f"{count} message{'s' if count > 1 else ''} of Tandem could not be delivered to you"
    body = f"{text}, and will not be sent again ({datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} UTC). See Dagster."
    return Waiting(title=text, body=body, kind="warning", places=[place], since=now, lost=count)
