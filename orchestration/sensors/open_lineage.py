"""Lineage for the world outside Dagster: every run, told to an OpenLineage collector once it has begun and ended."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import dagster as dg

from assets.resources import Backends
from backends.settings import without_secrets
from models.declaration import Declaration
from models.errors import LineageError, TableNotFoundError
from orchestration.lineage_events import Story, changes, resumed

SECONDS = 30
SETTLED_SECONDS = 2.0  # a younger record may still be overtaken by one that is written before it
MOST = 200  # beginnings and ends of runs in one tick
BUDGET_SECONDS = 20.0  # of a tick, which Dagster gives up after a minute


def open_lineage(declarations: Sequence[Declaration]) -> dg.SensorDefinition:
    """Make the sensor. Its cursor is the last record that the collector took, and when: what fails is told again."""

    @dg.sensor(
        name="open_lineage",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells an OpenLineage collector of every run: what it read and made, in which versions.",
    )
    def _sensor(
        context: dg.SensorEvaluationContext, backends: dg.ResourceParam[Backends]
    ) -> dg.SensorResult | dg.SkipReason:
        if not backends.settings.openlineage:
            return dg.SkipReason("TANDEM_OPENLINEAGE names no collector: nobody is told.")
        begun, told, refused, note = time.monotonic(), 0, list[str](), ""
        place, _, moment = (context.cursor or "0 0").partition(" ")
        after, at = resumed(context.instance, int(place), float(moment)), float(moment)
        waiting = changes(context.instance, after, time.time() - SETTLED_SECONDS, MOST)
        if not waiting:
            return _so_far(after, at, "No run has begun or ended since the last tick.")
        with _telling(context, backends, declarations) as tell:
            for change in waiting:
                try:
                    refused += tell(change)
                except LineageError as error:
                    if not told:
                        raise  # the tick is red; the cursor stays
                    note = str(error)
                    break
                after, at, told = change.place, change.at.timestamp(), told + 1
                if time.monotonic() - begun > BUDGET_SECONDS:
                    break
        for reason in refused:
            context.log.warning(f"The collector refused an event for good: {reason}.")
        note = note or (f"{len(refused)} events were refused for good." if refused else "")
        return _so_far(after, at, f"Told of {told} beginnings and ends of runs. {note}".strip())

    return _sensor


def _so_far(after: int, at: float, said: str) -> dg.SensorResult:
    return dg.SensorResult(cursor=f"{after} {at}", skip_reason=said)


@contextmanager
def _telling(
    context: dg.SensorEvaluationContext, backends: Backends, declarations: Sequence[Declaration]
) -> Iterator[Callable[..., list[str]]]:
    """Open the collector and the catalog; give what tells of one change."""
    from backends.open_lineage import Collector

    settings, repository = backends.settings, context.repository_def
    assert repository is not None  # Dagster gives every sensor its own
    with Collector.of(settings) as collector, _locating(backends) as locate:
        names = settings.openlineage_namespace, without_secrets(settings.catalog)
        story = Story(context.instance, repository.asset_graph, declarations, locate, *names)
        yield lambda change: collector.send(story.tell(change))


@contextmanager
def _locating(backends: Backends) -> Iterator[Callable[[str], str | None]]:
    """Give what says where a table is; None for one that was never made, or is dropped."""
    found: dict[str, str | None] = {}
    with backends.lakehouse() as lake:

        def locate(table: str) -> str | None:
            if table not in found:
                try:
                    found[table] = lake.location(table)
                except TableNotFoundError:
                    found[table] = None
            return found[table]

        yield locate
