"""What Dagster has recorded of an asset: the version it knows, and since when. Nothing outside Dagster is asked."""

from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

DATA_VERSION = "dagster/data_version"
LOOKED_AT = 50  # materializations in a row with the same version: a year of weekly ties


@dataclass(frozen=True)
class RecordedChampion:
    """The champion as Dagster knows it: it has been this version `since`."""

    version: str
    sha256: str
    since: datetime


def recorded_version(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    """Return the data version of an asset's newest materialization; None without one."""
    event = instance.get_latest_materialization_event(key)
    found = event.asset_materialization if event else None
    return (found.tags or {}).get(DATA_VERSION) if found else None


def recorded_champion(instance: dg.DagsterInstance, model: str) -> RecordedChampion | None:
    """Return the champion that Dagster has recorded last; None before the first."""
    champion: RecordedChampion | None = None
    for record in instance.fetch_materializations(dg.AssetKey([model, "champion"]), limit=LOOKED_AT).records:
        event = record.asset_materialization
        sha256 = (event.tags or {}).get(DATA_VERSION, "") if event else ""
        if event is None or (champion and champion.sha256 != sha256):
            break
        since = datetime.fromtimestamp(record.timestamp, UTC)
        version = champion.version if champion else str(text_of(event.metadata, "model_version") or "?")
        champion = RecordedChampion(version, sha256, since)
    return champion


def first_recorded(instance: dg.DagsterInstance, key: dg.AssetKey) -> datetime | None:
    """Return when an asset was materialized for the first time; None when it never was."""
    found = instance.fetch_materializations(key, limit=1, ascending=True).records
    return datetime.fromtimestamp(found[0].timestamp, UTC) if found else None


def text_of(metadata: object, name: str) -> str:
    """Return a metadata's value as a text, empty where there is none."""
    value = metadata.get(name) if isinstance(metadata, dict) else None
    return str(getattr(value, "value", value)) if value is not None else ""
