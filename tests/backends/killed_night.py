"""Score Saturday in a process that does not live to publish it: `python -m tests.backends.killed_night HOME MOMENT`."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pyiceberg.table import Transaction
from pyiceberg.table.update.snapshot import ManageSnapshots

from backends.batch_scoring import score_and_publish
from backends.engines import LocalEngine
from backends.lakehouse.catalog import Lakehouse
from backends.settings import Settings
from tests.backends.nights import night


class SlowEngine(LocalEngine):
    """An engine that takes its time, so that whoever watches can kill it between two files."""

    def map(self, function: Any, tasks: Any) -> list[Any]:
        def slowly(task: Any) -> Any:
            time.sleep(0.2)
            return function(task)

        return super().map(slowly, tasks)


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    home, moment = sys.argv[1:]
    if moment == "staging":
        Transaction.add_files = die  # the branch is there, its rows are not
    elif moment == "publishing":
        ManageSnapshots.set_current_snapshot = die  # the rows passed their audit
    with Lakehouse.open(Settings(home=Path(home))) as lake:
        score_and_publish(lake, SlowEngine(2) if moment == "scoring" else LocalEngine(2), night())
