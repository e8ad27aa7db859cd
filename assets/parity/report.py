"""What a replay found: whether the lanes agree, why not, and the figures for a page."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import numpy as np

from backends.lakehouse.reading import Snapshot

SHOWN = 10  # disagreements that the report lists


@dataclass(frozen=True)
class Disagreement:
    """One answer that is not what Gold says: `kind` is scores, decisions, files or refusals."""

    key: Any
    protocol: str
    asked_by: str
    kind: str
    gold: float
    api: str


@dataclass
class Replayed:
    """What one protocol answered: how many rows were compared, and the time of each request."""

    protocol: str
    rows: int  # in a request
    compared: int = 0
    out_of_reach: int = 0  # of those: answers from a history that says itself that it is not complete
    disagreements: list[Disagreement] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    unreachable: str = ""  # why it could not be asked, or not to the end

    def latency_ms(self, percentile: float) -> float:
        """Return a percentile of the requests' times; 0 when there were none."""
        return float(np.percentile(self.latencies_ms, percentile)) if self.latencies_ms else 0.0


@dataclass(frozen=True)
class ParityReport:
    """What the replay found; `problems` is empty when both lanes agree."""

    url: str
    night: Snapshot
    served: dict[str, Any]  # the service's lineage
    customers: int
    replayed: Sequence[Replayed]  # by protocol; POST /predict is the first

    @property
    def served_sha256(self) -> str:
        """Which file the service answers with."""
        return str(self.served["sha256"])

    @property
    def compared(self) -> int:
        """How many answers were compared, over all protocols."""
        return sum(one.compared for one in self.replayed)

    @property
    def out_of_reach(self) -> int:
        """How many answers say that their history no longer reaches back; those prove nothing."""
        return sum(one.out_of_reach for one in self.replayed)

    @property
    def disagreements(self) -> list[Disagreement]:
        """All of them, protocol by protocol."""
        return [disagreement for one in self.replayed for disagreement in one.disagreements]

    @property
    def problems(self) -> list[str]:
        """Every reason why the lanes do not agree, for a person."""
        found = [*self._of_the_model(), *self._of_the_store()]
        if not self.customers:
            found.append("Nothing was replayed: the newest night has no rows.")
        if self.compared and self.out_of_reach == self.compared:
            found.append(
                "No event has its history any more: the store keeps the longest window, two days more, and of an "
                "entity `2 * history.max_events + 1` events. Score the newest day, and materialize the online features."
            )
        found += [f"{one.protocol} was not compared to the end. {one.unreachable}" for one in self._unreachable()]
        if self.disagreements:
            found.append(self._differences())
        return found

    def _of_the_model(self) -> list[str]:
        gold, served = self.night.properties, self.served
        if self.served_sha256 == gold["model_sha256"]:
            return []
        return [
            f"The API serves version {served['version']} ({self.served_sha256[:12]}), the newest night was scored by "
            f"version {gold['model_version']} ({gold['model_sha256'][:12]}). Deploy the newest Bento, or score the day "
            "again."
        ]

    def _of_the_store(self) -> list[str]:
        online, scored = self.served.get("online_features"), self.night.properties["source_snapshot"]
        if not online:
            return [
                "The service has no online features. Materialize them, and check that TANDEM_ONLINE_STORE is the same "
                "there and here."
            ]
        if online.get("source_snapshot") == scored:
            return []
        return [
            f"The online features come from population snapshot {online.get('source_snapshot')}, the newest night from "
            f"{scored}. Materialize the online features."
        ]

    def _unreachable(self) -> list[Replayed]:
        return [one for one in self.replayed if one.unreachable]

    def _differences(self) -> str:
        """Count what differs, show the first, and say where to look."""
        first = self.disagreements[0]
        kinds = Counter(disagreement.kind for disagreement in self.disagreements)
        counted = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        return (
            f"{len(self.disagreements)} of {self.compared} answers differ ({counted}); first: key {first.key!r} asked "
            f"by {first.asked_by} over {first.protocol}: API {first.api}, Gold {first.gold!r}. {self._suspect()}"
        ).strip()

    def _suspect(self) -> str:
        """Say what alone would explain which answers differ."""
        protocols = {disagreement.protocol for disagreement in self.disagreements}
        ways = {disagreement.asked_by for disagreement in self.disagreements}
        if len(protocols) < sum(one.compared > 0 for one in self.replayed):
            return f"The others agree, so look at how {' and '.join(sorted(protocols))} reads and writes."
        if ways == {"event"} and not self._of_the_model():
            return (
                "It is the histories, or the model file: materialize the online features, and deploy the Bento again. "
                "A key that stands in two events, or one that came after its day was made, also makes a difference."
            )
        if ways == {"key"}:
            return "Whatever is sent agrees, so it is the online store's features: materialize the online features."
        if ways == {"features"}:
            return "Whatever is stored agrees, so the service encodes otherwise: build its Bento again and deploy it."
        if self._of_the_model():
            return ""
        return (
            "Stored or sent makes no difference, so it is the model file or what computes it: deploy its Bento again."
        )

    @property
    def observation(self) -> dict[str, Any]:
        """What is running, for the asset's page; latencies are those of POST /predict."""
        first = self.replayed[0]
        return {
            "url": dg.MetadataValue.url(self.url),
            "model_version": self.served["version"],
            "model_sha256": self.served_sha256,
            "online_store": self.served.get("online_store", "unknown"),
            "latency_p50_ms": first.latency_ms(50),
            "latency_p99_ms": first.latency_ms(99),
        }

    @property
    def metadata(self) -> dict[str, Any]:
        """The evidence, for the check's page."""
        return {
            **self.observation,
            "reason": " ".join(self.problems) or "every answer is the same float32 as in Gold",
            "replayed": self.customers,
            "answers_compared": self.compared,
            "disagreements": len(self.disagreements),
            "history_out_of_reach": self.out_of_reach,
            "by_protocol": dg.MetadataValue.table([_summary(one) for one in self.replayed]),
            "scored_on": self.night.properties["scored_on"],
            "gold_snapshot": str(self.night.id),
            **_listed(self.disagreements[:SHOWN]),
        }


def _summary(one: Replayed) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "protocol": one.protocol,
            "answers": one.compared,
            "disagreements": len(one.disagreements),
            "rows_a_request": one.rows,
            "p50_ms": round(one.latency_ms(50), 3),
            "p99_ms": round(one.latency_ms(99), 3),
        }
    )


def _listed(disagreements: Sequence[Disagreement]) -> dict[str, Any]:
    if not disagreements:
        return {}
    records = [
        dg.TableRecord(
            {"key": str(d.key), "protocol": d.protocol, "asked_by": d.asked_by, "gold": d.gold, "api": d.api}
        )
        for d in disagreements
    ]
    return {"first_disagreements": dg.MetadataValue.table(records)}
