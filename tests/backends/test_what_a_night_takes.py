"""What a night takes, measured where it happens: CPU time, and the bytes that were read and written."""

import time
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backends.engines import LocalEngine
from backends.lakehouse.reading import partition_is
from tests.backends.nights import POPULATION, PREDICTIONS, SATURDAY, customers, publish, write_files
from tests.tiny_model import tiny_contract


@pytest.fixture
def filled(lake):
    """A lake whose customers have a column that no model reads."""
    noise = pa.array(np.random.default_rng(0).random(3000))
    rows = customers(3000).append_column("unread", noise)
    write_files(lake, POPULATION, [rows.slice(0, 1800), rows.slice(1800)])
    return lake


def file_of(address: str) -> Path:
    return Path(urlparse(address).path)


def test_the_bytes_read_are_those_of_the_columns_in_the_files(filled):
    contract, size = tiny_contract(), 0
    for file in {task.address for task in filled.plan(POPULATION).files}:
        footer = pq.read_metadata(file_of(file))
        chunks = [
            footer.row_group(g).column(c) for g in range(footer.num_row_groups) for c in range(footer.num_columns)
        ]
        wanted = {contract.entity_key, *contract.features}
        size += sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema in wanted)
    published = publish(filled)
    assert published.bytes_read == size
    assert published.snapshot.properties["bytes_read"] == str(size)


def test_the_bytes_written_are_those_of_the_files_of_the_day(filled):
    published = publish(filled)
    files = {file.address for file in filled.plan(PREDICTIONS, where=partition_is("scored_on", SATURDAY)).files}
    assert published.snapshot.bytes_added == sum(file_of(file).stat().st_size for file in files)


def test_the_cpu_time_is_that_of_the_night_and_no_more(filled):
    before = time.process_time()
    published = publish(filled)
    most = time.process_time() - before
    scoring = float(published.snapshot.properties["scoring_cpu_seconds"])
    assert 0 < scoring < published.cpu_seconds <= most


def test_the_threads_of_the_local_engine_count(filled):
    engine = LocalEngine(2)

    def busy(seconds: float) -> None:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    before = engine.cpu_seconds
    engine.map(busy, [0.1, 0.1])
    assert engine.cpu_seconds - before >= 0.2
