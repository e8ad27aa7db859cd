"""OpenLineage: what a run read and wrote, told to a collector or a file. The one file that knows its client.

Which runs are told is not known here. What is sent twice is the same twice: run, time and content come from the caller.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from backends.settings import Settings, without_secrets
from models.errors import LineageError

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset
    from openlineage.client.event_v2 import RunEvent as ClientsEvent
    from openlineage.client.transport.transport import Transport

PRODUCER = "urn:tandem"
ENDPOINT = "api/v1/lineage"  # below the collector's address, as the specification has it
WAIT_SECONDS = 3.0
FOR_LATER = (401, 403, 404, 408, 425, 429)  # of the refusals: somebody will mend the key, the address or the load
FACET = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/DatasetFacet"

Place = tuple[str, str]  # namespace and name of a dataset


@dataclass(frozen=True)
class Column:
    """One column of a dataset. `made_of` are the columns that it comes from: dataset and name."""

    name: str
    type: str
    description: str | None = None
    made_of: tuple[tuple[Place, str], ...] = ()


@dataclass(frozen=True)
class Dataset:
    """One dataset in one version. `table` is its name in an Iceberg `catalog`, `model` has facts of a model file."""

    place: Place
    description: str = ""
    version: str = ""
    table: str = ""
    catalog: str = ""
    address: str = ""
    owners: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    rows: int | None = None  # written by the run
    bytes: int | None = None  # so too
    model: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What runs again and again. `kind` is JOB, or ASSET for the part of one that makes an asset."""

    name: str
    kind: Literal["JOB", "ASSET"]
    description: str = ""


@dataclass(frozen=True)
class RunEvent:
    """A run begins, or ends in one of three ways. `run_id` is a UUID, `at` has a time zone, so has `nominal`."""

    state: Literal["START", "COMPLETE", "FAIL", "ABORT"]
    at: datetime
    run_id: str
    job: Job
    parent: tuple[str, str] | None = None  # the run that this one is part of, and its job
    nominal: tuple[datetime, datetime] | None = None  # the day that it is about
    inputs: tuple[Dataset, ...] = ()
    outputs: tuple[Dataset, ...] = ()
    error: str = ""


def place_of(location: str) -> Place:
    """Return namespace and name of a table by where its files are, as OpenLineage's own integrations name it."""
    parts = urlsplit(location)
    if parts.scheme in ("", "file"):
        return "file", parts.path
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts.path.strip("/")


class Collector:
    """Where the events go, as the setting says: `http(s)://` of a collector, or a file that is appended to."""

    def __init__(self, transport: "Transport", shown: str, namespace: str) -> None:
        self._transport, self._namespace = transport, namespace
        self.shown = shown

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Open what `TANDEM_OPENLINEAGE` names; `LineageError` when it names no place."""
        address = settings.openlineage
        transport = _http(settings) if urlsplit(address).scheme in ("http", "https") else _file(address)
        return cls(transport, without_secrets(address), settings.openlineage_namespace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    def send(self, events: Iterable[RunEvent]) -> list[str]:
        """Send events in their order; return why the collector refused some for good.

        `LineageError`, without any secret, when it does not answer within some seconds or is not ready for them.
        """
        sent = ((event, self._send(event)) for event in events)
        return [f"{event.state} of {event.job.name}, run {event.run_id}: {reason}" for event, reason in sent if reason]

    def _send(self, event: RunEvent) -> str | None:
        from requests import HTTPError, RequestException

        try:
            self._transport.emit(as_open_lineage(event, self._namespace))
        except HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if 400 <= status < 500 and status not in FOR_LATER:
                return f"status {status}"
            raise self._failure(f"answers with status {status}") from None  # its message may have the address's secrets
        except (RequestException, OSError, RuntimeError) as error:
            raise self._failure(f"does not take events ({type(error).__name__})") from None
        return None

    def _failure(self, what: str) -> LineageError:
        return LineageError(
            f"The OpenLineage collector at {self.shown} {what}. Nothing is lost: its runs are told when it does. "
            "Check TANDEM_OPENLINEAGE and TANDEM_OPENLINEAGE_KEY."
        )


def _http(settings: Settings) -> "Transport":
    from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider

    key, address = settings.openlineage_key.get_secret_value(), settings.openlineage.rstrip("/")
    base, _, end = address.rpartition("/")
    endpoint = end if end == "lineage" else ENDPOINT  # the whole address is understood too
    return HttpTransport(
        HttpConfig(
            url=f"{base if end == 'lineage' else address}/",
            endpoint=endpoint,
            timeout=WAIT_SECONDS,
            retry={"total": 0},  # the next tick tries again
            auth=ApiKeyTokenProvider({"apiKey": key}) if key else TokenProvider({}),
        )
    )


def _file(address: str) -> "Transport":
    from openlineage.client.transport.file import FileConfig, FileTransport

    if "://" in address and not address.startswith("file://"):
        raise LineageError(
            f"TANDEM_OPENLINEAGE is {without_secrets(address)!r}, which is neither http(s):// nor a file. Name a "
            "collector, or a path."
        )
    path = Path(address.removeprefix("file://")).expanduser().absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LineageError(f"The folder of TANDEM_OPENLINEAGE's file {path} cannot be made: {error}.") from error
    return FileTransport(FileConfig(str(path), append=True))


# --- in OpenLineage's own words -------------------------------------------------------------------------------------


def as_open_lineage(event: RunEvent, namespace: str) -> "ClientsEvent":
    """Return an event as the client's own; `namespace` is that of the jobs."""
    from openlineage.client.event_v2 import Job, Run, RunState, set_producer
    from openlineage.client.event_v2 import RunEvent as ClientsEvent
    from openlineage.client.generated import documentation_job, job_type_job

    set_producer(PRODUCER)
    facets: dict[str, Any] = {"jobType": job_type_job.JobTypeJobFacet("BATCH", "TANDEM", event.job.kind)}
    if event.job.description:
        facets["documentation"] = documentation_job.DocumentationJobFacet(event.job.description)
    return ClientsEvent(
        eventTime=event.at.isoformat(timespec="milliseconds"),
        eventType=RunState[event.state],
        producer=PRODUCER,
        run=Run(event.run_id, _run_facets(event, namespace)),
        job=Job(namespace, event.job.name, facets),
        inputs=[_input(dataset) for dataset in event.inputs],
        outputs=[_output(dataset) for dataset in event.outputs],
    )


def _run_facets(event: RunEvent, namespace: str) -> dict[str, Any]:
    from openlineage.client.generated import error_message_run, nominal_time_run, parent_run

    facets: dict[str, Any] = {}
    if event.parent:
        run_id, name = event.parent
        facets["parent"] = parent_run.ParentRunFacet(parent_run.Run(run_id), parent_run.Job(namespace, name))
    if event.nominal:
        begin, end = (moment.isoformat() for moment in event.nominal)
        facets["nominalTime"] = nominal_time_run.NominalTimeRunFacet(begin, end)
    if event.error:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(event.error, "Python")
    return facets


def _input(dataset: Dataset) -> "InputDataset":
    from openlineage.client.event_v2 import InputDataset

    return InputDataset(*dataset.place, facets=_facets(dataset))


def _output(dataset: Dataset) -> "OutputDataset":
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.generated.output_statistics_output_dataset import OutputStatisticsOutputDatasetFacet

    written: dict[str, Any] = {}
    if dataset.rows is not None:
        written["outputStatistics"] = OutputStatisticsOutputDatasetFacet(rowCount=dataset.rows, size=dataset.bytes)
    return OutputDataset(*dataset.place, facets=_facets(dataset), outputFacets=written)


def _facets(dataset: Dataset) -> dict[str, Any]:
    from openlineage.client.generated import (
        dataset_version_dataset,
        datasource_dataset,
        documentation_dataset,
        ownership_dataset,
        symlinks_dataset,
    )

    facets: dict[str, Any] = {}
    if dataset.description:
        facets["documentation"] = documentation_dataset.DocumentationDatasetFacet(dataset.description)
    if dataset.version:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(dataset.version)
    if dataset.table:
        table = symlinks_dataset.Identifier(dataset.catalog, dataset.table, "TABLE")
        facets["symlinks"] = symlinks_dataset.SymlinksDatasetFacet([table])
    if dataset.address:
        name = dataset.table or dataset.place[1]
        facets["dataSource"] = datasource_dataset.DatasourceDatasetFacet(name, _uri(dataset.address))
    if dataset.owners:
        owners = [ownership_dataset.Owner(name) for name in dataset.owners]
        facets["ownership"] = ownership_dataset.OwnershipDatasetFacet(owners)
    if dataset.model:
        facets["tandem_model"] = {"_producer": PRODUCER, "_schemaURL": FACET, **dataset.model}
    return facets | _column_facets(dataset)


def _uri(address: str) -> str:
    """Return an address as a URI, without secrets: a plain path is one of this machine."""
    return without_secrets(address) if urlsplit(address).scheme else f"file://{address}"


def _column_facets(dataset: Dataset) -> dict[str, Any]:
    from openlineage.client.generated import column_lineage_dataset, schema_dataset

    facets: dict[str, Any] = {}
    if dataset.columns:
        fields = [schema_dataset.SchemaDatasetFacetFields(c.name, c.type, c.description) for c in dataset.columns]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields)
    made = {
        column.name: column_lineage_dataset.Fields(
            [column_lineage_dataset.InputField(*place, name) for place, name in column.made_of]
        )
        for column in dataset.columns
        if column.made_of
    }
    if made:
        facets["columnLineage"] = column_lineage_dataset.ColumnLineageDatasetFacet(made)
    return facets
