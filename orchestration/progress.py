"""The progress of what runs in this process: a line for each stage, with what Dagster is doing in it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Stage:
    """One line of the progress."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, amount: int) -> None:
        """Count finished rows."""
        self._progress.advance(self._task, amount)

    def say(self, text: str) -> None:
        """Show what is being done."""
        self._progress.update(self._task, doing=text)


class Stages:
    """All lines. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[doing]}[/dim]"),
        )
        self._progress = Progress(*columns, console=console)
        self._current: Stage | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop drawing; what stands there stays."""
        self._progress.stop()

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Stage]:
        """Show a stage while the body runs."""
        task = self._progress.add_task(title, total=total, doing="")
        self._current = Stage(self._progress, task)
        yield self._current
        self._progress.update(task, total=1, completed=1, doing="")

    def logger(self) -> dg.LoggerDefinition:
        """Return a Dagster logger that shows steps and their messages in the current stage."""
        stages = self

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                meta = getattr(record, "dagster_meta", {})
                event = meta.get("dagster_event")
                if stages._current and (event is None or event.event_type_value == "STEP_START"):
                    step = (meta.get("step_key") or "").replace("__", "/")
                    text = meta.get("orig_message", "") if event is None else ""
                    stages._current.say(f"{step} {text}".strip())

        @dg.logger(description="Shows what runs in the progress.")
        def shown(_: dg.InitLoggerContext) -> logging.Logger:
            logger = logging.Logger("progress", logging.INFO)
            logger.addHandler(Handler())
            return logger

        return shown
