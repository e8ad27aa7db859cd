"""One lake with published nights, for all tests that only read it, and each engine that reads."""

from collections.abc import Iterator

import pytest

from backends.lakehouse.catalog import Lakehouse
from backends.settings import Settings
from tests.readers.engines import ENGINES, Engine, installed
from tests.readers.published import Gold, publish_nights


@pytest.fixture(scope="session")
def gold(tmp_path_factory) -> Iterator[Gold]:
    settings = Settings(home=tmp_path_factory.mktemp("gold") / "tandem's höme", threads=2)
    with Lakehouse.open(settings) as lake:
        yield publish_nights(lake)


@pytest.fixture(params=ENGINES)
def engine(request) -> Engine:
    """Each reader in turn; one that is not installed is skipped."""
    return installed(request.param)
