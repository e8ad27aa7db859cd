"""The demo's second table: two million card transactions of thirteen weeks, day by day, with the frauds among them.

Arrow in memory only; writing them to the lake is `demo/card_lake.py`. A day depends on the seed, the stream's size and
its first day alone, so days can be made in any order and by any number of threads.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from demo.cards import COUNTRIES, Cards, draw_cards
from demo.draws import Codes, Draws
from demo.episodes import KIND, PLACE, draw_episodes
from demo.pace import DAY, Clock, Moments, Pace
from demo.swipe_kinds import CATEGORIES, CHANNELS, EVERYDAY, FRAUD, JOURNEY_KIND, Looks, draw_looks

ROWS = 2_000_000
WEEKS = 13
FIRST_ID = 7_000_000_000
SWIPES_A_CARD = 80  # in thirteen weeks
MERCHANTS = 400  # of a category in a country
KNOWN_AFTER = 7  # days, until frauds are found out

_CARDS, _EPISODES, _DAY = 10, 11, 12  # what is drawn: part of the random key
_MILLISECOND, _SECOND = 1_000, 1_000_000

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Swipes:
    """Swipes in the order of their moments, with what the lake does not tell of them."""

    card: Rows  # position in the stream's cards
    kind: Codes  # of `swipe_kinds.KINDS`
    moment: Moments  # microseconds since the stream's first midnight
    looks: Looks

    def __len__(self) -> int:
        return len(self.card)


@dataclass(frozen=True)
class Stream:
    """`rows` swipes of `weeks` whole weeks up to and with `last_day`; it takes some hundreds a day.

    Whole weeks more, with as many rows more, go on where the stream ended and leave what it had as it was.
    """

    rows: int
    last_day: date
    seed: int
    weeks: int = WEEKS

    @property
    def days(self) -> range:
        """The days, by number."""
        return range(7 * self.weeks)

    @property
    def first_day(self) -> date:
        """The first day."""
        return self.last_day - timedelta(days=len(self.days) - 1)

    @property
    def known_days(self) -> range:
        """The days whose frauds are known; of later ones `is_fraud` is null."""
        return self.days[:-KNOWN_AFTER]

    @cached_property
    def pace(self) -> Pace:
        """The clock that everything runs by."""
        return Pace(self.first_day)

    @cached_property
    def cards(self) -> Cards:
        """All cards."""
        return draw_cards(round(self.rows / self.weeks * WEEKS / SWIPES_A_CARD), self.seed, _CARDS)

    @cached_property
    def fates(self) -> "Fates":
        """What happens to the cards."""
        return Fates(len(self.cards), float(len(self.days)), self.seed, _EPISODES)

    @cached_property
    def bounds(self) -> Rows:
        """Number of rows before each day, and in all."""
        return np.round(self.rows / len(self.days) * self._clock).astype(np.int64)

    @cached_property
    def everyday_swipes(self) -> float:
        """How many everyday swipes there are, of all cards together, a clock's day."""
        return (self.rows - len(self.fates.clock)) / len(self.days)

    def swipes(self, day: int) -> Swipes:
        """Return the swipes of one day."""
        low, high = self._clock[day], self._clock[day + 1]
        card, kind, place, clock = self.fates.swipes(low, high, self.cards)
        draws = Draws(self.bounds[day + 1] - self.bounds[day] - len(card), self.seed, _DAY, day)
        everyday = np.searchsorted(np.cumsum(self.cards.activity)[:-1], draws.moment(), "right")
        then = low + draws.moment() * (high - low)
        on_journey, there = self.fates.journeys(everyday, then)
        card, clock = np.concatenate([everyday, card]), np.concatenate([then, clock])
        kind = np.concatenate([np.where(on_journey, JOURNEY_KIND, EVERYDAY), kind])
        place = np.concatenate([np.where(on_journey, there, self.cards.homes[everyday]), place])
        looks = draw_looks(Draws(len(card), self.seed, _DAY, day, 0), self.cards, card, kind, place)
        moment = self.pace.moments(clock)
        moment -= moment % np.where(looks.online, _MILLISECOND, _SECOND)  # as shops' clocks and servers' say it
        order = np.argsort(moment, kind="stable")
        return Swipes(card[order], kind[order].astype(np.int8), moment[order], looks.taken(order))

    def table(self, day: int) -> pa.Table:
        """Return one day as the lake has it, in the order of `occurred_at`; words are dictionary<int8, string>."""
        swipes = self.swipes(day)
        midnight = (self.first_day - date(1970, 1, 1)).days * DAY
        columns = {
            "transaction_id": FIRST_ID + self.bounds[day] + np.arange(len(swipes)),
            "card_id": self.cards.ids[swipes.card],
            "occurred_at": pa.array(midnight + swipes.moment).cast(pa.timestamp("us", "UTC")),
            "amount": swipes.looks.amount,
            "country": _words(swipes.looks.country, COUNTRIES),
            "merchant_category": _words(swipes.looks.category, CATEGORIES),
            "merchant_id": self._merchants(day, swipes.looks),
            "channel": _words(swipes.looks.channel, CHANNELS),
            "is_fraud": pa.array(FRAUD[swipes.kind], mask=np.full(len(swipes), day not in self.known_days)),
        }
        return pa.table(columns)

    @cached_property
    def _clock(self) -> Clock:
        """What the clock shows at each midnight."""
        return self.pace.clock(np.arange(len(self.days) + 1) * DAY)

    def _merchants(self, day: int, looks: Looks) -> Rows:
        """Draw merchants, each of one category in one country; few have most of the customers."""
        rank = np.floor(MERCHANTS ** Draws(len(looks.amount), self.seed, _DAY, day, 1).moment()).astype(np.int64)
        return (looks.country.astype(np.int64) * len(CATEGORIES) + looks.category) * 1000 + rank


class Fates:
    """What happens to all cards, ready to be asked day by day."""

    def __init__(self, cards: int, until: float, *key: int) -> None:
        episodes, extras = draw_episodes(cards, until, *key)
        order = np.lexsort((episodes.begin, episodes.card))
        self._card, self._state, self._end = episodes.card[order], episodes.state[order], episodes.end[order]
        self._until = until
        self._begin = self._far(self._card, episodes.begin[order])
        order = np.argsort(extras.clock, kind="stable")
        self.card, self.state, self.clock = extras.card[order], extras.state[order], extras.clock[order]

    def swipes(self, low: float, high: float, cards: Cards) -> tuple[Rows, Codes, Codes, Clock]:
        """Return card, kind, place and moment on the clock of the swipes that episodes bring from `low` to `high`."""
        found = slice(*np.searchsorted(self.clock, [low, high]))
        card, state = self.card[found], self.state[found]
        place = np.where(PLACE[state] < 0, cards.homes[card], PLACE[state])
        return card, KIND[state], place, self.clock[found]

    def journeys(self, card: Rows, clock: Clock) -> tuple[npt.NDArray[np.bool_], Rows]:
        """Return bool [rows]: whether a card is on a journey at that time, and int64 [rows]: where."""
        last = np.searchsorted(self._begin, self._far(card, clock), "right") - 1
        found = (self._card[last] == card) & (self._end[last] > clock) & (KIND[self._state[last]] == JOURNEY_KIND)
        return found, PLACE[self._state[last]]

    def _far(self, card: Rows, clock: Clock) -> Clock:
        """Put the clocks of all cards one behind the other."""
        far: Clock = card * (self._until + 1) + clock
        return far


def _words(codes: Codes, values: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(values))
