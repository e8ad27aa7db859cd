"""Published nights with all that makes reading hard: several days, a rerun, a rollback, rejects, many pages."""

from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from backends.batch_scoring import score_and_publish
from backends.engines import LocalEngine
from backends.lakehouse.catalog import Lakehouse
from backends.nights import Published
from backends.rollbacks import roll_back
from models.audit import Limits
from models.encoding import encode_arrow
from models.scoring import Scorer
from tests.backends.nights import (
    FRIDAY,
    POPULATION,
    PREDICTIONS,
    REJECTS,
    SATURDAY,
    customers,
    night,
    with_column,
    write_files,
)
from tests.tiny_model import tiny_contract, tiny_onnx

SUNDAY = SATURDAY + timedelta(days=1)
TEXT_PREDICTIONS = "gold.text_predictions"

Scores = dict[int | str, np.float32]


@dataclass(frozen=True)
class Night:
    """One published night, and what the scorer itself says of its customers."""

    published: Published
    scores: Scores = field(repr=False)
    rejected: list[int]


@dataclass(frozen=True)
class Gold:
    """A lake in which the nights below were published, one after the other."""

    lake: Lakehouse
    friday: Night
    saturday_at_first: Night  # replaced by the next one
    saturday: Night
    sunday: Night  # rolled back
    texts: Night  # in a table of its own

    @property
    def nights(self) -> dict[date, Night]:
        """What a reader of `main` must find."""
        return {FRIDAY: self.friday, SATURDAY: self.saturday}

    def metadata(self, table: str = PREDICTIONS) -> str:
        """Return the address of a table's current metadata file."""
        return str(self.lake.load(table).metadata_location)


def publish_nights(lake: Lakehouse) -> Gold:
    """Publish all of them."""
    friday = _score(lake, _population(seed=0), scored_on=FRIDAY)
    saturday_at_first = _score(lake, _population(seed=1, wrong=3))
    saturday = _score(lake, _population(seed=2, wrong=5), version=4)
    sunday = _score(lake, _population(seed=3), scored_on=SUNDAY, version=4)
    roll_back(lake, PREDICTIONS, f"night_{SATURDAY}", reason="Sunday's source was late", by="a test")
    return Gold(lake, friday, saturday_at_first, saturday, sunday, _score_texts(lake))


def _population(seed: int, wrong: int = 0) -> list[pa.Table]:
    """Return four files: one of several data pages, one of a single row, one with `wrong` rows to reject."""
    last = customers(100, first_key=121_501, seed=seed)
    months = np.array([601] * wrong + [5] * (100 - wrong), np.int32)
    return [
        customers(120_000, seed=seed),
        customers(1, first_key=120_000, seed=seed),
        customers(1500, first_key=120_001, seed=seed),
        with_column(last, "tenure_months", months),
    ]


def _score(lake: Lakehouse, files: list[pa.Table], population: str = POPULATION, **changes) -> Night:
    write_files(lake, population, files)
    task = night(population=population, limits=Limits(max_shift=10, max_rejected_share=0.01), **changes)
    rows = pa.concat_tables(files)
    fits = np.less_equal(rows["tenure_months"].to_numpy(), 600)
    good, keys = rows.filter(pa.array(fits)), rows["customer_id"]
    scores = task.scorer.score(encode_arrow(task.scorer.contract, good))
    published = score_and_publish(lake, LocalEngine(2), task)
    by_key = dict(zip(good["customer_id"].to_pylist(), scores, strict=True))
    return Night(published, by_key, keys.filter(pa.array(~fits)).to_pylist())


def _score_texts(lake: Lakehouse) -> Night:
    rows = customers(2000)
    named = with_column(rows, "customer_id", [f"Käufer № {key:05d}" for key in rows["customer_id"].to_pylist()])
    return _score(
        lake,
        [named.slice(0, 1200), named.slice(1200)],
        population="silver.text_customers",
        predictions=TEXT_PREDICTIONS,
        rejects=REJECTS.replace("tiny", "text"),
        scorer=Scorer(tiny_onnx(tiny_contract(entity_key_type="string"))),
    )
