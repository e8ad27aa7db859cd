"""The home that the commands of the pages are run in: a `churn` in which each of them finds something to do.

Version 8 is the champion, 6 was it before, 7 has tied; three nights are published, the last of them with version 8.
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from assets.resources import Backends
from backends.lakehouse.catalog import Lakehouse
from backends.promotion_ledger import Why
from backends.promotions import Promotions
from backends.rollbacks import roll_back
from backends.settings import Settings
from models.audit import Limits
from models.declaration import Declaration
from models.scoring import Scorer
from tests.backends.nights import POPULATION, customers, publish
from tests.lives import ARTIFACT, TINY, declare, logged, write_table
from tests.tiny_model import tiny_contract, tiny_onnx_with_profile

GOLD = "gold.churn_predictions"
NIGHTS = [date(2026, 11, 19), date(2026, 11, 20), date(2026, 11, 21)]
BEFORE, TIED, CHAMPION = 6, 7, 8
AUDIT_BRANCH = "audit_20261121_4f0c2a9b"  # as docs/operations.md names one
CHURN: dict[str, Any] = {**TINY, "name": "churn"}
TAGS = {"precision": "float32", "verdict": "tie", "metric.auc": "0.81"}


@dataclass(frozen=True)
class House:
    """A folder with `.tandem` and `models`, as a person stands in it."""

    folder: Path
    settings: Settings
    declaration: Declaration
    newest: int  # snapshot of the last night

    def put_right(self) -> None:
        """Make the newest version the champion again, and show the last night."""
        with Backends(self.settings).lakehouse() as lake:
            moves = promotions(self.settings, lake)
            champion = moves.settle().champion
            if champion is None or champion.version != CHAMPION:
                to = Backends(self.settings).registry().version("churn", CHAMPION)
                moves.move(moves.settle(), to, Why("manual", "a test", "put right"))
            if lake.snapshot(GOLD).id != self.newest:
                roll_back(lake, GOLD, str(self.newest), reason="put right", by="a test")


def build(folder: Path) -> House:
    """Let churn live its life, without a training."""
    settings = Settings(home=folder / ".tandem", models=folder / "models", threads=2)
    declaration = declare(settings, CHURN)
    contract, rows = tiny_contract(model="churn"), customers(300)
    write_table(settings, POPULATION, rows)
    registry = Backends(settings).registry()
    files = {seed: tiny_onnx_with_profile(contract, rows, seed) for seed in range(1, CHAMPION + 1)}
    for onnx in files.values():
        run_id, sha256 = logged(settings, contract, onnx=onnx)
        registry.register("churn", run_id, ARTIFACT, sha256, TAGS)
    with Backends(settings).lakehouse() as lake:
        for version in (BEFORE, CHAMPION):
            moves = promotions(settings, lake)
            moves.move(moves.settle(), registry.version("churn", version), Why("promotion", "a run", "it was better"))
        for day in NIGHTS:
            night = publish_night(lake, day, files[CHAMPION])
        lake.load(GOLD).manage_snapshots().create_branch(night, AUDIT_BRANCH).commit()
    return House(folder, settings, declaration, night)


def publish_night(lake: Lakehouse, day: date, onnx: bytes) -> int:
    """Score and publish a night; return its snapshot's id."""
    scorer, limits = Scorer(onnx), Limits(max_shift=10, max_rejected_share=0.01)
    task = {"predictions": GOLD, "rejects": "gold.churn_rejects", "scorer": scorer, "limits": limits}
    return publish(lake, scored_on=day, version=CHAMPION, **task).snapshot.id


def promotions(settings: Settings, lake: Lakehouse) -> Promotions:
    """Return the way to move the champion."""
    return Promotions(lake, Backends(settings).registry(), "churn", "gold.churn_promotions")
