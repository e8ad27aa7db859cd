"""From a share of the population to a part of the Gold table, and one of rejects: the function that an engine maps."""

from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property

import numpy as np
import pyarrow as pa

from backends.gold_tables import KEY_TYPES, PARTITION, part_schema
from backends.lakehouse.parts import Parts
from backends.lakehouse.reading import BATCH_ROWS, FileTask, Reader, Share
from backends.reasons_column import ReasonsColumn
from backends.rejects import Accepted, accept, rejects_of
from backends.repeated_keys import Ascending, KeyRange
from models.audit import BINS, Counts, histogram_of
from models.counting import BinCounter
from models.scoring import Scorer


@dataclass(frozen=True)
class Scoring:
    """What is the same for every share of a night; can be sent to other processes."""

    scorer: Scorer
    version: int
    scored_on: date
    scored_at: datetime
    source_snapshot: int
    reader: Reader
    repeated: pa.Array  # keys that stand in more than one row of the population
    parts: Parts
    rejects: Parts
    counter: BinCounter | None = None  # for drift; None where the model has no profile
    reasons_column: ReasonsColumn | None = None  # where it is declared

    @cached_property
    def lineage(self) -> list[pa.Array]:
        """The columns that say where a score comes from, the same in every row, for as many rows as a batch has."""
        return _lineage(self, BATCH_ROWS)


@dataclass(frozen=True)
class ScoredPart:
    """What came of one share, in figures, and where it is."""

    parts: tuple[str, ...]
    rejects: tuple[str, ...]
    rows: int
    rejected: int
    positives: int
    histogram: Counts  # int64 [BINS]
    bins: Counts  # as the counter counts; int64 [0] without one
    unseen: dict[str, int]  # rows by column, for values that the vocabulary has not
    reasons: dict[tuple[str, str], int]  # rejected values by column and reason
    keys: KeyRange | None  # the first and the last of the share, if they ascend


def score_share(night: Scoring, share: Share) -> ScoredPart:
    """Score the rows of some files; those that the contract refuses are written as rejects, not scored."""
    found = _Tally(night.counter)
    with night.parts.begin(share.position) as part, night.rejects.begin(share.position) as rejects:
        for file in share.files:
            for batch in night.reader.batches(file):
                accepted = accept(night.scorer.contract, batch, night.repeated)
                if accepted.violations:
                    constants, schema = _constants(night, file), night.rejects.schema
                    rejects.write(rejects_of(batch, accepted.violations, constants, schema))
                out = predictions(night, accepted)
                part.write(out)
                found.add(out, batch, accepted, night)
    return found.result(part.addresses, rejects.addresses)


def predictions(night: Scoring, accepted: Accepted) -> pa.RecordBatch:
    """Score the accepted rows of a batch. Columns with one value are repeated, the long one as a dictionary."""
    contract, rows = night.scorer.contract, len(accepted.keys)
    scores = night.scorer.score(accepted.encoded)
    decisions = night.scorer.decide(scores)
    lineage = night.lineage if rows <= BATCH_ROWS else _lineage(night, rows)
    columns = [
        accepted.keys.cast(KEY_TYPES[contract.row_key_type]),
        pa.array(scores),
        pa.array(decisions),
        *(column.slice(0, rows) for column in lineage),
    ]
    if night.reasons_column:
        columns.append(night.reasons_column.of_rows(accepted.encoded, scores, decisions))
    return pa.RecordBatch.from_arrays(columns, schema=part_schema(contract, reasons=night.reasons_column is not None))


def _lineage(night: Scoring, rows: int) -> list[pa.Array]:
    sha256 = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array([night.scorer.sha256]))
    return [
        pa.repeat(pa.scalar(night.version, pa.int32()), rows),
        sha256,
        pa.repeat(pa.scalar(night.scored_at, pa.timestamp("us", tz="UTC")), rows),
        pa.repeat(pa.scalar(night.scored_on, pa.date32()), rows),
    ]


def _constants(night: Scoring, file: FileTask) -> dict[str, pa.Scalar]:
    return {
        "source_table": pa.scalar(night.reader.table),
        "source_snapshot": pa.scalar(night.source_snapshot),
        "source_file": pa.scalar(file.address),
        "model_version": pa.scalar(night.version),
        "rejected_at": pa.scalar(night.scored_at, pa.timestamp("us", tz="UTC")),
        PARTITION: pa.scalar(night.scored_on),
    }


class _Tally:
    """Counts what a share's batches hold."""

    def __init__(self, counter: BinCounter | None) -> None:
        self.rows = self.rejected = self.positives = 0
        self.keys = Ascending()
        self.histogram = np.zeros(BINS, np.int64)
        self.bins = counter.nothing if counter else np.zeros(0, np.int64)
        self.unseen: dict[str, int] = {}
        self.reasons: dict[tuple[str, str], int] = {}

    def add(self, out: pa.RecordBatch, batch: pa.RecordBatch, accepted: Accepted, night: Scoring) -> None:
        scores = out.column(1).to_numpy()
        if night.counter:
            self.bins += night.counter.count(accepted.encoded, scores, before=self.rows)
        self.rows += len(out)
        self.rejected += batch.num_rows - len(out)
        self.keys.add(batch.column(night.scorer.contract.row_key))
        self.positives += out.column(2).true_count
        self.histogram += histogram_of(scores)
        for name, count in accepted.unseen.items():
            self.unseen[name] = self.unseen.get(name, 0) + count
        for violation in accepted.violations:
            reason = (violation.column, violation.reason)
            self.reasons[reason] = self.reasons.get(reason, 0) + len(violation.rows)

    def result(self, parts: list[str], rejects: list[str]) -> ScoredPart:
        return ScoredPart(
            tuple(parts),
            tuple(rejects),
            self.rows,
            self.rejected,
            self.positives,
            self.histogram,
            self.bins,
            self.unseen,
            self.reasons,
            self.keys.range,
        )
