"""`docs/tutorial.md` works: its commands are run in order, on fewer rows and with a small budget of training."""

import contextlib
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from typer.testing import CliRunner

from assets.resources import Backends
from backends.settings import ROOT, Settings
from bento.building.build import find_bento
from docs.making.pages import Command, blocks_of, commands
from orchestration.cli import app
from tests.lives import SMALL, merged
from tests.processes import program
from tests.serving import free_port, running

PAGE = ROOT / "docs" / "tutorial.md"
pytestmark = pytest.mark.slow
ROWS = 2000
BUDGET = {**SMALL, "gates": {"min_auc": 0.5, "max_calibration_error": 1, "max_rejected_share": 0.1}}


@dataclass
class Reader:
    """Who follows the page, in a folder of their own; `said` is what each command, or block of Python, printed."""

    folder: Path
    port: int
    begun: date = field(default_factory=lambda: datetime.now(UTC).date())
    said: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return Settings()

    def type(self, command: Command) -> None:
        """Run a command as the page has it; what is only to be looked at is looked up in the Makefile elsewhere."""
        words = command.words
        if words[:2] == [".venv/bin/python", "-m"]:
            self.said[command.text] = module(words[2], [*words[3:], "--rows", str(ROWS)])
        elif words[0] == ".venv/bin/tandem":
            self.said[command.text] = verb(words[1:])
            if words[1] == "new":
                self.shorten()
        elif words[0] == "curl":
            self.said[command.text] = self.ask(command.text)
        else:
            assert words[0] == "make", f"the page has a command that nobody tries: {command}"

    def shorten(self) -> None:
        """Give the declaration a small budget, and the port of this test."""
        path = self.folder / "models" / "leaving.yaml"
        raw = merged(yaml.safe_load(path.read_text()), {**BUDGET, "api": {"port": self.port}})
        path.write_text(yaml.safe_dump(raw, sort_keys=False))

    def ask(self, text: str) -> str:
        """Ask the service, which runs for as long as that takes."""
        with running(find_bento(self.settings.bentoml_home, "leaving"), self.settings, self.port) as url:
            asked = text.replace("http://127.0.0.1:3003", url)
            done = subprocess.run(["sh", "-c", f"{asked} --silent"], capture_output=True, text=True, check=True)
        return done.stdout


def module(name: str, arguments: list[str]) -> str:
    """Run a module as `python -m` does."""
    printed, arguments = io.StringIO(), [name, *arguments]
    with patch.dict(sys.modules), patch.object(sys, "argv", arguments), contextlib.redirect_stdout(printed):
        sys.modules.pop(name, None)
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(name, run_name="__main__")
    assert ended.value.code == 0
    return printed.getvalue()


def verb(arguments: list[str]) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, f"tandem {' '.join(arguments)}\n{done.output}\n{done.exception!r}"
    return done.output


@pytest.fixture(scope="module")
def reader(tmp_path_factory, empty_mlflow) -> Iterator[Reader]:
    """Somebody who has followed the page to its end."""
    if not program("curl"):
        pytest.skip("curl is not installed: apt-get install curl")
    folder = tmp_path_factory.mktemp("reader")
    for made in (".tandem", "models"):
        (folder / made).mkdir()
    shutil.copyfile(empty_mlflow, folder / ".tandem" / "mlflow.db")
    shutil.copyfile(ROOT / "models" / "churn.yaml", folder / "models" / "churn.yaml")
    home = {"TANDEM_HOME": str(folder / ".tandem"), "TANDEM_MODELS": str(folder / "models")}
    with patch.dict(os.environ, home), contextlib.chdir(folder):
        reader = Reader(folder, free_port())
        to_type = iter([command for command in commands() if command.where.page == PAGE.name])
        waiting = next(to_type)
        for block in blocks_of(PAGE):
            while waiting and waiting.where == block:
                reader.type(waiting)
                waiting = next(to_type, None)
            if block.language == "python":
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(block.text, f"tutorial.md:{block.line}", "exec"), {})
                reader.said[block.text] = printed.getvalue()
        assert waiting is None
        yield reader


def said(reader: Reader, beginning: str) -> str:
    (found,) = [text for typed, text in reader.said.items() if beginning in typed]
    return found


def test_the_page_says_why_columns_are_left_out(reader):
    shown = said(reader, "tandem new")
    for column, why in (("contract_number", "identifier"), ("currency", "constant"), ("cancelled_on", "leak")):
        assert f"{column}: {why}" in shown
        assert f"{column}: {why}" in PAGE.read_text()


def test_what_is_published_is_what_the_page_reads_and_the_api_answers(reader):
    with Backends(reader.settings).lakehouse() as lake:
        gold = {row["customer_id"]: row for row in lake.read("gold.leaving_predictions").to_pylist()}
    assert len(gold) == ROWS
    (night,) = {row["scored_on"] for row in gold.values()}
    assert reader.begun <= night <= datetime.now(UTC).date()  # midnight may have been between
    answer = json.loads(said(reader, "curl"))
    assert answer["probability"] == pytest.approx(gold[answer["customer_id"]]["leaving_probability"], abs=0)
    assert len(answer["reasons"]) == 3
    read = said(reader, "leaving_predicted")
    best = max(gold.values(), key=lambda row: row["leaving_probability"])
    assert str(best["customer_id"]) in read
    assert str(night) in read
    assert f"{answer['customer_id']}" in said(reader, "tandem explain")


def test_the_answer_on_the_page_has_the_fields_of_an_answer(reader):
    (shown,) = [json.loads(block.text) for block in blocks_of(PAGE) if block.language == "json"]
    answer: dict[str, Any] = json.loads(said(reader, "curl"))
    assert list(shown) == list(answer)
    assert list(shown["reasons"][0]) == list(answer["reasons"][0])


def test_the_next_days_customers_are_written_as_the_page_does(reader):
    with Backends(reader.settings).lakehouse() as lake:
        population = lake.read("silver.leaving_population")
    assert len(population) == ROWS
    assert population["customer_id"].null_count == 0
