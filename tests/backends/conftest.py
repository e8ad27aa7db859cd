"""Real backends in a temporary folder, whose name has what breaks careless addresses."""

from collections.abc import Iterator

import pytest

from backends.lakehouse.catalog import Lakehouse
from backends.settings import Settings


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path / "tandem's höme", threads=2)


@pytest.fixture
def lake(settings) -> Iterator[Lakehouse]:
    with Lakehouse.open(settings) as lake:
        yield lake
