"""From Dagster's records of a run to OpenLineage's events: what it read, what it made, and how it ended.

Everything comes from what Dagster has recorded and from where the tables lie, so that a run that is told twice is told
the same. How the events travel is not known here.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph, BaseAssetNode
from dagster._core.definitions.data_version import get_input_event_pointer_tag

from assets.metadata import table_key
from assets.recorded import DATA_VERSION
from backends.open_lineage import Column, Dataset, Job, Place, RunEvent, place_of
from models.declaration import Declaration

Kind = dg.DagsterEventType
STATES: dict[Kind, Literal["START", "COMPLETE", "FAIL", "ABORT"]] = {
    Kind.RUN_START: "START",
    Kind.RUN_SUCCESS: "COMPLETE",
    Kind.RUN_FAILURE: "FAIL",
    Kind.RUN_CANCELED: "ABORT",
}
OF_A_RUN = {Kind.RUN_START, Kind.STEP_START, Kind.STEP_FAILURE, Kind.ASSET_MATERIALIZATION, Kind.ASSET_OBSERVATION}
IMPLICIT = "__ASSET_JOB"  # Dagster's own name of a run of chosen assets
PARTITION = "dagster/partition"
MODEL_FACTS = {"model_sha256": "sha256", "sha256": "sha256", "model_version": "version", "precision": "precision"}

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """A run began or ended; `place` is that of the record among all of Dagster's."""

    place: int
    run_id: str
    state: Literal["START", "COMPLETE", "FAIL", "ABORT"]
    at: datetime
    message: str


def changes(instance: dg.DagsterInstance, after: int, until: float, most: int) -> list[Change]:
    """Return how runs began and ended, in the order of Dagster's records: the first ones `after` one, until a time."""
    found: list[Change] = []
    for kind, state in STATES.items():
        wanted = dg.RunStatusChangeRecordsFilter(event_type=kind, after_storage_id=after, before_timestamp=until)
        records = instance.fetch_run_status_changes(wanted, limit=most, ascending=True).records
        found += [_change(record, state) for record in records]
    return sorted(found, key=lambda change: change.place)[:most]  # what a kind has more of, is behind all of these


def resumed(instance: dg.DagsterInstance, after: int, at: float) -> int:
    """Return the place to go on from: `after`, or where records are numbered anew, that of the newest before `at`.

    They are once the newest runs were deleted, or Dagster was wiped.
    """
    return after if _newest(instance) >= after else _newest(instance, at)


def _newest(instance: dg.DagsterInstance, before: float | None = None) -> int:
    wanted = (dg.RunStatusChangeRecordsFilter(event_type=kind, before_timestamp=before) for kind in STATES)
    found = (record for which in wanted for record in instance.fetch_run_status_changes(which, limit=1).records)
    return max((record.storage_id for record in found), default=0)


def _change(record: dg.EventLogRecord, state: Literal["START", "COMPLETE", "FAIL", "ABORT"]) -> Change:
    entry = record.event_log_entry
    message = entry.dagster_event.message if state == "FAIL" and entry.dagster_event else None
    return Change(record.storage_id, entry.run_id, state, datetime.fromtimestamp(entry.timestamp, UTC), message or "")


class Story:
    """What Dagster's records say, in OpenLineage's terms.

    `locate` says where a table's files are, None where there is no such table any more. `namespace` is that of what is
    no table, `catalog` the catalog's address as it may be shown.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        graph: BaseAssetGraph[BaseAssetNode],
        declarations: Sequence[Declaration],
        locate: Callable[[str], str | None],
        namespace: str,
        catalog: str,
    ) -> None:
        self._instance, self._graph, self._locate = instance, graph, locate
        self._namespace, self._catalog = namespace, catalog
        self._read_as = _read_as(declarations)

    def tell(self, change: Change) -> list[RunEvent]:
        """Return the events of a run's beginning, or those of all that it did and of its end."""
        run = self._instance.get_run_by_id(change.run_id)
        if run is None:  # somebody deleted it
            return []
        job = Job("assets" if run.job_name == IMPLICIT else run.job_name, "JOB")
        if change.state == "START":
            return [RunEvent("START", change.at, change.run_id, job)]
        records = self._instance.get_records_for_run(change.run_id, of_type=OF_A_RUN).records
        entries = [record.event_log_entry for record in records if record.event_log_entry.dagster_event]
        kinds = {entry.get_dagster_event().event_type for entry in entries}
        never_began = [] if Kind.RUN_START in kinds else [RunEvent("START", change.at, change.run_id, job)]
        parts = [event for part in self._parts(run, job, entries) for event in part]
        end = RunEvent(change.state, change.at, change.run_id, job, error=change.message)
        return [*never_began, *parts, end]

    # --- one asset of a run -----------------------------------------------------------------------------------------

    def _parts(
        self, run: dg.DagsterRun, job: Job, entries: Iterable[dg.EventLogEntry]
    ) -> Iterator[tuple[RunEvent, RunEvent]]:
        """Yield how each asset of a run began and ended."""
        began: dict[str, datetime] = {}
        for entry in entries:
            event, at = entry.get_dagster_event(), datetime.fromtimestamp(entry.timestamp, UTC)
            step, kind = event.step_key or "", event.event_type
            if kind == Kind.STEP_START:
                began.setdefault(step, at)
            elif kind == Kind.STEP_FAILURE:
                if (node := self._node_of(step)) is not None:
                    failed = self._part(run, job, node, run.tags.get(PARTITION), began.get(step, at))
                    inputs = self._inputs(node, {}, {}, at)
                    yield failed, replace(failed, state="FAIL", at=at, inputs=inputs, error=_reason(event))
            elif (made := _made(event)) is not None and self._is_told(made, kind):
                node, facts = self._graph.get(made.asset_key), _values(made.metadata)
                start = self._part(run, job, node, made.partition, began.get(step, at))
                inputs = self._inputs(node, facts, made.tags or {}, at)
                yield start, replace(start, state="COMPLETE", at=at, inputs=inputs, outputs=(self._made(node, made),))

    def _part(self, run: dg.DagsterRun, job: Job, node: BaseAssetNode, partition: str | None, at: datetime) -> RunEvent:
        name = ".".join(node.key.path)
        run_id = str(uuid.uuid5(uuid.UUID(run.run_id), f"{name} {partition or ''}".strip()))
        own = Job(name, "ASSET", node.description or "")
        return RunEvent("START", at, run_id, own, (run.run_id, job.name), _day(node, partition))

    def _is_told(self, made: "dg.AssetMaterialization | dg.AssetObservation", kind: Kind) -> bool:
        """Tell whether an event is about one of our assets. Of those only observed, a service that answers is told."""
        if not self._graph.has(made.asset_key):
            return False
        if kind == Kind.ASSET_MATERIALIZATION:
            return True
        return self._graph.get(made.asset_key).is_external and "model_sha256" in made.metadata

    def _node_of(self, step: str) -> BaseAssetNode | None:
        """Return the asset that a step was to make: its name is the key's."""
        key = dg.AssetKey(step.split("__"))
        return self._graph.get(key) if self._graph.has(key) else None

    # --- datasets ---------------------------------------------------------------------------------------------------

    def _made(self, node: BaseAssetNode, made: "dg.AssetMaterialization | dg.AssetObservation") -> Dataset:
        facts = _values(made.metadata)
        rows = facts.get("dagster/partition_row_count", facts.get("dagster/row_count"))
        size = facts.get("bytes_written")
        return replace(self._dataset(node, made), rows=None if rows is None else int(rows), bytes=size)

    def _inputs(self, node: BaseAssetNode, facts: Facts, tags: Mapping[str, str], at: datetime) -> tuple[Dataset, ...]:
        """Return what an asset was made of, in the versions that were read."""
        inputs = []
        for key in sorted(node.parent_keys):
            dataset = self._dataset(self._graph.get(key), self._known_of(key, tags, at))
            named = self._read_as.get((node.key, key))
            inputs.append(replace(dataset, version=str(facts.get(named) or dataset.version)) if named else dataset)
        return tuple(inputs)

    def _known_of(
        self, key: dg.AssetKey, tags: Mapping[str, str], at: datetime
    ) -> "dg.AssetMaterialization | dg.AssetObservation | None":
        """Return what Dagster knew of an input: the event that it points at, or else the newest before a moment."""
        pointer, ids, before = tags.get(get_input_event_pointer_tag(key), ""), None, at.timestamp()
        if pointer.isdecimal():
            ids, before = [int(pointer)], None
        wanted = dg.AssetRecordsFilter(asset_key=key, storage_ids=ids, before_timestamp=before)
        if records := self._instance.fetch_materializations(wanted, limit=1).records:
            return records[0].asset_materialization
        wanted = dg.AssetRecordsFilter(asset_key=key, before_timestamp=at.timestamp())
        observed = self._instance.fetch_observations(wanted, limit=1).records
        return observed[0].asset_observation if observed else None

    def _dataset(self, node: BaseAssetNode, known: "dg.AssetMaterialization | dg.AssetObservation | None") -> Dataset:
        facts = _values(known.metadata) if known else {}
        table, location = self._table(node)
        said = (known.tags or {}).get(DATA_VERSION, "") if known else ""
        return Dataset(
            place=self._place(node),
            description=node.description or "",
            version=str(facts.get("iceberg_snapshot") or said.removeprefix("iceberg:")),
            table=table,
            catalog=self._catalog if table else "",
            address=location or str(facts.get("dagster/uri") or ""),
            owners=tuple(node.owners),
            columns=self._columns(facts),
            model={name: str(facts[fact]) for fact, name in MODEL_FACTS.items() if fact in facts},
        )

    def _columns(self, facts: Facts) -> tuple[Column, ...]:
        schema, lineage = facts.get("dagster/column_schema"), facts.get("dagster/column_lineage")
        sources = {
            column: tuple((self._place_of(source.asset_key), source.column_name) for source in made_of)
            for column, made_of in (lineage.deps_by_column if lineage else {}).items()
        }
        columns = schema.columns if schema else ()
        return tuple(Column(c.name, c.type, c.description, sources.get(c.name, ())) for c in columns)

    def _place_of(self, key: dg.AssetKey) -> Place:
        return self._place(self._graph.get(key)) if self._graph.has(key) else (self._namespace, ".".join(key.path))

    def _place(self, node: BaseAssetNode) -> Place:
        _, location = self._table(node)
        return place_of(location) if location else (self._namespace, ".".join(node.key.path))

    def _table(self, node: BaseAssetNode) -> tuple[str, str | None]:
        """Return the name of an asset's table and where its files are; nothing for what is no table."""
        name = _plain(node.metadata.get("dagster/table_name"))
        return (str(name), self._locate(str(name))) if name else ("", None)


def _read_as(declarations: Sequence[Declaration]) -> dict[tuple[dg.AssetKey, dg.AssetKey], str]:
    """Return which of an asset's facts says in what version it has read a table."""
    facts: dict[tuple[dg.AssetKey, dg.AssetKey], str] = {}
    for model in declarations:
        examples, population = table_key(model.examples.table), table_key(model.scored_table)
        facts[dg.AssetKey([model.name, "training_set"]), examples] = "iceberg_snapshot"
        facts[table_key(model.predictions_table), population] = "population_snapshot"
        if model.events:
            facts[population, table_key(model.source_table)] = "source_snapshot"
    return facts


def _made(event: dg.DagsterEvent) -> "dg.AssetMaterialization | dg.AssetObservation | None":
    if event.event_type == Kind.ASSET_MATERIALIZATION:
        return event.step_materialization_data.materialization
    return event.asset_observation_data.asset_observation if event.event_type == Kind.ASSET_OBSERVATION else None


def _day(node: BaseAssetNode, partition: str | None) -> tuple[datetime, datetime] | None:
    if partition is None or not isinstance(node.partitions_def, dg.TimeWindowPartitionsDefinition):
        return None
    window = node.partitions_def.time_window_for_partition_key(partition)
    return window.start, window.end


def _reason(event: dg.DagsterEvent) -> str:
    """Return what a step said when it gave up, or the innermost message of its error."""
    said, error = event.step_failure_data.user_failure_data, event.step_failure_data.error
    if said and said.description:
        return str(said.description)
    while error and error.cause:
        error = error.cause
    return error.message.strip() if error else "failed"


def _values(metadata: Mapping[str, Any]) -> Facts:
    return {name: _plain(value) for name, value in metadata.items()}


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
