"""Promotions in processes of their own, forked off a server that has imported everything: at once, or to be killed."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import mlflow  # noqa: F401  # once, in the server

from backends import promotions as promotions_module
from backends.lakehouse.catalog import Lakehouse
from backends.promotions import Promotions
from backends.registry import Registry
from backends.settings import Settings
from models.errors import PromotionConflictError
from tests.backends.champions import PATIENCE, ROLLBACK

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.backends.killed_night", __name__])


class MovingProcess:
    """A process that makes a version the champion, once it is let go; as often as it is asked."""

    def __init__(self, home: Path, model: str, moment: str = "") -> None:
        self._ours, theirs = PROCESSES.Pipe()
        self.process: ForkServerProcess = PROCESSES.Process(
            target=_move, args=(theirs, home, model, moment), daemon=True
        )
        self.process.start()
        theirs.close()

    def settle(self, to: int) -> None:
        """Let it look at the champion, before it is let go to move it."""
        self._ours.send(to)
        assert self._ours.recv() == "settled"

    def go(self) -> None:
        """Let it move the champion."""
        self._ours.send(None)

    def outcome(self) -> str:
        """Return the version that it has made the champion, its error, or `killed`."""
        try:
            return str(self._ours.recv())
        except EOFError:
            self.process.join()
            assert self.process.exitcode == -signal.SIGKILL
            return "killed"

    def kill_after(self, seconds: float) -> None:
        """Kill it, some time from now."""
        threading.Timer(seconds, self.process.kill).start()

    def end(self) -> None:
        """Let it go home."""
        self._ours.send(0)
        self.process.join()


def _move(pipe: Connection, home: Path, model: str, moment: str) -> None:
    settings = Settings(home=home)
    registry = Registry.open(settings)
    with Lakehouse.open(settings) as lake:
        promotions = Promotions(lake, registry, model, f"gold.{model}_promotions", PATIENCE)
        while number := pipe.recv():
            standing, to = promotions.settle(), registry.version(model, number)
            pipe.send("settled")
            pipe.recv()
            if moment:
                MOMENTS[moment]()
            try:
                pipe.send(str(promotions.move(standing, to, ROLLBACK).to_version))
            except PromotionConflictError as error:
                pipe.send(f"{type(error).__name__} {error}")


# --- exact moments --------------------------------------------------------------------------------------------------


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _dies(owner: Any, step: str, after: bool) -> None:
    """Die before or after a step."""
    original = getattr(owner, step)

    def deadly(*arguments: Any, **named: Any) -> Any:
        if not after:
            _die()
        original(*arguments, **named)
        _die()

    setattr(owner, step, deadly)


MOMENTS: dict[str, Callable[[], None]] = {
    "the claim is about to be committed": lambda: _dies(promotions_module, "write_move", after=False),
    "the claim is committed": lambda: _dies(promotions_module, "write_move", after=True),
    "the alias is set": lambda: _dies(Registry, "move_alias", after=True),
    "it is marked": lambda: _dies(promotions_module, "mark_settled", after=True),
}
