"""What happens to a card without anybody seeing it: journeys and sprees of its holder, and the episodes of fraud.

A card is in one state at a time: at home, or in one of the episodes. It stays there for an exponential time and then
passes on, all on the clock of `demo/pace.py`. An episode brings swipes of its own, at a steady rate, beside everyday
ones; a journey brings none, but takes the everyday ones along. So the whole is a Markov chain that is seen
through swipes, and `demo/fraud_ceiling.py` can say exactly what the swipes tell about the state.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from demo.draws import Draws
from demo.pace import Clock
from demo.swipe_kinds import (
    CASHING_KIND,
    EVERYDAY,
    FAR_KIND,
    JOURNEY_KIND,
    PLAY_KIND,
    QUIET_KIND,
    SPREE_KIND,
    STOLEN_KIND,
    TESTING_KIND,
)

Rows = npt.NDArray[np.int64]
HOME = 0  # the first state


@dataclass(frozen=True)
class State:
    """One state of a card; of journeys and of use far away there is one for each country."""

    kind: int  # of the swipes it brings, or of the everyday ones meanwhile
    place: int = -1  # of `COUNTRIES`; -1 is where the holder lives
    begins: float = 0.0  # from home, a clock's day
    days: float = 0.0  # how long, on average; the stay at home is as long as nothing begins
    swipes: float = 0.0  # of its own, a clock's day


JOURNEYS = (0.1, 0.17, 0.2, 0.2, 0.05, 0.03, 0.08, 0.06, 0.09, 0.02)  # where to; to the own country too
FAR_AWAY = (0.04, 0.04, 0.06, 0.05, 0.03, 0.08, 0.1, 0.26, 0.16, 0.18)  # where copied cards are used
HOURS = 1 / 24
CASHED = 0.6  # of the tests of a card lead to its use

STATES = (
    State(EVERYDAY),
    *(State(JOURNEY_KIND, place, share / 55, 4 + place / 5) for place, share in enumerate(JOURNEYS)),
    State(SPREE_KIND, begins=1 / 100, days=1.2 * HOURS, swipes=2.5 / HOURS),
    State(PLAY_KIND, begins=1 / 250, days=0.8 * HOURS, swipes=6 / HOURS),
    State(TESTING_KIND, begins=1 / 9500, days=0.4 * HOURS, swipes=30 / HOURS),
    State(CASHING_KIND, days=1.2 * HOURS, swipes=2.5 / HOURS),
    State(STOLEN_KIND, begins=1 / 6000, days=1.5 * HOURS, swipes=6 / HOURS),
    *(
        State(FAR_KIND, place, share / 5000, (7 + place / 4) * HOURS, 0.8 / HOURS)
        for place, share in enumerate(FAR_AWAY)
    ),
    State(QUIET_KIND, begins=1 / 2300, days=1 * HOURS, swipes=1 / HOURS),
)
KIND = np.array([state.kind for state in STATES])
PLACE = np.array([state.place for state in STATES])
DAYS = np.array([state.days for state in STATES])
SWIPES = np.array([state.swipes for state in STATES])
BEGINS = np.array([state.begins for state in STATES])
_TESTING, _CASHING = (int(np.flatnonzero(kind == KIND)[0]) for kind in (TESTING_KIND, CASHING_KIND))


@dataclass(frozen=True)
class Episodes:
    """Stays of cards away from `HOME`, in any order."""

    card: Rows
    state: Rows
    begin: Clock
    end: Clock


@dataclass(frozen=True)
class Extras:
    """The swipes that episodes bring."""

    card: Rows
    state: Rows
    clock: Clock


def rates() -> npt.NDArray[np.float64]:
    """Return float64 [states, states]: how often, a clock's day, a card passes from a state (row) to another."""
    rate = np.zeros((len(STATES), len(STATES)))
    rate[HOME] = BEGINS
    rate[1:, HOME] = 1 / DAYS[1:]
    rate[_TESTING, [HOME, _CASHING]] = np.array([1 - CASHED, CASHED]) / DAYS[_TESTING]
    return rate


def draw_episodes(cards: int, until: float, *key: int) -> tuple[Episodes, Extras]:
    """Draw what happens to `cards` cards that are all at home when the clock is 0, until it is `until`.

    A later `until` only adds to it.
    """
    steps = list(_steps(cards, until, key))
    episodes = (np.concatenate(parts) for parts in zip(*(astuple(episode) for episode, _ in steps), strict=True))
    extras = (np.concatenate(parts) for parts in zip(*(astuple(extra) for _, extra in steps), strict=True))
    return Episodes(*episodes), Extras(*extras)


def _steps(cards: int, until: float, key: tuple[int, ...]) -> Iterator[tuple[Episodes, Extras]]:
    """Yield the first episode of each card, then the second, until all have passed `until`."""
    card, clock, state, step = np.arange(cards), np.zeros(cards), np.full(cards, HOME), 0
    passing = np.cumsum(rates(), axis=1)
    while (clock < until).any():
        draws = Draws(cards, *key, step)
        begin = clock + np.where(state == HOME, draws.exponential() / passing[HOME, -1], 0)
        state = (draws.moment()[:, None] * passing[state, -1:] >= passing[state]).sum(axis=1)
        clock = begin + draws.exponential() * DAYS[state]
        swiped = np.repeat(card, draws.count((clock - begin) * SWIPES[state]))
        moment = begin[swiped] + Draws(len(swiped), *key, step, 0).moment() * (clock - begin)[swiped]
        away, seen = (state != HOME) & (begin < until), moment < until
        yield (
            Episodes(card[away], state[away], begin[away], clock[away]),
            Extras(swiped[seen], state[swiped[seen]], moment[seen]),
        )
        step += 1
