"""Real backends in a temporary folder, whose name has what breaks careless addresses."""

from collections.abc import Iterator

import pytest

from backends.lakehouse.catalog import Lakehouse
from backends.settings import Settings
from tests.redis_server import RedisServer, redis_server


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path / "tandem's höme", threads=2)


@pytest.fixture
def lake(settings) -> Iterator[Lakehouse]:
    with Lakehouse.open(settings) as lake:
        yield lake


@pytest.fixture(scope="session")
def _running_redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def redis(_running_redis) -> RedisServer:
    """An empty Redis."""
    return _running_redis.emptied()


@pytest.fixture(params=["lmdb", "redis"])
def online_uri(request, tmp_path) -> str:
    """Address of an empty online store, of each kind."""
    return f"lmdb://{tmp_path}/online" if request.param == "lmdb" else request.getfixturevalue("redis").uri()
