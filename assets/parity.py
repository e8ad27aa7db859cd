"""The parity proof: published customers are asked of the running service again, by key and by features.

A score agrees when it is the same float32, bit for bit, made by the file with the same sha256.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa

from backends.gold_tables import PARTITION
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import Snapshot, is_one_of, partition_is
from backends.nights import newest_night
from bento.client import ApiClient
from models.declaration import Declaration
from models.errors import ContractError, OnlineStoreError

SAMPLE = 1000
SHOWN = 10  # disagreements that the report lists


@dataclass(frozen=True)
class Disagreement:
    """One answer that is not what Gold says."""

    key: Any
    asked_by: str
    gold: float
    api: str


@dataclass(frozen=True)
class ParityReport:
    """What the replay found; `problems` is empty when both lanes agree."""

    url: str
    night: Snapshot
    served: dict[str, Any]  # the service's lineage
    replayed: int
    disagreements: list[Disagreement]
    latencies_ms: list[float]

    @property
    def served_sha256(self) -> str:
        """Which file the service answers with."""
        return str(self.served["sha256"])

    @property
    def problems(self) -> list[str]:
        """Every reason why the lanes do not agree, for a person."""
        gold, found = self.night.properties, []
        if self.served_sha256 != gold["model_sha256"]:
            found.append(
                f"The API serves version {self.served['version']} ({self.served_sha256[:12]}), the newest night was "
                f"scored by version {gold['model_version']} ({gold['model_sha256'][:12]}). Deploy the newest Bento, or "
                "score the day again."
            )
        online = self.served.get("online_features") or {}
        if online.get("source_snapshot") != gold["source_snapshot"]:
            found.append(
                f"The online features come from population snapshot {online.get('source_snapshot')}, the newest night "
                f"from {gold['source_snapshot']}. Materialize the online features."
            )
        if not self.replayed:
            found.append("Nothing was replayed: the newest night has no rows.")
        if self.disagreements:
            first = self.disagreements[0]
            found.append(
                f"{len(self.disagreements)} of {2 * self.replayed} answers differ; first: key {first.key!r} asked by "
                f"{first.asked_by}: API {first.api}, Gold {first.gold!r}."
            )
        return found

    @property
    def observation(self) -> dict[str, Any]:
        """What is running, for the asset's page."""
        return {
            "url": dg.MetadataValue.url(self.url),
            "model_version": self.served["version"],
            "model_sha256": self.served_sha256,
            "latency_p50_ms": float(np.percentile(self.latencies_ms, 50)) if self.latencies_ms else 0.0,
            "latency_p99_ms": float(np.percentile(self.latencies_ms, 99)) if self.latencies_ms else 0.0,
        }

    @property
    def metadata(self) -> dict[str, Any]:
        """The evidence, for the check's page."""
        records = [
            dg.TableRecord({"key": str(d.key), "asked_by": d.asked_by, "gold": d.gold, "api": d.api})
            for d in self.disagreements[:SHOWN]
        ]
        listed = {"first_disagreements": dg.MetadataValue.table(records)} if records else {}
        return {
            **self.observation,
            "reason": " ".join(self.problems) or "every answer is the same float32 as in Gold",
            "replayed": self.replayed,
            "answers_compared": 2 * self.replayed,
            "disagreements": len(self.disagreements),
            "scored_on": self.night.properties["scored_on"],
            "gold_snapshot": str(self.night.id),
            **listed,
        }


def replay(lake: Lakehouse, declaration: Declaration, url: str, sample: int = SAMPLE) -> ParityReport:
    """Ask the service for a seeded sample of the newest night. `ServiceUnreachableError` when it does not answer."""
    night = newest_night(lake, declaration.predictions_table)
    disagreements: list[Disagreement] = []
    latencies: list[float] = []
    with ApiClient(url) as client:
        served = client.lineage()
        rows = list(_sampled(lake, declaration, night, sample))
        for key, gold, features in rows:
            for asked_by, body in (("key", {declaration.entity_key: key}), ("features", {"features": features})):
                begun = time.perf_counter()
                answer = _ask(client, body)
                latencies.append(1000 * (time.perf_counter() - begun))
                if answer != (np.float32(gold).tobytes(), night.properties["model_sha256"]):
                    shown = repr(np.frombuffer(answer[0], np.float32)[0].item()) if answer[0] else answer[1]
                    disagreements.append(Disagreement(key, asked_by, float(gold), shown))
    return ParityReport(url, night, served, len(rows), disagreements, latencies)


def _ask(client: ApiClient, body: dict[str, Any]) -> tuple[bytes, str]:
    """Return the answer's float32 as bytes and its sha256; for a refusal nothing and the reason."""
    try:
        answer = client.predict(body)
    except (ContractError, OnlineStoreError) as error:  # a refusal is a disagreement, whatever its reason
        return b"", str(error)
    return np.float32(answer["probability"]).tobytes(), answer["model_sha256"]


def _sampled(
    lake: Lakehouse, declaration: Declaration, night: Snapshot, sample: int
) -> Iterator[tuple[Any, np.float32, dict[str, Any]]]:
    """Yield key, published score and features as of the scored snapshot, for rows drawn by the snapshot's id."""
    key = declaration.entity_key
    day = partition_is(PARTITION, date.fromisoformat(night.properties["scored_on"]))
    plan = lake.plan(declaration.predictions_table, [key, f"{declaration.name}_probability"], night.id, where=day)
    total = sum(file.rows for file in plan.files)
    wanted = np.sort(np.random.default_rng(night.id).choice(total, min(sample, total), replace=False))
    picked, seen = [], 0
    for batch in (batch for file in plan.files for batch in plan.batches(file)):
        inside = wanted[(wanted >= seen) & (wanted < seen + len(batch))] - seen
        picked.append(pa.Table.from_batches([batch]).take(pa.array(inside)))
        seen += len(batch)
    rows = pa.concat_tables(picked)
    keys, scores = rows.column(0).to_pylist(), rows.column(1).to_numpy()
    features = _features_of(lake, declaration, night, keys)
    for entity, score in zip(keys, scores, strict=True):
        yield entity, score, features[entity]


def _features_of(
    lake: Lakehouse, declaration: Declaration, night: Snapshot, keys: list[Any]
) -> dict[Any, dict[str, Any]]:
    columns = [declaration.entity_key, *declaration.features]
    snapshot = int(night.properties["source_snapshot"])
    where = is_one_of(declaration.entity_key, keys)
    table = lake.read(declaration.population.table, columns, snapshot, where=where)
    return {row.pop(declaration.entity_key): row for row in table.to_pylist()}
