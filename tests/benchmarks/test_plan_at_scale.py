"""The figures of a plan past one machine, at tiny sizes: each step measures what it says."""

import gc
import json

import pytest

from benchmarks.plan_at_scale import Record, Sizes, in_a_process, measure, plan_population, show

SIZES = Sizes(rows=20_000_000, files=40, night_rows=5_000, tiny_files=10, parts=(3,), nights=3, parts_a_night=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("a scratch höme")


@pytest.fixture(scope="module")
def records(home) -> dict[str, Record]:
    gc.freeze()  # each step collects garbage, and would look through all that other tests have imported
    return {record.step: record for record in measure(home, SIZES, lambda step, *arguments: step(*arguments))}


@pytest.mark.parametrize("kind", ["sorted", "unsorted", "large"])
def test_the_plan_has_every_file_and_row_of_the_population(records, kind):
    written, plan, shares = records[f"write manifests, {kind}"], records[f"plan, {kind}"], records[f"shares, {kind}"]
    assert written.count == (1 if kind == "large" else SIZES.files)
    assert plan.count >= written.count
    assert plan.figures["rows"] == SIZES.rows
    assert SIZES.rows / shares.count <= shares.figures["largest_rows"] <= SIZES.rows


def test_only_files_whose_keys_meet_are_read_again_for_repeated_keys(records):
    in_order, in_none = records["key groups, sorted"].figures, records["key groups, unsorted"].figures
    assert (in_order["reads_of_each_key"], in_order["largest_files"]) == (1, 4)
    assert in_none["reads_of_each_key"] > 1
    assert in_none["largest_files"] == SIZES.files


def test_a_night_has_as_many_parts_as_its_files_allow(records):
    assert records["night, one"].figures["parts"] == 1
    assert 1 < records["night, tiny"].figures["parts"] <= SIZES.tiny_files
    assert records["night, shuffled"].figures["bytes_per_row"] > records["night, usual"].figures["bytes_per_row"]


def test_the_network_travels_with_the_function_and_not_with_each_task(records):
    sent = records["usual: score_share"].figures
    assert sent["function_kb"] > 100 > sent["task_kb"]


def test_every_commit_is_measured_for_a_new_day_and_for_the_same_day_again(records):
    steps = [
        f"{step}, {attempt}" for step in ("stage", "plan of the audit", "publish") for attempt in ("first", "again")
    ]
    assert all(records[step].count == 3 and records[step].seconds > 0 for step in steps)


def test_a_year_leaves_one_manifest_and_three_metadata_files_a_night(records):
    assert records["year: list of the nights"].count == SIZES.nights
    assert records["year: plan of a day"].count == SIZES.nights
    assert records["year: metadata.json"].count >= 3 * SIZES.nights


def test_a_step_can_have_a_process_of_its_own(home, records):
    [plan, *_] = in_a_process(plan_population, home, "sorted")
    assert plan.figures["rows"] == records["plan, sorted"].figures["rows"]


def test_the_records_are_shown_and_written(tmp_path, records, capsys):
    show("a title", list(records.values()), tmp_path / "records.json")
    shown = capsys.readouterr().out
    assert all(step in shown for step in records)
    assert [record["step"] for record in json.loads((tmp_path / "records.json").read_text())] == list(records)
