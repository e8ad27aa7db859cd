"""What a night costs past one machine: memory of the driver, bytes to the workers, seconds of the catalog.

`python -m benchmarks.plan_at_scale --rows 5000000000 --files 40000 --json PATH`, on Linux. The manifests of the large
population are real, with the columns' bounds of a real file; the data files that they name are not there, since a plan
never opens one. Real nights of few rows give the sizes of parts and results; real, small parts give the commits. Each
step runs in a process of its own, so that its memory is its own. Everything is made in a scratch folder.
"""

import gc
import json
import math
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import chain, pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from pyiceberg.conversions import to_bytes
from pyiceberg.manifest import DATA_FILE_TYPE, DEFAULT_READ_VERSION, DataFile
from rich.console import Console
from rich.table import Table

from backends.batch_scoring import population_plan, score_and_publish
from backends.engines import LocalEngine
from backends.gold_tables import PARTITION, predictions_schema
from backends.lakehouse.catalog import BYTES_PER_ROW, Lakehouse
from backends.lakehouse.publishing import publish, stage, write_whole
from backends.lakehouse.reading import partition_is
from backends.nights import Night, published_nights
from backends.repeated_keys import KeyGroup, key_groups, repeated_in
from backends.settings import Settings
from demo.population import Chunk, active_customers
from models.audit import Limits
from models.contract import Contract
from models.declaration import load_declaration
from models.encoding import encode_arrow
from models.scoring import Scorer
from models.training.bins import bins_by_need
from models.training.fit import contract_of
from models.training.graph import build_graph
from models.training.layout import learn_layout

DAY = date(2026, 11, 20)
MANIFEST_FILES = 5_000  # entries of a manifest, 3 MB
ROW_GROUP_ROWS = 1024 * 1024  # what most writers of Parquet do
MEGABYTE = 1e6
THREADS = 2
NIGHTS_COMPARED = 10  # the first and the last ones of the year


@dataclass(frozen=True)
class Sizes:
    """How large to measure."""

    rows: int = 5_000_000_000
    files: int = 40_000
    night_rows: int = 500_000
    tiny_files: int = 1_000
    parts: tuple[int, ...] = (100, 1_000, 10_000)
    nights: int = 365
    parts_a_night: int = 8


@dataclass(frozen=True)
class Record:
    """One measured step: how many things it was about, and what they took.

    `kept_mb` is by how much the process grew for the result, `peak_mb` the most that it ever had, `sent_mb` what an
    engine on other machines would get or give, pickled.
    """

    step: str
    count: int
    seconds: float = 0.0
    kept_mb: float = 0.0
    peak_mb: float = 0.0
    sent_mb: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)


class Run(Protocol):
    """Calls a step, in this process or in one of its own."""

    def __call__(self, step: Callable[..., list[Record]], *arguments: Any) -> list[Record]:
        """Return what the step measured."""
        ...


def in_a_process(step: Callable[..., list[Record]], *arguments: Any) -> list[Record]:
    """Call a step in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(step, *arguments).result()


def measure(home: Path, sizes: Sizes, run: Run = in_a_process) -> list[Record]:
    """Run every step on the lake in `home`."""
    records = run(nights_by_shape, home, sizes)
    for kind in ("sorted", "unsorted", "large"):
        records += run(write_population, home, sizes, kind)
        records += run(plan_population, home, kind)
    records += run(collect_results, home, sizes)
    for parts in sizes.parts:
        records += run(commit_parts, home, parts)
    return records + run(year_of_nights, home, sizes)


def main(
    rows: Annotated[int, typer.Option(help="Of the population.")] = Sizes.rows,
    files: Annotated[int, typer.Option(help="Of the population.")] = Sizes.files,
    nights: Annotated[int, typer.Option(help="Published one after the other.")] = Sizes.nights,
    output: Annotated[Path | None, typer.Option("--json", help="Where to write the records.")] = None,
) -> None:
    """Measure, print one table, and write the records."""
    with TemporaryDirectory() as scratch:
        records = measure(Path(scratch), Sizes(rows, files, nights=nights))
    show(f"{rows:,} rows in {files:,} files", records, output)


def show(title: str, records: Sequence[Record], output: Path | None) -> None:
    """Print one table, and write the records."""
    table = Table(title=title)
    for heading in ("step", "count", "seconds", "kept MB", "peak MB", "sent MB", "figures"):
        table.add_column(heading, justify="left" if heading in {"step", "figures"} else "right")
    for r in records:
        figures = ", ".join(f"{name} {value:,.6g}" for name, value in r.figures.items())
        memory = [f"{megabytes:,.1f}" for megabytes in (r.kept_mb, r.peak_mb, r.sent_mb)]
        table.add_row(r.step, f"{r.count:,}", f"{r.seconds:.3f}", *memory, figures)
    Console(width=200).print(table)
    if output:
        output.write_text(json.dumps([asdict(record) for record in records], indent=2) + "\n")


# --- real nights of few rows ----------------------------------------------------------------------------------------


def nights_by_shape(home: Path, sizes: Sizes) -> list[Record]:
    """Score the same rows from one file, from files as large as the population's, and from tiny ones."""
    scorer, rows = _untrained_scorer(), active_customers(Chunk(0, sizes.night_rows), seed=0, as_of=DAY)
    shuffled = rows.take(np.random.default_rng(0).permutation(len(rows)))
    usual = max(1, round(sizes.night_rows * sizes.files / sizes.rows))
    shapes = {"usual": (rows, usual), "shuffled": (shuffled, usual), "one": (rows, 1), "tiny": (rows, sizes.tiny_files)}
    records = []
    with _lake(home) as lake:
        for shape, (customers, files) in shapes.items():
            _write_files(lake, f"silver.{shape}", customers, files)
            night = _night(f"silver.{shape}", f"gold.{shape}", scorer)
            score_and_publish(lake, LocalEngine(THREADS), night)  # warm-up
            engine, begun = MeasuringEngine(THREADS), time.perf_counter()
            published = score_and_publish(lake, engine, night)
            seconds = time.perf_counter() - begun
            records.append(Record(f"night, {shape}", files, seconds, figures=_part_figures(lake, night)))
            records += [Record(f"{shape}: {call.function}", call.tasks, figures=call.sent) for call in engine.calls]
            assert published.report.rows == published.source.rows == sizes.night_rows
    return records


def _part_figures(lake: Lakehouse, night: Night) -> dict[str, float]:
    parts = {file.address for file in lake.plan(night.predictions).files}
    groups = [pq.read_metadata(_path(part)).num_row_groups for part in parts]
    return {
        "parts": len(parts),
        "bytes_per_row": lake.bytes_per_row(night.predictions),
        "guessed_bytes_per_row": BYTES_PER_ROW,
        "row_groups_per_part": sum(groups) / len(groups),
    }


@dataclass(frozen=True)
class Call:
    """One use of an engine, and the bytes that a cluster would be sent for it."""

    function: str
    tasks: int
    sent: dict[str, float]
    result: bytes


class MeasuringEngine(LocalEngine):
    """The local engine, which weighs what an engine on other machines would send."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.calls: list[Call] = []

    def map(self, function: Callable[[Any], Any], tasks: Any) -> list[Any]:
        """Map, and take note."""
        tasks = list(tasks)
        results = super().map(function, tasks)
        name = function.func.__name__ if isinstance(function, partial) else function.__name__
        result = pickle.dumps(results[0])
        sent = {
            "function_kb": len(pickle.dumps(function)) / 1e3,
            "task_kb": len(pickle.dumps(tasks[0])) / 1e3,
            "result_kb": len(result) / 1e3,
        }
        self.calls.append(Call(name, len(tasks), sent, result))
        return results


def collect_results(home: Path, sizes: Sizes) -> list[Record]:
    """Hold as many results of a share as there would be with one share a file."""
    with _lake(home) as lake:
        engine = MeasuringEngine(THREADS)
        score_and_publish(lake, engine, _night("silver.usual", "gold.usual", _untrained_scorer()))
    result = next(call.result for call in engine.calls if call.function == "score_share")
    with _cost() as cost:
        held = [pickle.loads(result) for _ in range(sizes.files)]
    return [Record("results of one share a file", len(held), **asdict(cost), sent_mb=_megabytes(result) * len(held))]


# --- the large population -------------------------------------------------------------------------------------------


def write_population(home: Path, sizes: Sizes, kind: str) -> list[Record]:
    """Write the manifests of a table whose files have ranges of keys that do not meet, or all the whole range.

    `large` is as `sorted`, in files of the target size: so is the Gold table after such a night.
    """
    table = f"silver.{kind}"
    with _lake(home) as lake, _cost() as cost:
        sample = next(iter(lake.load("silver.usual").scan().plan_files())).file
        lake.ensure_table(table, lake.schema("silver.usual"))
        loaded = lake.load(table)
        files = _parts_of(lake, sizes.rows) if kind == "large" else sizes.files
        key = loaded.schema().find_field("customer_id")
        entries = [_entry(sample, sizes.rows, files, kind, position, key) for position in range(files)]
        for start in range(0, len(entries), MANIFEST_FILES):
            with loaded.transaction() as change, change.update_snapshot().fast_append() as append:
                for entry in entries[start : start + MANIFEST_FILES]:
                    append.append_data_file(entry)
    manifests = sum(file.stat().st_size for file in _metadata_files(home, table, "*-m*.avro"))
    return [Record(f"write manifests, {kind}", files, **asdict(cost), figures={"mb": manifests / MEGABYTE})]


def _entry(sample: DataFile, rows: int, files: int, kind: str, position: int, key: Any) -> DataFile:
    """Return the sample under another name, with as many rows and such keys as its place in the population has."""
    start, end = rows * position // files, rows * (position + 1) // files
    low, high = (position, rows - files + position) if kind == "unsorted" else (start, end - 1)
    size = sample.file_size_in_bytes * (end - start) // sample.record_count
    groups = -(-(end - start) // ROW_GROUP_ROWS)
    own = {
        "file_path": sample.file_path.replace(".parquet", f"-{position:05d}.parquet"),
        "record_count": end - start,
        "file_size_in_bytes": size,
        "split_offsets": [4 + size * group // groups for group in range(groups)],
        "lower_bounds": {**sample.lower_bounds, key.field_id: to_bytes(key.field_type, low)},
        "upper_bounds": {**sample.upper_bounds, key.field_id: to_bytes(key.field_type, high)},
    }
    same = {column.name: getattr(sample, column.name) for column in DATA_FILE_TYPE[DEFAULT_READ_VERSION].fields}
    entry = DataFile.from_args(**(same | own))
    entry.spec_id = sample.spec_id
    return entry


def _parts_of(lake: Lakehouse, rows: int) -> int:
    """Return in how many parts of the target size the scores of a population are."""
    return math.ceil(lake.files_for("gold.usual", rows))


def plan_population(home: Path, kind: str) -> list[Record]:
    """Plan the reading, deal the files out, and group them for the search of repeated keys."""
    table, contract = f"silver.{kind}", _contract()
    with _lake(home) as lake:
        with _cost() as planning:
            plan = population_plan(lake, contract, table, None)
        with _cost() as planning_keys:
            keys = lake.plan(table, [contract.entity_key], plan.snapshot.id, ranges_of=[contract.entity_key])
        with _cost() as dealing:
            shares = plan.shares(_parts_of(lake, plan.snapshot.rows))
        with _cost() as grouping:
            groups = key_groups(keys, contract.entity_key)
        reads = sum(_reads(kind, group) * sum(file.rows for file in group.files) for group in groups)
        reads /= plan.snapshot.rows
        speed = _keys_per_second(lake, contract.entity_key, groups[0])
        kilobytes = [len(pickle.dumps(share)) / 1e3 for share in shares]
    sent = sum(kilobytes) / 1e3
    return [
        Record(
            f"plan, {kind}",
            len(plan.files),
            **asdict(planning),
            figures={"rows": plan.snapshot.rows, "reader_kb": len(pickle.dumps(plan.reader)) / 1e3},
        ),
        Record(f"plan of the keys, {kind}", len(keys.files), **asdict(planning_keys)),
        Record(
            f"shares, {kind}",
            len(shares),
            **asdict(dealing),
            sent_mb=sent,
            figures={
                "largest_kb": max(kilobytes),
                "kb_per_file": sent * 1e3 / len(plan.files),
                "largest_rows": max(share.rows for share in shares),
            },
        ),
        Record(
            f"key groups, {kind}",
            len(groups),
            **asdict(grouping),
            sent_mb=_megabytes(pickle.dumps(groups[0])) * len(groups),
            figures={
                "largest_files": max(len(group.files) for group in groups),
                "reads_of_each_key": reads,
                "keys_per_second": speed,
                "core_hours": reads * plan.snapshot.rows / speed / 3600,
            },
        ),
    ]


def _reads(kind: str, group: KeyGroup) -> int:
    """Return how often each key of a group is read: once to see that they ascend, or else dealt out and read again."""
    return 1 if group.hashes == 1 or kind == "large" else 3


def _keys_per_second(lake: Lakehouse, key: str, group: KeyGroup) -> float:
    """Return how many keys of real files are looked through, as those of a group would be, in a second of CPU."""
    plan = lake.plan("silver.usual", [key])
    real = replace(group, files=tuple(plan.files))
    repeated_in(plan.reader, key, real)  # warm-up
    begun = time.process_time()
    repeated_in(plan.reader, key, real)
    return plan.snapshot.rows / (time.process_time() - begun)


# --- commits --------------------------------------------------------------------------------------------------------


def commit_parts(home: Path, parts: int) -> list[Record]:
    """Publish a day of many parts, and the same day again."""
    table, where, records = f"gold.of_{parts}_parts", partition_is(PARTITION, DAY), []
    with _lake(home) as lake:
        lake.ensure_table(table, predictions_schema(_contract()), PARTITION)
        for attempt in ("first", "again"):
            addresses, properties = _copies(lake, table, DAY, parts)
            with _cost() as staging:
                staged = stage(lake, table, PARTITION, DAY, addresses, properties)
            with _cost() as planning:
                plan = lake.plan(table, ["customer_id", "churn_probability"], staged.snapshot.id, where=where)
            assert len(plan.files) == parts
            with _cost() as publishing:
                publish(lake, staged)
            records += [
                Record(f"stage, {attempt}", parts, **asdict(staging)),
                Record(f"plan of the audit, {attempt}", parts, **asdict(planning)),
                Record(f"publish, {attempt}", parts, **asdict(publishing)),
            ]
    return records


def year_of_nights(home: Path, sizes: Sizes) -> list[Record]:
    """Publish night after night, each a day of its own, and look at what the last ones and their readers pay."""
    table, seconds = "gold.year", []
    with _lake(home) as lake:
        lake.ensure_table(table, predictions_schema(_contract()), PARTITION)
        for night in range(sizes.nights):
            day = DAY + timedelta(days=night)
            addresses, properties = _copies(lake, table, day, sizes.parts_a_night)
            begun = time.process_time()
            publish(lake, stage(lake, table, PARTITION, day, addresses, {**properties, "scored_on": day.isoformat()}))
            seconds.append(time.process_time() - begun)
        with _cost() as loading:
            loaded = lake.load(table)
        with _cost() as walking:
            nights = published_nights(lake, table)
        with _cost() as planning:
            plan = lake.plan(table, where=partition_is(PARTITION, DAY))
        snapshot = loaded.current_snapshot()
        assert snapshot is not None
        manifests = snapshot.manifests(loaded.io)
    assert (len(nights), len(plan.files)) == (sizes.nights, sizes.parts_a_night)
    metadata = [file.stat().st_size for file in _metadata_files(home, table, "*.metadata.json")]
    compared = min(NIGHTS_COMPARED, sizes.nights)
    ratio = median(seconds[-compared:]) / median(seconds[:compared])
    sent = _megabytes(pickle.dumps(plan.reader))
    return [
        Record("year: nights", sizes.nights, sum(seconds), figures={"last_to_first_ones": ratio}),
        Record(
            "year: metadata.json",
            len(metadata),
            figures={"largest_kb": max(metadata) / 1e3, "all_mb": sum(metadata) / MEGABYTE},
        ),
        Record("year: load of the table", len(loaded.metadata.snapshots), **asdict(loading)),
        Record("year: list of the nights", len(nights), **asdict(walking)),
        Record("year: plan of a day", len(manifests), **asdict(planning), sent_mb=sent),
    ]


def _copies(lake: Lakehouse, table: str, day: date, count: int) -> tuple[list[str], dict[str, str]]:
    """Write a small part of that day and copies of it; return their addresses, and the properties of a real night."""
    real = lake.plan("gold.usual")
    rows = lake.read("gold.usual").slice(0, 1_000)
    days = pa.repeat(pa.scalar(day), len(rows))
    batches = rows.set_column(rows.schema.get_field_index(PARTITION), PARTITION, days).to_batches()
    with lake.parts(table, f"{PARTITION}={day}/", rows.schema, ["customer_id", "churn_probability"]) as parts:
        [first] = parts.write(0, batches)
    others = [first.replace(".parquet", f"-{position:05d}.parquet") for position in range(1, count)]
    for other in others:
        shutil.copyfile(_path(first), _path(other))
    return [first, *others], real.snapshot.properties


# --- what the steps stand on ----------------------------------------------------------------------------------------


@dataclass
class Cost:
    """What a block of code took; filled in at its end."""

    seconds: float = 0.0
    kept_mb: float = 0.0
    peak_mb: float = 0.0


@contextmanager
def _cost() -> Iterator[Cost]:
    cost, before, begun = Cost(), _memory("VmRSS"), time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - begun
    cost.kept_mb, cost.peak_mb = _memory("VmRSS") - before, _memory("VmHWM")


def _memory(name: str) -> float:
    """Return a figure of this process in megabytes: `VmRSS` or, the most it ever was, `VmHWM`."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / MEGABYTE for line in lines if line.startswith(name))


def _lake(home: Path) -> Lakehouse:
    return Lakehouse.open(Settings(home=home, catalog_uri="", warehouse=""))


def _write_files(lake: Lakehouse, table: str, rows: pa.Table, files: int) -> None:
    plain = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in rows.schema]
    lake.ensure_table(table, pa.schema(plain))
    starts = [len(rows) * position // files for position in range(files + 1)]
    slices = [rows.slice(start, end - start) for start, end in pairwise(starts)]
    with lake.parts(table, "", rows.schema) as parts:
        addresses = [parts.write(position, file.to_batches()) for position, file in enumerate(slices)]
        write_whole(lake, table, [*chain.from_iterable(addresses)], {})


def _night(population: str, predictions: str, scorer: Scorer) -> Night:
    at, limits = datetime.now(UTC), Limits(max_shift=1.0, max_rejected_share=0.5)
    return Night(population, predictions, f"{predictions}_rejects", scorer, 1, DAY, at, limits)


def _contract() -> Contract:
    return contract_of(load_declaration(Settings().models / "churn.yaml"), "integer", "1")


def _untrained_scorer() -> Scorer:
    """Return a network of the declared shape with random weights, whose log-odds spread by one.

    Sizes and speed do not depend on what a network has learnt.
    """
    contract, network = _contract(), load_declaration(Settings().models / "churn.yaml").network
    rows = encode_arrow(contract, active_customers(Chunk(0, 20_000), seed=0, as_of=DAY))
    bins = network.bins or bins_by_need(rows.numbers)
    layout, rng = learn_layout(contract, rows, bins), np.random.default_rng(0)
    widths = [layout.width, *network.hidden, 1]
    layers = [
        (rng.normal(0, inputs**-0.5, (inputs, outputs)).astype(np.float32), np.zeros(outputs, np.float32))
        for inputs, outputs in pairwise(widths)
    ]
    scores = Scorer(build_graph(contract, layout, layers)).score(rows)
    last, bias = layers[-1]
    spread = np.std(np.log(scores / (1 - scores)))
    return Scorer(build_graph(contract, layout, [*layers[:-1], (last / spread, bias)]))


def _metadata_files(home: Path, table: str, pattern: str) -> Sequence[Path]:
    return list((home / "lake").joinpath(*table.split("."), "metadata").glob(pattern))


def _path(address: str) -> str:
    return address.removeprefix("file://")


def _megabytes(data: bytes) -> float:
    return len(data) / MEGABYTE


if __name__ == "__main__":
    typer.run(main)
