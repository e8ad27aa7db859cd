"""Every command and every piece of Python on the pages works: it is run in a small home, or says below why not.

The tutorial's own are run by `test_tutorial.py`, in the order in which a reader types them.
"""

import contextlib
import io
import re

import pyarrow as pa
import pytest
from pyiceberg.utils.config import Config
from typer.testing import CliRunner

from assets.resources import Backends
from backends.settings import ROOT, Settings
from docs.making.pages import Command, blocks, commands
from orchestration.cli import app
from orchestration.operations import possible_rollbacks
from tests.docs.house import GOLD

# How a command begins -> why it is not run, and who tries instead what it does. `*.py` are files below `tests/`.
NOT_RUN = {
    "tandem demo-weeks": "minutes: demo/test_weeks.py",
    "tandem new ": "a file of the reader's own: docs/test_tutorial.py and onboarding/test_new_model.py have some",
    "tandem run ": "a training: docs/test_tutorial.py",
    "tandem explain telco ": "a file that is not ours to ship: docs/test_tutorial.py explains a customer of its own",
    "docker": "an engine, and root: bento/building/test_container.py runs the image as the page does",
    "curl http://127.0.0.1:3000/": "the container's: bento/building/test_container.py",
    "curl http://127.0.0.1:3001/": "a running service: bento/test_curl.py",
    "curl -s http://127.0.0.1:3001/": "a running service: bento/open_inference/test_page.py",
    "curl http://127.0.0.1:3002/": "a running service of events: bento/test_event_predictor.py reads the page",
    "grpcurl": "a program of its own; the page says that it is not tested",
    "spark-class": "a cluster: backends/test_spark_engine.py starts one in the same way",
    "spark-sql": "a jar from elsewhere; the page says that it is not tested",
    "python -m benchmarks.": "minutes and gigabytes: benchmarks/test_plan_at_scale.py, benchmarks/test_api_records.py",
    ".venv/bin/apprise": "asks hosts elsewhere: backends/test_notifications.py has an inbox",
}
# Pages whose Python needs more than the small home -> the tests that run it.
ELSEWHERE = {
    "reading-the-gold-table.md": "readers/test_reading_page.py",
    "lineage.md": "readers/test_lineage_page.py",
    "promotion.md": "readers/test_promotion_page.py",
    "open-inference.md": "bento/open_inference/test_page.py",
    "tutorial.md": "docs/test_tutorial.py",
}
PYTHON = [block for block in blocks("python") if block.page not in ELSEWHERE]
LISTS = ("rollback", "rollback-model", "promote")  # without `--to` they list what can be named, and end with 1
TANDEM = re.compile(r"^(?:\.venv/bin/)?tandem ")


def named(command: Command) -> str:
    """Return a command as the tables here name it: without the folder of its program."""
    return TANDEM.sub("tandem ", command.text)


def is_told_apart(command: Command) -> bool:
    return any(named(command).startswith(beginning) for beginning in NOT_RUN)


COMMANDS = [command for command in commands() if command.where.page != "tutorial.md"]
EXPORTS = [command for command in COMMANDS if command.words[0] == "export"]
MAKES = [command for command in COMMANDS if re.match(r"(\w+=\S+ )*make ", command.text)]  # see test_make.py
VERBS = [command for command in COMMANDS if TANDEM.match(command.text) and not is_told_apart(command)]


def test_a_command_is_run_or_says_why_not():
    known = {id(command) for command in (*EXPORTS, *MAKES, *VERBS)}
    unknown = [command for command in COMMANDS if id(command) not in known and not is_told_apart(command)]
    assert unknown == []


def test_what_is_not_run_stands_on_a_page_and_names_tests_that_are_there():
    for beginning, why in NOT_RUN.items():
        assert any(named(command).startswith(beginning) for command in COMMANDS), f"{beginning} is on no page any more"
        for file in re.findall(r"[\w/]+\.py", why):
            assert (ROOT / "tests" / file).exists(), f"{beginning}: there is no tests/{file}"


@pytest.mark.parametrize("command", EXPORTS, ids=str)
def test_an_exported_variable_is_a_setting_that_takes_the_value(command, monkeypatch):
    variables = dict(word.split("=", 1) for word in command.words[1:])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
        if name.startswith("TANDEM_"):
            assert name.removeprefix("TANDEM_").lower() in Settings.model_fields
        else:
            assert name.startswith("PYICEBERG_CATALOG__TANDEM__")
    Settings()


def without_reason(command: Command) -> str:
    """Return what tells one verb from another: why somebody did it changes nothing."""
    return re.sub(r" --reason .*", "", " ".join(command.words[1:]))


@pytest.mark.parametrize("command", {without_reason(verb): verb for verb in VERBS}.values(), ids=str)
def test_a_verb_does_what_the_page_says_that_it_can(command, house):
    verb, *arguments = command.words[1:]
    done = CliRunner().invoke(app, [verb, *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), f"{done.exception!r}\n{done.output}"
    lists = verb in LISTS and "--to" not in arguments
    assert done.exit_code == (1 if lists else 0), done.output
    assert done.stdout.strip()


def run(text: str, name: str) -> str:
    """Run a snippet; return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, name, "exec"), {})
    return printed.getvalue()


@pytest.fixture
def pyiceberg(house, monkeypatch) -> None:
    """Let pyiceberg itself know where the house's catalog is, as the pages say."""
    monkeypatch.setenv("PYICEBERG_CATALOG__TANDEM__URI", house.settings.catalog)
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # which it reads once, when it is imported


@pytest.mark.parametrize("page", ELSEWHERE)
def test_snippets_that_are_run_elsewhere_are(page):
    assert [block for block in blocks("python") if block.page == page]
    assert page in (ROOT / "tests" / ELSEWHERE[page]).read_text()


@pytest.mark.parametrize("block", [block for block in PYTHON if block.page != "recipes.md"], ids=str)
def test_python_on_a_page_runs(house, pyiceberg, block):
    run(block.text, str(block))


def test_the_recipe_takes_all_nights_to_another_catalog(house, monkeypatch):
    before = possible_rollbacks(house.settings, "churn")
    elsewhere = f"sqlite:///{house.settings.home}/elsewhere.db"
    monkeypatch.setenv("TANDEM_CATALOG_URI", elsewhere)
    (block,) = [block for block in PYTHON if block.page == "recipes.md"]
    run(block.text, str(block))
    moved = Settings()
    assert moved.catalog == elsewhere
    assert possible_rollbacks(moved, "churn") == before
    (house.settings.home / "catalog.db").rename(house.settings.home / "away.db")
    try:
        assert possible_rollbacks(moved, "churn") == before  # nothing is read from the old one
    finally:
        (house.settings.home / "away.db").rename(house.settings.home / "catalog.db")


SQL_ELSEWHERE = {"reading-the-gold-table.md", "lineage.md"}  # the first says that it is not tested; see ELSEWHERE


@pytest.mark.parametrize("block", [block for block in blocks("sql") if block.page not in SQL_ELSEWHERE], ids=str)
def test_sql_on_a_page_reads_the_gold_table(house, block):
    duckdb = pytest.importorskip("duckdb")
    with Backends(house.settings).lakehouse() as lake:
        rows = lake.read(GOLD)
    reason = pa.struct({"feature": pa.string(), "contribution": pa.float32()})
    why = [[{"feature": "plan", "contribution": 0.5}]] * len(rows)
    with duckdb.connect() as connection:
        connection.register("scores", rows.append_column("reasons", pa.array(why, pa.list_(reason))))
        assert connection.execute(block.text).fetchall()
