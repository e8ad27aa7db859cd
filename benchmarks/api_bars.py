"""What the issue of the real-time lane asks of its speed, and whether the records reach it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

RATE = 300  # requests a second, at which the budget holds
OURS = ("tandem-rest", "tandem-grpc", "tandem-oip")
FLOOR, RIVALS = "bare", ("mlflow", "mlflow-tensors")


@dataclass(frozen=True)
class Bar:
    """A figure and its limit."""

    name: str
    value: float
    limit: float
    unit: str
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the figure is on the right side of its limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


Records = Sequence[Mapping[str, Any]]


def bars_of(records: Records, starts: Records) -> list[Bar]:
    """Judge what was measured: `records` are `api_rounds.Record`s; `starts` have `system`, `store` and `seconds`."""
    ours = [record for record in records if record["system"] in OURS]
    return [*_times(ours), *_memory(ours), *_ratios(records), *_starts(starts)]


def _times(ours: Records) -> Iterator[Bar]:
    for record in ours:
        where = f"{record['system']} on {record['store']}"
        alone = record["rate"] == 0 and record["connections"] == 1
        if not (alone or record["rate"] == RATE):
            continue
        if not record["requests_per_second"]:
            yield Bar(f"{where}: requests answered{'' if alone else f' at {RATE}/s'}", 0, 1, "", at_least=True)
        elif alone:
            # No request waits for another here, so the server's own time cannot be more than what the caller saw.
            yield Bar(f"{where}: p99 without queueing", record["p99_ms"], 3.0, "ms")
        else:
            yield Bar(f"{where}: p99 at {RATE}/s", record["p99_ms"], 15.0, "ms")
            yield Bar(f"{where}: p99.9 at {RATE}/s", record["p999_ms"], 30.0, "ms")
            yield Bar(f"{where}: errors at {RATE}/s", record["errors"], 0, "")


def _memory(ours: Records) -> Iterator[Bar]:
    """Judge the most that a worker had at any point, without the pages of the store's file, which are the system's."""
    for store in dict.fromkeys(record["store"] for record in ours):
        most = max(record["rss_mb"] - record["mapped_mb"] for record in ours if record["store"] == store)
        yield Bar(f"worker's memory on {store}", round(most, 1), 300.0, "MB")


def _ratios(records: Records) -> Iterator[Bar]:
    speed = {
        (record["system"], record["store"], record["connections"]): record["requests_per_second"]
        for record in records
        if record["rate"] == 0
    }
    for (system, store, connections), requests in speed.items():
        if system != OURS[0]:
            continue
        how = f"on {store}, {connections} connection{'s' if connections > 1 else ''}"
        for rival in RIVALS:
            if requests_of_rival := speed.get((rival, "none", connections)):
                yield Bar(f"{system} / {rival} {how}", round(requests / requests_of_rival, 2), 10.0, "x", at_least=True)
        if floor := speed.get((FLOOR, store, connections)):
            yield Bar(f"{system} / {FLOOR} {how}", round(requests / floor, 2), 0.5, "x", at_least=True)


def _starts(starts: Records) -> Iterator[Bar]:
    seconds = [start["seconds"] for start in starts if start["system"] == "tandem"]
    if seconds:
        yield Bar(f"cold start to ready, median of {len(seconds)}", round(median(seconds), 2), 6.0, "s")
