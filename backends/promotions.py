"""Who becomes champion when: every move of MLflow's alias is claimed in the ledger first, and only then made.

MLflow moves an alias for whoever asks, in whatever order. The ledger does not: a row is added on top of the one that
its writer has seen, or not at all. So a move is
1. judged against the champion that `settle` returned;
2. claimed: a row in the ledger, if neither ledger nor alias has moved since. Of two at once, one is told
   (`PromotionConflictError`);
3. made: the alias is set, never taken away first, so that a reader always finds a champion;
4. settled: a mark in the ledger says that the alias has followed.

Whoever dies between two of them leaves a move that is not settled, and whoever comes next makes it. Who is only slow
has `patience` seconds before others do so for him; should he set the alias even later, after another move, he sees the
newer row then, and sets what that says. An alias that no row explains was moved by hand in MLflow: it is written down,
and stands.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from backends.lakehouse.catalog import Lakehouse
from backends.promotion_ledger import Move, Moves, Why, begin, mark_settled, read_moves, write_move
from backends.registry import Registry, Version
from models.errors import PromotionConflictError, PromotionError, PublishConflictError

PATIENCE, PAUSE = 5.0, 0.05  # seconds
BY_HAND = Why("by_hand", "unknown", "the alias was moved in MLflow")
TAKEN_AWAY = Why("by_hand", "unknown", "the alias was taken away in MLflow")
BEFORE = Why("by_hand", "unknown", "it was the champion before there was this ledger")

Step = Literal["nothing", "mark", "place", "record"]


@dataclass(frozen=True)
class Standing:
    """The champion, and the moves that led to it: what a candidate is judged against."""

    champion: Version | None
    moves: Moves

    @property
    def withdrawn(self) -> Move | None:
        """The move by which somebody took the alias away, where that is why there is no champion."""
        last = self.moves.last
        return last if last and last.to_version is None else None


class Promotions:
    """The one way in which a model's champion changes."""

    def __init__(self, lake: Lakehouse, registry: Registry, model: str, table: str, patience: float = PATIENCE) -> None:
        """Name the model and its ledger; others have `patience` seconds to make what they have claimed."""
        self._lake, self._registry, self._model, self._table = lake, registry, model, table
        self._patience = patience

    def settle(self) -> Standing:
        """Return the champion, after making what was claimed and not made, and writing down what was moved by hand."""
        begin(self._lake, self._table)
        return self._settle(own=0)

    def record_by_hand(self) -> Move | None:
        """Write a move down that was made in MLflow, and return it; None when the ledger knows the champion already."""
        begin(self._lake, self._table)
        before, last = read_moves(self._lake, self._table).last, self._settle(own=0).moves.last
        return last if before and last and last.move > before.move and last.kind == "by_hand" else None

    def move(self, standing: Standing, to: Version, why: Why) -> Move:
        """Make a version the champion in place of the one in `standing`; `PromotionConflictError` if that is gone.

        Its bytes are read first: a version whose file is gone, or was changed, is refused, and nothing is moved.
        """
        if standing.champion and standing.champion.version == to.version:
            raise PromotionError(f"Version {to.version} of model {self._model!r} is the champion already.")
        if why.kind == "promotion" and (taken := standing.withdrawn):
            raise PromotionError(
                f"Model {self._model!r} has no champion to compare with: somebody took the alias away from version "
                f"{taken.from_version} in MLflow (noticed {taken.moved_at:%Y-%m-%d %H:%M} UTC). A person decides: "
                f"tandem promote {self._model} --to {to.version} --reason ..."
            )
        self._registry.read_version(to)
        number = self._claim(standing, to, why)
        moves = self._settle(own=number).moves.all
        if number < len(moves) and moves[number].from_version != to.version:  # by hand, before the alias was set
            raise self._conflict(to, moves[number])
        return moves[number - 1]

    # --- the steps ----------------------------------------------------------------------------------------------

    def _claim(self, standing: Standing, to: Version, why: Why) -> int:
        now, before = self._registry.champion_or_none(self._model), standing.champion
        if _identity(now) == _identity(before):
            with suppress(PublishConflictError):
                return write_move(self._lake, self._table, standing.moves, before.version if before else None, to, why)
        raise self._conflict(to, self.settle().moves.last)

    def _settle(self, own: int) -> Standing:
        """Let alias and ledger agree. `own` is the number of a move that the caller claimed; others are waited for."""
        placed: Move | None = None
        waiting, until = 0, 0.0
        while True:
            standing = self._standing()
            last, step = standing.moves.last, next_step(standing, placed)
            if step == "nothing":
                return standing
            if step == "record":
                self._record(standing)
            elif step == "mark" and last:
                mark_settled(self._lake, self._table, last.move)
            elif last and (placed or last.move == own or (last.move == waiting and time.monotonic() > until)):
                self._registry.move_alias(self._model, int(last.to_version or 0))
                placed = last
            elif last and last.move != waiting:
                waiting, until = last.move, time.monotonic() + self._patience
            else:
                time.sleep(PAUSE)

    def _standing(self) -> Standing:
        """Read the ledger, and the alias after it: a row that comes meanwhile keeps others from being written."""
        moves = read_moves(self._lake, self._table)
        return Standing(self._registry.champion_or_none(self._model), moves)

    def _record(self, standing: Standing) -> None:
        """Write down what was moved by hand; when another move comes before, that is looked at first."""
        champion, last = standing.champion, standing.moves.last
        origin = None if last is None else last.to_version if last.settled else last.from_version
        why = BEFORE if last is None else BY_HAND if champion else TAKEN_AWAY
        with suppress(PublishConflictError):
            write_move(self._lake, self._table, standing.moves, origin, champion, why)

    def _conflict(self, to: Version, winner: Move | None) -> PromotionConflictError:
        return PromotionConflictError(
            f"Version {to.version} of model {self._model!r} is not made the champion: somebody else moved it meanwhile "
            f"({winner}). Nothing was moved: judge the version against the new champion, and try again."
        )


def _identity(version: Version | None) -> tuple[int, str] | None:
    return (version.version, version.sha256) if version else None


def next_step(standing: Standing, placed: Move | None) -> Step:
    """Say what is left to do; `placed` is the move to which whoever asks has just set the alias.

    nothing: alias and ledger agree. mark: the alias has followed, and that is not noted yet. place: the newest move is
    claimed, and the alias is still where it was; or whoever asks has set it too late, after a newer move. record: no
    move explains the alias.
    """
    champion, last = standing.champion, standing.moves.last
    if last is None:
        return "record" if champion else "nothing"
    if last.leads_to(champion):
        return "nothing" if last.settled else "mark"
    if last.to_version is None:
        return "record"
    too_late = placed is not None and placed.leads_to(champion)
    still_there = (champion.version if champion else None) == last.from_version and not last.settled
    return "place" if too_late or still_there else "record"
