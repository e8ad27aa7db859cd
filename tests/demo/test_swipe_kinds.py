"""What swipes look like: what is drawn and what is reasoned from are the same distributions."""

import numpy as np
import pytest

from demo.cards import COUNTRIES, Cards, draw_cards
from demo.draws import Draws
from demo.swipe_kinds import CATEGORIES, KINDS, Looks, draw_looks

ROWS = 60_000
HOME, PLACE = COUNTRIES.index("FR"), COUNTRIES.index("US")
AMOUNTS = np.exp(np.arange(-6, 14, 0.02))  # a step of 2 %, far beyond any amount


@pytest.fixture(scope="module")
def cards() -> Cards:
    cards = draw_cards(50, 3)
    return Cards(cards.ids, np.full_like(cards.homes, HOME), cards.lives, cards.thrift, cards.activity)


@pytest.fixture(scope="module", params=range(len(KINDS)), ids=[kind.name for kind in KINDS])
def kind(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def looks(cards: Cards, kind: int) -> Looks:
    card = np.full(ROWS, 7)
    return draw_looks(Draws(ROWS, 1, kind), cards, card, np.full(ROWS, kind), np.full(ROWS, PLACE))


def every(category: int, online: bool) -> Looks:
    """One look for each amount of the grid."""
    count = len(AMOUNTS)
    return Looks(np.full(count, category), np.full(count, HOME), np.full(count, online), AMOUNTS)


def near(found: float, expected: float) -> bool:
    return abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / ROWS) + 1e-4


def test_categories_channels_and_amounts_are_as_likely_as_they_are_drawn(cards: Cards, kind: int, looks: Looks):
    total = 0.0
    for category in range(len(CATEGORIES)):
        for online in (False, True):
            density = every(category, online).chances(cards, np.full(len(AMOUNTS), 7))[:, kind]
            share = density.sum() * 0.02 / np.sqrt(2 * np.pi)
            drawn = (looks.category == category) & (looks.online == online)
            assert near(drawn.mean(), share)
            total += share
            if drawn.sum() > 1000:
                middle = AMOUNTS[np.searchsorted(np.cumsum(density), density.sum() / 2)]
                assert np.median(looks.amount[drawn]) == pytest.approx(middle, rel=0.15)
    assert total == pytest.approx(1)


def test_countries_are_as_likely_as_they_are_drawn(kind: int, looks: Looks):
    places, homes = np.array([PLACE]), np.full(len(COUNTRIES), HOME)
    for online in (False, True):
        rows = looks.online == online
        if not rows.any():
            continue
        each = Looks(np.zeros(10, int), np.arange(10), np.full(10, online), np.ones(10))
        chances = each.country_chances(kind, homes, places)[:, 0]
        assert chances.sum() == pytest.approx(1)
        drawn = np.bincount(looks.country[rows], minlength=10) / rows.sum()
        assert np.abs(drawn - chances).max() < 5 * np.sqrt(0.25 / rows.sum())


def test_cash_comes_from_machines_and_small_amounts_need_no_chip():
    cash, fuel = CATEGORIES.index("cash"), CATEGORIES.index("fuel")
    looks = Looks(
        np.array([cash, fuel, fuel, fuel]),
        np.zeros(4, int),
        np.array([False, False, False, True]),
        np.array([20.0, 50.0, 50.01, 9.0]),
    )
    assert looks.channel.tolist() == [3, 0, 1, 2]
