"""Start a server for a test, wait until it answers, and stop it."""

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import which
from signal import SIGKILL
from typing import Any

import pytest

START_SECONDS = 120


def program(name: str, *folders: str) -> str | None:
    """Return the path of a program: beside this Python, on PATH, or in folders (patterns); None where there is none."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    installed = [str(folder) for pattern in folders for folder in sorted(Path("/").glob(pattern.lstrip("/")))]
    return which(name, path=os.pathsep.join([*places, *installed]))


def owner_of(folder: Path) -> dict[str, Any]:
    """Return the arguments with which `subprocess` runs a program as a folder's owner."""
    owner = pwd.getpwuid(folder.stat().st_uid)
    same = os.geteuid() == owner.pw_uid
    return {} if same else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


class Server:
    """One server process that can be stopped and started again on what it has stored."""

    def __init__(
        self, command: Sequence[str], folder: Path, answers: Callable[[], bool], ended_by: signal.Signals = SIGKILL
    ) -> None:
        self.command, self.folder, self.answers, self.ended_by = list(command), folder, answers, ended_by
        self.log = folder / "server.log"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, stdout=log, stderr=log, **owner_of(self.folder)
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                pytest.fail(self.log.read_text())
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once and uncleanly."""
        self.process.send_signal(self.ended_by)
        self.process.wait(60)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
