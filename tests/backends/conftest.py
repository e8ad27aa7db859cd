"""Real backends in a temporary folder; nothing of the developer's own environment is reached."""

import os
from collections.abc import Iterator

import pytest

from backends.lakehouse import Lakehouse
from backends.settings import Settings


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("TANDEM_")]:
            patch.delenv(name)
        yield


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path / "tandem's höme", threads=2)


@pytest.fixture
def lake(settings) -> Iterator[Lakehouse]:
    with Lakehouse.open(settings) as lake:
        yield lake
