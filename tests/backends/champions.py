"""A model with versions and a ledger of its own, made in a moment, for tests and for the processes that they kill."""

from collections.abc import Sequence
from dataclasses import dataclass

from backends.lakehouse.catalog import Lakehouse
from backends.promotion_ledger import Move, Why, moves_of
from backends.promotions import Promotions
from backends.registry import Registry, Version
from models.scoring import sha256_of
from tests.tiny_model import tiny_contract, tiny_onnx

ARTIFACT, PATIENCE = "model", 0.3
FILES = [tiny_onnx(tiny_contract(), seed) for seed in range(4)]
ROLLBACK = Why("rollback", "marta", "scores are wrong")


@dataclass
class Champions:
    """One model's registry and ledger."""

    model: str
    lake: Lakehouse
    registry: Registry
    runs: Sequence[str]

    @property
    def table(self) -> str:
        """The ledger."""
        return f"gold.{self.model}_promotions"

    @property
    def promotions(self) -> Promotions:
        """The way to move the champion."""
        return Promotions(self.lake, self.registry, self.model, self.table, PATIENCE)

    def registered(self, file: int) -> Version:
        """Make one of the files a version."""
        return self.registry.register(
            self.model, self.runs[file], ARTIFACT, sha256_of(FILES[file]), {"training_snapshot": f"{file}"}
        )

    def moved(self, file: int, why: Why = ROLLBACK) -> Move:
        """Make one of the files the champion."""
        return self.promotions.move(self.promotions.settle(), self.registered(file), why)

    def serving(self) -> int:
        """Return the champion's number; there must be one."""
        return self.registry.champion(self.model).version

    def moves(self) -> list[tuple[str, int | None, int | None]]:
        """Return kind, from and to of each row, oldest first."""
        return [(move.kind, move.from_version, move.to_version) for move in moves_of(self.lake, self.table)]


def log_files(registry: Registry) -> list[str]:
    """Log every file to a run of its own; return the runs."""
    runs = []
    for onnx in FILES:
        with registry.run("files", "by hand", {}) as run_id:
            registry.log_onnx(run_id, ARTIFACT, onnx)
        runs.append(run_id)
    return runs
