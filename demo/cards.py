"""Who holds the cards, and what is lasting about them: where and how they live, how much and how often they spend.

None of it stands in the lake: a model has to learn it from a card's history.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from demo.draws import Codes, Draws, Reals

COUNTRIES = ("DE", "FR", "IT", "ES", "NL", "PL", "GB", "US", "TR", "BR")
HOME_SHARES = ((0.34, 0.2, 0.14, 0.11, 0.07, 0.08, 0.04, 0.01, 0.007, 0.003),)
LIVES = ("family", "commuter", "young", "business")
LIFE_SHARES = ((0.36, 0.3, 0.24, 0.1),)


@dataclass(frozen=True)
class Cards:
    """All cards, one element each. The cards of a user share everything but how often they are used."""

    ids: npt.NDArray[np.int64]
    homes: Codes  # of `COUNTRIES`
    lives: Codes  # of `LIVES`
    thrift: Reals  # what the holder spends over what others spend, as a logarithm
    activity: npt.NDArray[np.float64]  # share of all everyday swipes

    def __len__(self) -> int:
        return len(self.ids)


def draw_cards(count: int, *key: int) -> Cards:
    """Draw `count` cards of three users for every four cards: each third user has two, the second one rarely used."""
    card = np.arange(count)
    user = card * 3 // 4
    users, cards = Draws(int(user[-1]) + 1, *key, 0), Draws(count, *key, 1)
    life = users.code(LIFE_SHARES)[user]
    second = np.diff(user, prepend=-1) == 0
    activity = np.exp(0.6 * cards.normal().astype(np.float64)) * np.where(second, 0.5, 1)
    return Cards(
        ids=40_000_000 + 8 * card + cards.whole(8),
        homes=users.code(HOME_SHARES)[user],
        lives=life,
        thrift=0.35 * users.normal()[user] + np.array((0.0, -0.1, -0.3, 0.5), np.float32)[life],
        activity=activity / activity.sum(),
    )
