"""Promotions and rollbacks that a person asks for: what may be named, what is checked, and what is done.

A version that a gate has rejected cannot be named: a candidate is registered only after it has passed every gate that
blocks, and one that was registered and rejected later is refused here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from backends.lakehouse.catalog import Lakehouse
from backends.promotion_ledger import Move, Why
from backends.promotions import Promotions, Standing
from backends.registry import Registry, Version
from models.encoding import check_columns
from models.errors import ColumnError, PromotionError, TableNotFoundError
from models.scoring import Scorer

VERDICT, REJECTED, PROMOTED = "verdict", "rejected", "promoted_by_dagster_run_id"  # tags of a version
SHOWN = ("auc", "log_loss", "calibration_error")
NAMED_IN_ERRORS = 8


@dataclass(frozen=True)
class Choice:
    """A version, and the moves that once made it the champion."""

    version: Version
    moves: tuple[Move, ...]

    @property
    def was_champion(self) -> bool:
        """Whether batch and the API were served with it once."""
        return bool(self.moves)

    @property
    def has_passed(self) -> bool:
        """Whether it passed all gates that block, when it was last before them."""
        tags = self.version.tags
        return tags.get(VERDICT, "") != REJECTED and (VERDICT in tags or PROMOTED in tags or self.was_champion)

    def __str__(self) -> str:
        """One line for a person, and one for each move that led to it."""
        tags = self.version.tags
        found = [f"{name} {float(tags[f'metric.{name}']):.4f}" for name in SHOWN if f"metric.{name}" in tags]
        verdict = [f"verdict: {tags[VERDICT]}"] if VERDICT in tags else []
        facts = ", ".join([*found, *verdict]) or "no metrics"
        return "\n".join([f"{self.version.version:>4}  {facts}", *(f"      {move}" for move in self.moves)])


def choices(registry: Registry, model: str, moves: Sequence[Move]) -> list[Choice]:
    """Return every version that Tandem registered, newest first, each with the moves that led to it."""
    return [
        Choice(version, tuple(move for move in moves if move.leads_to(version))) for version in registry.versions(model)
    ]


def promotable(there: Sequence[Choice], champion: Version | None) -> list[Choice]:
    """Return what a person may promote: what has passed its gates, and is not the champion."""
    return [choice for choice in there if choice.has_passed and not _is(choice, champion)]


def reachable(there: Sequence[Choice], champion: Version | None) -> list[Choice]:
    """Return what a person may roll back to: what was the champion once, and is it no more."""
    return [choice for choice in there if choice.was_champion and not _is(choice, champion)]


def previous(moves: Sequence[Move]) -> int | None:
    """Return the champion before the present one: rolled back twice, one is two champions back. None if there is none.

    A rollback takes away what came after the version that it leads to; any other move puts its version on top.
    """
    line: list[int] = []
    for move in moves:
        to = move.to_version
        if to is None or line[-1:] == [to]:
            continue
        if move.kind == "rollback" and to in line:
            del line[len(line) - line[::-1].index(to) :]
        else:
            line.append(to)
    return next((version for version in reversed(line[:-1]) if version != line[-1]), None)


class ManualMoves:
    """What a person may do with a model's champion."""

    def __init__(self, lake: Lakehouse, registry: Registry, model: str, ledger: str, population: str) -> None:
        """Name the model, its ledger, and the table that its champion has to score."""
        self._lake, self._registry, self._model, self._population = lake, registry, model, population
        self._promotions = Promotions(lake, registry, model, ledger)

    def promote(self, to: int | None, why: Why) -> tuple[Version, Move]:
        """Make a version that passed its gates the champion: the one named, or the newest that tied with a champion.

        `PromotionError` says what there is to choose from when it cannot be.
        """
        standing, there = self._begin(why)
        able = promotable(there, standing.champion)
        if to is None:
            to = next((choice.version.version for choice in able if choice.version.tags.get(VERDICT) == "tie"), None)
        chosen = self._named(standing, to, able, there, "promoted: it has not passed its gates")
        return self._make(standing, chosen, why)

    def roll_back(self, to: int | None, why: Why) -> tuple[Version, Move]:
        """Make an earlier champion the champion again: the one named, or the one before the present one.

        `PromotionError` says what there is to choose from when it cannot be.
        """
        standing, there = self._begin(why)
        to = previous(standing.moves.all) if to is None else to
        able = reachable(there, standing.champion)
        chosen = self._named(standing, to, able, there, "rolled back to: it never was the champion")
        return self._make(standing, chosen, why)

    def _begin(self, why: Why) -> tuple[Standing, list[Choice]]:
        for what, value in (("reason", why.reason), ("by", why.by)):
            if not value.strip():
                raise PromotionError(
                    f"The champion of {self._model!r} is not moved: {what} is {value!r}. Say it: it is kept."
                )
        standing = self._promotions.settle()
        there = choices(self._registry, self._model, standing.moves.all)
        return standing, there

    def _named(
        self, standing: Standing, to: int | None, able: Sequence[Choice], there: Sequence[Choice], refusal: str
    ) -> Version:
        named = {choice.version.version: choice.version for choice in able}
        if to in named:
            return named[to]
        lines = [f"\n{choice}" for choice in able[:NAMED_IN_ERRORS]]
        remedy = f"These can be:{''.join(lines)}" if lines else "There is none that can be."
        if to is None:
            raise PromotionError(f"No version of model {self._model!r} offers itself: name one. {remedy}")
        if standing.champion and to == standing.champion.version:
            refusal = "made the champion: it is that already"
        elif to not in {choice.version.version for choice in there}:
            refusal = "made the champion: it is not registered"
        raise PromotionError(f"Version {to} of model {self._model!r} cannot be {refusal}. {remedy}")

    def _make(self, standing: Standing, to: Version, why: Why) -> tuple[Version, Move]:
        contract = Scorer(self._registry.read_version(to), to.sha256).contract
        try:
            check_columns(contract, self._lake.schema(self._population))
        except TableNotFoundError:
            pass  # nothing is scored yet
        except ColumnError as error:
            raise PromotionError(
                f"Version {to.version} of model {self._model!r} cannot score {self._population!r} as it is: {error} "
                "Give the table its columns again, or choose another version."
            ) from error
        return to, self._promotions.move(standing, to, why)


def _is(choice: Choice, champion: Version | None) -> bool:
    return champion is not None and choice.version.version == champion.version
