"""What is kept of an answered request: the columns of its row in a log file and in the table that the files land in.

The service writes such files (`bento.observing.request_log`), the lakehouse reads them (`backends.request_logs`). A
file is text: its first line names the columns, each further line is one row, a JSON array in their order. The name
tells its state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from models.contract import CategoryFeature, Contract, NumberFeature

FORMAT = 1
OPEN, FINISHED = ".open", ".jsonl"  # endings of a file's name: still written to, and complete
TIME, DAY = "requested_at", "requested_on"
REPLAY = "tandem-replay"  # the request id of what Tandem asks itself to check the service; never logged

Role = Literal["key", "request", "prediction", "lineage", "feature"]
Kind = Literal["integer", "small_integer", "text", "boolean", "time", "numerical", "categorical"]


@dataclass(frozen=True)
class Column:
    """One column. `kind` is how its values are stored; times are ISO 8601 in UTC."""

    name: str
    role: Role
    kind: Kind


def record_columns(contract: Contract) -> list[Column]:
    """Return the columns, those of the features last and in contract order.

    A feature with the name of another column has an underscore behind its own.
    """
    integer = contract.entity_key_type == "integer"
    columns = [
        Column(contract.entity_key, "key", "integer" if integer else "text"),
        *_of_events(contract),
        Column(TIME, "request", "time"),
        Column("request_id", "request", "text"),
        Column("position", "request", "small_integer"),  # of the row in its request, from 0
        Column("protocol", "request", "text"),
        Column(contract.output, "prediction", "numerical"),
        Column(f"{contract.model}_predicted", "prediction", "boolean"),
        Column("features_as_of", "lineage", "time"),
        Column("features_stale", "lineage", "boolean"),
        Column("model_version", "lineage", "small_integer"),
        Column("model_sha256", "lineage", "text"),
    ]
    taken = {column.name for column in columns} | {DAY}
    for name, feature in contract.features.items():
        own = name
        while own in taken or (own != name and own in contract.features):
            own += "_"
        taken.add(own)
        columns.append(Column(own, "feature", "numerical" if isinstance(feature, NumberFeature) else "categorical"))
    return columns


def _of_events(contract: Contract) -> list[Column]:
    """Return what says which event a row was, and when it happened; nothing for a model of entities."""
    events = contract.events
    if events is None:
        return []
    kind: Kind = "integer" if events.key_type == "integer" else "text"
    return [Column(events.key, "request", kind), Column(events.time, "request", "time")]


def category_words(feature: CategoryFeature) -> list[str | None]:
    """Return the text of each code of a feature: what was scored, so that encoding the text gives the code again.

    The bucket of unseen values is `other`, in parentheses where that is a known value.
    """
    other = "other"
    while other in feature.values:
        other = f"({other})"
    return [*feature.values, other, None]


def header(columns: Sequence[Column]) -> dict[str, Any]:
    """Return the first line of a file, for JSON."""
    return {"format": FORMAT, "columns": [{"name": c.name, "role": c.role, "type": c.kind} for c in columns]}
