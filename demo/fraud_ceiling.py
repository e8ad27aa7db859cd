"""The best that can be known of a swipe: the probability that it is fraud, by Bayes' rule, given the card so far.

A card's states are a Markov chain, seen through its swipes (`demo/episodes.py`). The belief about the state is carried
from swipe to swipe: between two of them by the chain, with states that would have brought swipes of their own losing to
those that bring none; at a swipe by how likely each state was to bring one that looks like it. That is exact (but for a
day's number of everyday swipes, of which the mean is taken), and it knows what no model can: the holder's habits and
home, and the rates of the chain. So no model that reads a card's swipes up to this one ranks better, at any rate of
false alarms (Neyman and Pearson).
"""

from collections.abc import Iterator
from dataclasses import astuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from demo.episodes import HOME, KIND, PLACE, STATES, SWIPES, rates
from demo.pace import Clock
from demo.swipe_kinds import FRAUD, JOURNEY_KIND, KINDS, Looks
from demo.transactions import Stream

Belief = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class Drift:
    """How a belief changes while nothing is seen: the exponential of the chain's rates less the states' own swipes."""

    def __init__(self) -> None:
        rate = rates()
        change = rate.T - np.diag(rate.sum(axis=1) + SWIPES)
        speeds, vectors = np.linalg.eig(change)
        self._speeds, self._vectors, self._back = speeds, vectors.T, np.linalg.inv(vectors).T

    def after(self, belief: Belief, days: Clock) -> Belief:
        """Return the belief [cards, states] after `days` [cards] of the clock; it shrinks by what was not seen."""
        changed: Belief = ((belief @ self._back) * np.exp(self._speeds * days[:, None]) @ self._vectors).real
        return np.maximum(changed, 0)


def fraud_probability(stream: Stream) -> npt.NDArray[np.float64]:
    """Return float64 [rows of the stream]: of each swipe, how likely it is fraud given its card's swipes up to it."""
    days = [stream.swipes(day) for day in stream.days]
    card = np.concatenate([day.card for day in days])
    clock = stream.pace.clock(np.concatenate([day.moment for day in days]))
    looks = Looks(*(np.concatenate(column) for column in zip(*(astuple(day.looks) for day in days), strict=True)))
    with threadpool_limits(1, user_api="blas"):  # small matrices: more threads would only wait for each other
        return _filtered(stream, card, clock, looks)


def _filtered(stream: Stream, card: Rows, clock: Clock, looks: Looks) -> npt.NDArray[np.float64]:
    """Carry the belief about each card from swipe to swipe; rows are in the order of time."""
    probability, drift = np.empty(len(card)), Drift()
    belief = np.zeros((len(stream.cards), len(STATES)))
    belief[:, HOME] = 1
    seen = np.zeros(len(stream.cards))
    for rows in _turns(card):
        now = card[rows]
        before = drift.after(belief[now], clock[rows] - seen[now])
        everyday, own = _brought(stream, now, looks.taken(rows))
        brought = before * (everyday + own)
        all_states = brought.sum(axis=1)
        probability[rows] = (before * own)[:, FRAUD[KIND]].sum(axis=1) / all_states
        belief[now] = brought / all_states[:, None]
        seen[now] = clock[rows]
    return probability


def _turns(card: Rows) -> Iterator[Rows]:
    """Yield the rows of every card's first swipe, then those of the second, and so on; rows are in order of time."""
    by_card = np.argsort(card, kind="stable")
    counts = np.bincount(card)
    turn = np.arange(len(card)) - np.repeat(np.cumsum(counts) - counts, counts)
    by_turn = by_card[np.argsort(turn, kind="stable")]
    yield from np.split(by_turn, np.cumsum(np.bincount(turn))[:-1])


def _brought(stream: Stream, card: Rows, looks: Looks) -> tuple[Belief, Belief]:
    """Return float64 [rows, states]: how often each state brings such a swipe, as an everyday one and as its own."""
    chances, homes = looks.chances(stream.cards, card), stream.cards.homes[card]
    looking = np.empty((len(card), len(STATES)))
    for kind in range(len(KINDS)):
        states = kind == KIND
        places = PLACE[states] if (PLACE[states] >= 0).all() else homes[:, None]
        looking[:, states] = chances[:, kind, None] * looks.country_chances(kind, homes, places)
    often = stream.everyday_swipes * stream.cards.activity[card]
    everyday = np.where(KIND == JOURNEY_KIND, looking, looking[:, HOME, None])
    return often[:, None] * everyday, SWIPES * looking
