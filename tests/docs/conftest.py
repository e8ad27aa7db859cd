"""The house that the commands of the pages are run in."""

import os
import shutil
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from tests.docs.house import House, build


@pytest.fixture(scope="module")
def built(tmp_path_factory, empty_mlflow) -> House:
    folder = tmp_path_factory.mktemp("house") / "tandem"
    (folder / ".tandem").mkdir(parents=True)
    shutil.copyfile(empty_mlflow, folder / ".tandem" / "mlflow.db")
    return build(folder)


@pytest.fixture
def house(built, monkeypatch) -> Iterator[House]:
    """The house, with nothing moved; the test stands in its folder, and its settings are in the environment."""
    with patch.dict(os.environ, {"TANDEM_HOME": str(built.settings.home), "TANDEM_MODELS": str(built.settings.models)}):
        monkeypatch.chdir(built.folder)
        built.put_right()
        yield built
