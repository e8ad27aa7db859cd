"""What the API was asked over some days, counted into the bins of the model that answered."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import Plan, is_within
from models.contract import Contract
from models.counting import BinCounter, stride_for
from models.encoding import Encoded, screen_arrow
from models.errors import TableNotFoundError
from models.profile import Histograms, Profile
from models.request_record import DAY, record_columns
from models.scoring import Scorer, Scores

VERSION, SHA256, PROTOCOL = "model_version", "model_sha256", "protocol"


@dataclass
class Requests:
    """The logged requests of some days, whoever answered, and the bins of those that one model has answered."""

    versions: Counter[str] = field(default_factory=Counter)  # rows by version, named with the beginning of its sha256
    protocols: Counter[str] = field(default_factory=Counter)
    answered: int = 0  # rows by that model
    found: Histograms | None = None  # of those; None where there are none

    @property
    def rows(self) -> int:
        """How many rows were asked for."""
        return self.versions.total()


def requests_between(
    lake: Lakehouse, table: str, scorer: Scorer, profile: Profile | None, first: date, end: date
) -> Requests:
    """Count the requests from the day `first` up to `end`, itself left out; none where nothing was ever logged.

    What `scorer` has answered is counted into the bins of its profile, where it has one.
    """
    requests, contract = Requests(), scorer.contract
    features = [column.name for column in record_columns(contract) if column.role == "feature"]
    with suppress(TableNotFoundError):
        there = set(lake.schema(table).names)
        stored = features if there.issuperset(features) else []  # without its columns, this model has answered nothing
        columns = [VERSION, SHA256, PROTOCOL, *([contract.output, *stored] if stored else [])]
        plan = lake.plan(table, columns, where=is_within(DAY, first, end))
        stride = stride_for(sum(file.rows for file in plan.files))
        counter = BinCounter(profile, stride) if profile and stored else None
        _count(requests, plan, scorer, features, counter)
    return requests


def _count(requests: Requests, plan: Plan, scorer: Scorer, features: Sequence[str], counter: BinCounter | None) -> None:
    bins = counter.nothing if counter else np.zeros(0, np.int64)
    for batch in _batches(plan):
        _count_who(requests, batch)
        own = batch.filter(pc.equal(batch.column(SHA256), scorer.sha256))
        if counter and len(own):
            bins += counter.count(*_answered(scorer.contract, own, features), before=requests.answered)
        requests.answered += len(own)
    if counter and requests.answered:
        requests.found = Histograms.from_flat(counter.profile, bins)


def _batches(plan: Plan) -> Iterator[pa.RecordBatch]:
    return (batch.cast(plan.schema) for batch in plan.stream())


def _count_who(requests: Requests, batch: pa.RecordBatch) -> None:
    rows = pa.Table.from_batches([batch])
    for group in rows.group_by([VERSION, SHA256, PROTOCOL]).aggregate([([], "count_all")]).to_pylist():
        requests.versions[f"{group[VERSION]} ({group[SHA256][:12]})"] += group["count_all"]
        requests.protocols[group[PROTOCOL]] += group["count_all"]


def _answered(contract: Contract, rows: pa.RecordBatch, features: Sequence[str]) -> tuple[Encoded, Scores]:
    """Encode what was answered once more, which gives the codes that were scored; with the answers."""
    batch = pa.RecordBatch.from_arrays([rows.column(name) for name in features], names=list(contract.features))
    scores: Scores = rows.column(contract.output).to_numpy(zero_copy_only=False).astype(np.float32)
    return screen_arrow(contract, batch).encoded, scores
