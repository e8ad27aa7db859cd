"""What a swipe looks like, by what is behind it: an everyday purchase, a journey, a spree, or one of the ways of fraud.

A swipe has a category, a channel, a country and an amount. `draw_looks` draws them; `Looks.chances` says how likely a
swipe of each kind was to look like that, which is what `demo/fraud_ceiling.py` reasons from. Both read the same tables.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from demo.cards import Cards
from demo.draws import Codes, Draws, Flags

Chances = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

CATEGORIES = (
    *("groceries", "restaurants", "fuel", "transport", "fashion", "electronics", "home"),
    *("health", "digital", "gaming", "travel", "cash", "jewellery", "charity"),
)
CHANNELS = ("contactless", "chip", "online", "cash_machine")
CONTACTLESS_LIMIT = 50.0  # above it a card is inserted
MAX_AMOUNT = 50_000.0

# Typical amount in euros, its spread as a logarithm, and the share of purchases that are made online.
TYPICAL = (32, 24, 55, 9, 58, 110, 62, 26, 8, 7, 160, 90, 140, 20)
SPREAD = (0.75, 0.65, 0.45, 0.7, 0.75, 1.05, 0.95, 0.75, 0.6, 0.7, 0.95, 0.6, 0.95, 0.8)
ONLINE = (0.06, 0.12, 0.0, 0.45, 0.45, 0.5, 0.35, 0.12, 1.0, 0.97, 0.75, 0.0, 0.25, 0.85)

#        groc  rest  fuel  trans fash  elec  home  heal  digi  gami  trav  cash  jewe  char
FAMILY = (0.34, 0.11, 0.10, 0.04, 0.08, 0.03, 0.09, 0.07, 0.05, 0.01, 0.01, 0.05, 0.003, 0.017)
COMMUTER = (0.25, 0.16, 0.05, 0.20, 0.06, 0.03, 0.04, 0.05, 0.08, 0.01, 0.01, 0.05, 0.002, 0.008)
YOUNG = (0.20, 0.24, 0.03, 0.10, 0.12, 0.04, 0.02, 0.03, 0.12, 0.05, 0.015, 0.03, 0.002, 0.003)
BUSINESS = (0.12, 0.26, 0.12, 0.12, 0.06, 0.05, 0.03, 0.03, 0.06, 0.003, 0.09, 0.04, 0.009, 0.008)
JOURNEY = (0.16, 0.33, 0.07, 0.14, 0.07, 0.01, 0.005, 0.03, 0.03, 0.005, 0.06, 0.08, 0.008, 0.002)
SPREE = (0.06, 0.10, 0.0, 0.02, 0.40, 0.12, 0.18, 0.04, 0.01, 0.01, 0.01, 0.02, 0.025, 0.005)
PLAY = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.28, 0.70, 0.0, 0.0, 0.0, 0.02)
TESTING = (0.0, 0.01, 0.0, 0.06, 0.01, 0.01, 0.0, 0.01, 0.42, 0.24, 0.0, 0.0, 0.0, 0.24)
CASHING = (0.0, 0.0, 0.0, 0.0, 0.18, 0.40, 0.03, 0.0, 0.10, 0.10, 0.14, 0.0, 0.05, 0.0)
STOLEN = (0.08, 0.04, 0.09, 0.05, 0.17, 0.22, 0.02, 0.02, 0.0, 0.0, 0.0, 0.22, 0.09, 0.0)
FAR = (0.10, 0.10, 0.08, 0.06, 0.14, 0.20, 0.01, 0.02, 0.0, 0.0, 0.02, 0.20, 0.07, 0.0)
QUIET = (0.04, 0.03, 0.0, 0.05, 0.20, 0.26, 0.07, 0.03, 0.12, 0.06, 0.10, 0.0, 0.03, 0.01)


@dataclass(frozen=True)
class Kind:
    """What is behind a swipe, and how it shows."""

    name: str
    fraud: bool
    categories: tuple[tuple[float, ...], ...]  # shares, by the holder's life or for all alike
    amounts: float = 1.0  # over the typical one
    spread: float | None = None  # of the amount, where it is not the category's
    typical: float | None = None  # the amount, where it does not depend on the category
    own_purse: bool = True  # whether the holder's thrift shows
    online: float | None = None  # share, where it is not the category's
    home_shops: float = 0.8  # share of online purchases in shops of the holder's country; others are anywhere
    stays: float = 0.99  # share of the other purchases that are made where the card is; others are anywhere


KINDS = (
    Kind("everyday", False, (FAMILY, COMMUTER, YOUNG, BUSINESS), stays=0.985),
    Kind("journey", False, (JOURNEY,), amounts=1.2, stays=0.97),
    Kind("spree", False, (SPREE,), amounts=1.2),
    Kind("play", False, (PLAY,), typical=4.0, spread=0.8, home_shops=0.4),
    Kind("testing", True, (TESTING,), typical=1.3, spread=0.55, own_purse=False, online=1.0, home_shops=0.3),
    Kind("cashing", True, (CASHING,), typical=260, spread=0.75, own_purse=False, online=1.0, home_shops=0.35),
    Kind("stolen", True, (STOLEN,), amounts=3.0, spread=0.65, own_purse=False, online=0.0),
    Kind("far", True, (FAR,), typical=160, spread=0.8, own_purse=False, online=0.0, stays=0.95),
    Kind("quiet", True, (QUIET,), amounts=1.5, own_purse=False, online=1.0, home_shops=0.5),
)
EVERYDAY, JOURNEY_KIND, SPREE_KIND, PLAY_KIND, TESTING_KIND, CASHING_KIND, STOLEN_KIND, FAR_KIND, QUIET_KIND = range(9)
FRAUD = np.array([kind.fraud for kind in KINDS])

ANYWHERE = np.array((0.16, 0.14, 0.11, 0.12, 0.09, 0.06, 0.14, 0.1, 0.05, 0.03))
THIEVES_SHOPS = np.array((0.08, 0.06, 0.05, 0.06, 0.05, 0.07, 0.18, 0.25, 0.1, 0.1))

_SHARES = np.array([[kind.categories[life % len(kind.categories)] for life in range(4)] for kind in KINDS])
_SHARES = _SHARES / _SHARES.sum(axis=2, keepdims=True)
_MIDDLE = np.log([[kind.typical or kind.amounts * typical for typical in TYPICAL] for kind in KINDS])
_SPREAD = np.array([[kind.spread or spread for spread in SPREAD] for kind in KINDS])
_PURSE = np.array([kind.own_purse for kind in KINDS], np.float64)
_ONLINE = np.array([ONLINE if kind.online is None else np.full(len(ONLINE), kind.online) for kind in KINDS])
_HOME_SHOPS = np.array([kind.home_shops for kind in KINDS])
_STAYS = np.array([kind.stays for kind in KINDS])
_SHOPS = np.array([THIEVES_SHOPS if kind.fraud else ANYWHERE for kind in KINDS])


@dataclass(frozen=True)
class Looks:
    """What is seen of each swipe."""

    category: Codes
    country: Codes
    online: Flags
    amount: npt.NDArray[np.float64]  # euros, two decimals

    @property
    def channel(self) -> Codes:
        """Codes of `CHANNELS`: they follow from the rest."""
        present = np.where(self.amount <= CONTACTLESS_LIMIT, 0, 1)
        cash = self.category == CATEGORIES.index("cash")
        return np.where(cash, 3, np.where(self.online, 2, present)).astype(np.int8)

    def taken(self, rows: Rows) -> "Looks":
        """Return the looks of the `rows`, in their order."""
        return Looks(self.category[rows], self.country[rows], self.online[rows], self.amount[rows])

    def chances(self, cards: Cards, card: Rows) -> Chances:
        """Return float64 [rows, kinds]: how likely a swipe of each kind was to have this category, channel and amount.

        The amount's is a density, up to a factor that is the same for all kinds of a row. The country's is apart.
        """
        category = self.category.astype(np.int64)
        share = _SHARES[:, cards.lives[card], category]
        online = np.where(self.online, _ONLINE[:, category], 1 - _ONLINE[:, category])
        middle = _MIDDLE[:, category] + _PURSE[:, None] * cards.thrift[card]
        off = (np.log(self.amount) - middle) / _SPREAD[:, category]
        chances: Chances = (share * online * np.exp(-(off**2) / 2) / _SPREAD[:, category]).T
        return chances

    def country_chances(self, kind: int, homes: Codes, places: Codes) -> Chances:
        """Return float64 [rows, places]: how likely swipes of `kind` by cards at `places` came from this country.

        `homes` is [rows]; `places` is [places], or [rows, 1] for a place of each row's own.
        """
        online, country = self.online[:, None], self.country[:, None]
        near = np.where(online, _HOME_SHOPS[kind], _STAYS[kind])
        elsewhere = (1 - near) * np.where(online, _SHOPS[kind][country], ANYWHERE[country])
        return np.where(country == np.where(online, homes[:, None], places), near + elsewhere, elsewhere)


def draw_looks(draws: Draws, cards: Cards, card: Rows, kind: Codes, place: Codes) -> Looks:
    """Draw what is seen of swipes of `kind` [rows] with `card` [rows], each at its `place` (of `COUNTRIES`)."""
    category = _pick(draws, _SHARES[kind, cards.lives[card]])
    online = draws.flag(_ONLINE[kind, category].astype(np.float32))
    near = draws.flag(np.where(online, _HOME_SHOPS[kind], _STAYS[kind]).astype(np.float32))
    anywhere = _pick(draws, np.where(online[:, None], _SHOPS[kind], ANYWHERE))
    middle = _MIDDLE[kind, category] + _PURSE[kind] * cards.thrift[card]
    amount = np.exp(middle + _SPREAD[kind, category] * draws.normal())
    return Looks(
        category=category,
        country=np.where(near, np.where(online, cards.homes[card], place), anywhere).astype(np.int8),
        online=online,
        amount=np.clip(np.round(amount, 2), 0.01, MAX_AMOUNT),
    )


def _pick(draws: Draws, shares: Chances) -> Codes:
    """Return int8 [rows]: a position of each row's `shares` [rows, values]."""
    limits = np.cumsum(shares, axis=1)
    picked: Codes = (draws.uniform()[:, None] * limits[:, -1:] >= limits).sum(axis=1).astype(np.int8)
    return picked
