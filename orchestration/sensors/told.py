"""How far the telling came. It is kept in a sensor's cursor, so nothing is missed while the daemon is down."""

from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg
from pydantic import BaseModel

from orchestration.sensors.outbox import Waiting
from orchestration.sensors.wording import Words


class Told(BaseModel):
    """How far the telling came: storage ids, what is known to be wrong, and what is still on its way."""

    looked: float = 0.0  # up to when runs were looked at, seconds of the epoch
    ends: dict[str, int] = {}  # by event type
    runless: int = 0
    champions: dict[str, int] = {}  # by model
    versions: dict[str, str] = {}  # version and sha256 of each model's champion
    troubles: dict[str, str] = {}  # checks that sensors saw fail, and their occasion
    awaited: dict[str, float] = {}  # failed runs that Dagster said it would retry, and when they failed
    waiting: list[Waiting] = []


@dataclass(frozen=True)
class Source:
    """Where the news come from. `is_ours` tells the runs of this code location from others."""

    instance: dg.DagsterInstance
    words: Words
    is_ours: Callable[[dg.DagsterRun], bool]

    @property
    def models(self) -> list[str]:
        """The names of the models."""
        return [declaration.name for declaration in self.words.declarations]
