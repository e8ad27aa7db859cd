"""From files of logged requests to the table: each row once, whatever crashes, and nothing lost that cannot be read."""

import fcntl
import json
import os
import shutil
import time
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from backends.lakehouse.appending import append
from backends.lakehouse.catalog import Lakehouse
from backends.request_logs import carry_requests, forget_requests
from bento.observing.request_files import RequestFiles
from bento.observing.request_log import MAX_ROWS, Answered, RequestLog
from bento.observing.watch import Scored
from models.contract import Contract, NumberFeature
from models.encoding import encode_arrow, encode_rows
from models.errors import PublishConflictError
from models.request_record import record_columns
from models.scoring import Scorer
from tests.tiny_model import FEATURES, tiny_contract, tiny_onnx, tiny_rows

TABLE = "silver.tiny_requests"
AT = datetime(2026, 11, 25, 23, 59, 59, 500_000, tzinfo=UTC).timestamp()
AS_OF = np.datetime64("2026-11-25T02:00:00.125", "ms")


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "logged" / "tiny"


def answered(contract: Contract, rows: int, at: float = AT, seed: int = 0, keys: Any = None) -> Answered:
    """Return one request as it was scored; every third row sent its features, and has neither key nor time."""
    encoded = encode_rows(contract, tiny_rows(contract, rows, seed))
    scorer = Scorer(tiny_onnx(contract))
    scores, stored = scorer.score(encoded), np.arange(rows) % 3 != 0
    scored = Scored(
        positions=range(rows),
        keys=keys or [i if stored[i] else None for i in range(rows)],
        rows=encoded,
        event_times=np.where(stored, AS_OF, np.datetime64("NaT", "ms")).astype(np.int64).tolist(),
        stale=(np.arange(rows) % 2 == 0).tolist(),
        scores=scores.tolist(),
        decisions=scorer.decide(scores).tolist(),
        now=0,
    )
    return Answered("rest", f"request-{seed}", at, scored)


def logged(folder: Path, *requests: Answered, contract: Contract | None = None, version: str = "3") -> Counter[str]:
    """Log requests as a worker does, up to its end; return how many rows had which outcome."""
    counts: Counter[str] = Counter()
    files = RequestFiles(folder, 10**9)
    log = RequestLog(contract or tiny_contract(), version, "ab" * 32, 1.0, files, lambda o, n: counts.update({o: n}))
    for request in requests:
        log.offer(request)
    log.close()
    return counts


def rows_of(lake: Lakehouse) -> list[dict[str, Any]]:
    return sorted(lake.read(TABLE).to_pylist(), key=lambda row: (row["request_id"], row["position"]))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


# --- what lands ----------------------------------------------------------------------------------------------------


def test_what_was_scored_lands_so_that_scoring_it_again_gives_the_same_bits(lake, folder):
    contract, request = tiny_contract(), answered(tiny_contract(), 200)
    assert logged(folder, request) == {"written": 200}
    carried = carry_requests(lake, TABLE, folder)
    assert (carried.files, carried.rows, carried.bad_lines, carried.problems) == (1, 200, 0, [])
    table = lake.read(TABLE).sort_by("position")
    encoded = encode_arrow(contract, table)
    np.testing.assert_array_equal(encoded.numbers, request.scored.rows.numbers)
    np.testing.assert_array_equal(encoded.categories, request.scored.rows.categories)
    np.testing.assert_array_equal(Scorer(tiny_onnx(contract)).score(encoded), table[contract.output].to_numpy())
    assert "other" in table["plan"].to_pylist()
    assert table["tiny_predicted"].to_pylist() == request.scored.decisions


def test_a_row_says_who_asked_what_when_and_which_model_answered(lake, folder):
    logged(folder, answered(tiny_contract(), 2))
    carry_requests(lake, TABLE, folder)
    sent, stored = rows_of(lake)
    assert (sent["customer_id"], sent["features_as_of"]) == (None, None)
    expected = {
        "customer_id": 1,
        "requested_at": datetime.fromtimestamp(AT, UTC),
        "request_id": "request-0",
        "position": 1,
        "protocol": "rest",
        "features_as_of": datetime(2026, 11, 25, 2, 0, 0, 125_000, tzinfo=UTC),
        "features_stale": False,
        "model_version": 3,
        "model_sha256": "ab" * 32,
        "requested_on": datetime(2026, 11, 25, tzinfo=UTC).date(),
    }
    assert expected.items() <= stored.items()


def test_rows_of_two_days_are_two_partitions(lake, folder):
    logged(folder, answered(tiny_contract(), 3), answered(tiny_contract(), 4, at=AT + 1, seed=1))
    carry_requests(lake, TABLE, folder)
    days = Counter(row["requested_on"].isoformat() for row in rows_of(lake))
    assert days == {"2026-11-25": 3, "2026-11-26": 4}
    spec = lake.load(TABLE).spec()
    assert [field.name for field in spec.fields] == ["requested_on"]
    assert lake.snapshot(TABLE).properties["request_files"].count(".jsonl") == 1


def test_keys_may_be_texts(lake, folder):
    contract = tiny_contract(entity_key_type="string")
    logged(folder, answered(contract, 2, keys=["ä", None]), contract=contract)
    carry_requests(lake, TABLE, folder)
    assert [row["customer_id"] for row in rows_of(lake)] == ["ä", None]


def test_a_feature_may_be_called_like_a_column_of_the_log(lake, folder):
    number = NumberFeature(kind="number", min=0, max=9)
    contract = tiny_contract(features={"protocol": number, "protocol_": number, "requested_on": number, **FEATURES})
    assert [c.name for c in record_columns(contract)][-8:-5] == ["protocol__", "protocol_", "requested_on_"]
    logged(folder, answered(contract, 3), contract=contract)
    assert carry_requests(lake, TABLE, folder).rows == 3


# --- once ----------------------------------------------------------------------------------------------------------


def test_a_second_run_adds_nothing(lake, folder):
    logged(folder, answered(tiny_contract(), 5))
    first = carry_requests(lake, TABLE, folder)
    again = carry_requests(lake, TABLE, folder)
    assert (again.files, again.rows) == (0, 0)
    assert again.snapshot == first.snapshot == lake.snapshot(TABLE)
    assert names(folder) == []


def test_a_folder_that_is_not_there_is_an_empty_one(lake, folder):
    assert carry_requests(lake, TABLE, folder).snapshot is None


def test_a_crash_between_the_commit_and_the_deletion_doubles_nothing(lake, folder, tmp_path):
    logged(folder, answered(tiny_contract(), 5))
    logged(folder, answered(tiny_contract(), 6, seed=1))
    shutil.copytree(folder, tmp_path / "before")
    carry_requests(lake, TABLE, folder)
    shutil.copytree(tmp_path / "before", folder, dirs_exist_ok=True)  # as if they had not been deleted
    logged(folder, answered(tiny_contract(), 7, seed=2))
    assert carry_requests(lake, TABLE, folder).rows == 7
    assert Counter(row["request_id"] for row in rows_of(lake)) == {"request-0": 5, "request-1": 6, "request-2": 7}
    assert names(folder) == []


def test_of_two_runs_at_once_the_second_adds_nothing(lake, folder):
    logged(folder, answered(tiny_contract(), 5))
    carry_requests(lake, TABLE, folder)
    base = lake.snapshot(TABLE)
    logged(folder, answered(tiny_contract(), 6, seed=1))
    carry_requests(lake, TABLE, folder)
    with pytest.raises(PublishConflictError, match="changed by somebody else"):
        append(lake, TABLE, [], {}, base)


def test_many_files_are_several_commits(lake, folder, monkeypatch):
    monkeypatch.setattr("backends.request_logs.MOST_FILES", 2)
    for seed in range(5):
        logged(folder, answered(tiny_contract(), 2, seed=seed))
    assert carry_requests(lake, TABLE, folder).files == 5
    assert len(rows_of(lake)) == 10
    assert len(json.loads(lake.snapshot(TABLE).properties["request_files"])) == 1


def test_what_a_killed_worker_left_is_taken_and_what_a_live_one_writes_is_not(lake, folder):
    logged(folder, answered(tiny_contract(), 5))
    logged(folder, answered(tiny_contract(), 6, seed=1))
    dead, alive = (path.rename(path.with_suffix(".open")) for path in sorted(folder.iterdir()))
    dead.write_bytes(dead.read_bytes()[:-10])  # a line that was cut off
    for path in (dead, alive):
        os.utime(path, (time.time() - 3600,) * 2)
    with alive.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        carried = carry_requests(lake, TABLE, folder)
    assert len(rows_of(lake)) in (4, 5)
    assert carried.bad_lines == 1
    assert names(folder) == [alive.name]


def test_a_file_that_was_just_begun_is_not_taken_for_a_dead_one(lake, folder):
    files = RequestFiles(folder, 10**9)
    files.write(record_columns(tiny_contract()), [])
    carry_requests(lake, TABLE, folder)
    assert [name.endswith(".open") for name in names(folder)] == [True]
    files.finish()
    assert carry_requests(lake, TABLE, folder).files == 1


def test_old_days_are_forgotten_and_what_was_taken_is_not_taken_again(lake, folder, tmp_path):
    logged(folder, answered(tiny_contract(), 3))
    logged(folder, answered(tiny_contract(), 4, at=AT + 1, seed=1))
    shutil.copytree(folder, tmp_path / "before")
    carry_requests(lake, TABLE, folder)
    assert forget_requests(lake, TABLE, date(2026, 11, 25)) == 0
    assert forget_requests(lake, TABLE, date(2026, 11, 26)) == 3
    assert {row["request_id"] for row in rows_of(lake)} == {"request-1"}
    shutil.copytree(tmp_path / "before", folder, dirs_exist_ok=True)
    assert carry_requests(lake, TABLE, folder).rows == 0
    assert len(rows_of(lake)) == 4


def test_where_there_is_no_table_nothing_is_forgotten(lake):
    assert forget_requests(lake, TABLE, date(2026, 11, 26)) == 0


# --- what cannot be read ------------------------------------------------------------------------------------------


def spoiled(line: bytes, column: int, value: Any) -> bytes:
    row = json.loads(line)
    row[column] = value
    return json.dumps(row).encode() + b"\n"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line[: len(line) // 2] + b"\n",
        lambda line: b"\xff\xfe\x00\n",
        lambda line: b"{}\n",
        lambda line: b"null\n",
        lambda line: b"\n",
        lambda line: b"[1,2]\n",
        lambda line: spoiled(line, 0, 1.5),
        lambda line: spoiled(line, 0, 2**70),
        lambda line: spoiled(line, 1, None),  # no time, no day
        lambda line: spoiled(line, 1, "yesterday"),
        lambda line: spoiled(line, 5, "high"),
        lambda line: spoiled(line, 6, 1),
        lambda line: spoiled(line, 3, 2**40),
        lambda line: spoiled(line, -1, 7),
        lambda line: line.replace(b"true", b"NaN").replace(b"false", b"NaN"),
    ],
)
def test_a_line_that_is_no_row_is_set_aside_and_the_others_land(lake, folder, spoil):
    logged(folder, answered(tiny_contract(), 5))
    (path,) = folder.iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    bad = spoil(lines[2])
    path.write_bytes(b"".join([*lines[:2], bad, *lines[3:]]))
    carried = carry_requests(lake, TABLE, folder)
    assert (carried.rows, carried.bad_lines) == (4, 1)
    assert [row["position"] for row in rows_of(lake)] == [0, 2, 3, 4]
    assert (folder / "bad" / path.name).read_bytes() == bad
    assert carried.problems == [problem for problem in carried.problems if path.name in problem]


@pytest.mark.parametrize("first", [b"", b"nonsense\n", b'{"format": 2, "columns": []}\n', b'{"format": 1}\n'])
def test_a_file_that_does_not_say_its_columns_is_set_aside_as_a_whole(lake, folder, first):
    logged(folder, answered(tiny_contract(), 2))
    (path,) = folder.iterdir()
    path.write_bytes(first + path.read_bytes().split(b"\n", 1)[1])
    logged(folder, answered(tiny_contract(), 3, seed=1))
    carried = carry_requests(lake, TABLE, folder)
    assert carried.rows == 3
    assert "names no columns" in carried.problems[0]
    assert (folder / "bad" / path.name).exists()
    assert names(folder) == []


# --- other versions of the model ------------------------------------------------------------------------------------


def test_a_feature_that_a_later_version_has_is_null_in_older_rows(lake, folder):
    logged(folder, answered(tiny_contract(), 2))
    carry_requests(lake, TABLE, folder)
    later = tiny_contract(features={**FEATURES, "visits": NumberFeature(kind="number", min=0, max=9)})
    logged(folder, answered(tiny_contract(), 2, seed=1), answered(tiny_contract(), 1, seed=2))
    logged(folder, answered(later, 2, seed=3), contract=later, version="4")
    carry_requests(lake, TABLE, folder)
    visits = [(row["request_id"][-1], row["visits"] is None) for row in rows_of(lake)]
    assert visits == [("0", True), ("0", True), ("1", True), ("1", True), ("2", True), ("3", False), ("3", False)]


def test_a_feature_that_becomes_another_kind_is_set_aside_and_said(lake, folder):
    logged(folder, answered(tiny_contract(), 2))
    carry_requests(lake, TABLE, folder)
    later = tiny_contract(features={**FEATURES, "plan": NumberFeature(kind="number", min=0, max=9)})
    logged(folder, answered(later, 2, seed=1), contract=later, version="4")
    carried = carry_requests(lake, TABLE, folder)
    assert (carried.rows, len(rows_of(lake))) == (0, 2)
    assert "its column 'plan' is float, but string in silver.tiny_requests" in carried.problems[0]


# --- what the writer does when it cannot ---------------------------------------------------------------------------


def test_a_full_buffer_drops_and_counts_and_never_waits(folder):
    request = answered(tiny_contract(), 1000)
    surplus = 3
    counts = logged(folder, *[request] * (MAX_ROWS // 1000 + surplus))
    assert counts == {"written": MAX_ROWS, "dropped": surplus * 1000}


def test_a_full_folder_drops_and_counts(folder):
    counts: Counter[str] = Counter()
    logged(folder, answered(tiny_contract(), 10))
    files = RequestFiles(folder, max_bytes=100)
    log = RequestLog(tiny_contract(), "3", "ab" * 32, 1.0, files, lambda o, n: counts.update({o: n}))
    log.offer(answered(tiny_contract(), 10))
    log.close()
    assert counts == {"dropped": 10}
    assert len(names(folder)) == 1


def test_a_folder_that_cannot_be_written_fails_and_counts(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert logged(tmp_path / "file" / "tiny", answered(tiny_contract(), 10)) == {"failed": 10}


def test_files_are_for_their_owner_alone(folder):
    logged(folder, answered(tiny_contract(), 1))
    (path,) = folder.iterdir()
    assert (path.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)


def test_rows_that_were_refused_for_their_age_can_be_left_out(folder):
    request = answered(tiny_contract(), 5)
    fresh = request.scored.fresh()
    assert (fresh.positions, len(fresh.rows), fresh.stale) == ([1, 3], 2, [False, False])
    assert fresh.fresh() is fresh
    assert logged(folder, request._replace(scored=fresh)) == {"written": 2}


def test_about_the_declared_share_is_drawn():
    def draws(share: float) -> int:
        log = RequestLog(tiny_contract(), "3", "ab" * 32, share, RequestFiles(Path(), 1), lambda o, n: None)
        return sum(log.wants() for _ in range(10_000))

    assert (draws(0), draws(1)) == (0, 10_000)
    assert 800 < draws(0.1) < 1200


def test_a_table_of_requests_is_plain_arrow_to_its_readers(lake, folder):
    logged(folder, answered(tiny_contract(), 1))
    carry_requests(lake, TABLE, folder)
    types = {field.name: str(field.type).removeprefix("large_") for field in lake.schema(TABLE)}
    assert types["balance"] == types["tiny_probability"] == "float"
    assert types["plan"] == types["model_sha256"] == "string"
    assert types["requested_at"] == "timestamp[us, tz=UTC]"
    assert pa.types.is_date32(lake.schema(TABLE).field("requested_on").type)
