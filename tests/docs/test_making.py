"""The program that follows the tutorial is nobody in particular: it has the settings that a reader has."""

import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from backends.settings import ROOT
from docs.making.tutorial import Reader


@pytest.fixture
def reader(tmp_path, monkeypatch) -> Iterator[Reader]:
    """A reader whose page is followed by somebody with settings of their own."""
    monkeypatch.setenv("TANDEM_ONLINE_STORE", "redis://elsewhere:6379/0")
    monkeypatch.setenv("TANDEM_API_URL", "https://elsewhere")
    monkeypatch.setenv("DAGSTER_HOME", "/elsewhere")
    with patch.dict(os.environ):
        yield Reader(tmp_path / "reader")


def test_nothing_that_a_reader_types_knows_the_settings_of_whoever_follows_the_page(reader):
    reader.follow("sh", "env")
    assert "elsewhere" not in reader.follow("text", "")
    assert "TANDEM_HOME=.tandem\n" in reader.said + "\n"  # the folder is taken out, as on the page


def test_the_services_of_a_reader_are_those_of_the_readers_home(reader):
    settings = reader.settings
    assert settings.home == reader.folder / ".tandem"
    assert settings.online == f"lmdb://{reader.folder}/.tandem/online"
    assert settings.url_of_api("leaving", 3003) == "http://127.0.0.1:3003"


def test_a_reader_has_the_declarations_and_the_code_that_is_installed(reader):
    there = ROOT / "models"
    assert {path.name for path in (reader.folder / "models").iterdir()} == {path.name for path in there.glob("*.yaml")}
    reader.follow("python", "import models.training; print(models.__file__)")
    assert reader.said == f"{there / '__init__.py'}\n"
