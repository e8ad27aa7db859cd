"""A real Redis on loopback, with a password or with TLS, for the tests of a session."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import pytest
import redis

from tests.certificates import self_signed
from tests.processes import Server, program
from tests.serving import free_port

LOOPBACK = "127.0.0.1"
USER, PASSWORD = "tändem", "p@ss/word: 100%"  # what must be encoded in an address
ENCODED = "t%C3%A4ndem", "p%40ss%2Fword%3A%20100%25"
PATIENT = "socket_connect_timeout=60&socket_timeout=60"  # a test's machine may be busy


@dataclass
class RedisServer:
    """A running server, and how it is addressed."""

    server: Server
    port: int

    def uri(self, options: str = PATIENT, database: int = 3) -> str:
        """Address of a database, with user and password."""
        return f"redis://{':'.join(ENCODED)}@{LOOPBACK}:{self.port}/{database}?{options}"

    def client(self, database: int = 3) -> redis.Redis:
        """Return a client that can do everything, to look and to set things up."""
        return redis.Redis(LOOPBACK, self.port, db=database, username=USER, password=PASSWORD)

    def emptied(self) -> "RedisServer":
        """Remove everything that is in it."""
        with self.client() as client:
            client.flushall()
        return self


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Run a Redis that keeps nothing; skip where it is not installed."""
    with _folder() as folder:
        port = free_port()
        acl = folder / "users.acl"
        digest = sha256(PASSWORD.encode()).hexdigest()
        acl.write_text(f"user default off\nuser {USER} on ~* &* +@all #{digest}\n")
        arguments = ["--port", str(port), "--aclfile", str(acl)]
        with Server(_command(*arguments), folder, lambda: _answers(port)) as server:
            yield RedisServer(server, port)


@dataclass(frozen=True)
class TlsRedis:
    """A running server that speaks TLS alone, and the certificate that it shows."""

    port: int
    certificate: Path


@contextmanager
def tls_redis() -> Iterator[TlsRedis]:
    """Run a Redis with a certificate of its own for 127.0.0.1; skip where it or OpenSSL is not installed."""
    with _folder() as folder:
        key, certificate = self_signed(folder)
        port = free_port()
        files = [
            "--tls-cert-file",
            str(certificate),
            "--tls-key-file",
            str(key),
            "--tls-ca-cert-file",
            str(certificate),
        ]
        command = _command("--port", "0", "--tls-port", str(port), *files, "--tls-auth-clients", "no")

        def answers() -> bool:
            return _pings(redis.Redis(LOOPBACK, port, ssl=True, ssl_ca_certs=str(certificate)))

        with Server(command, folder, answers):
            yield TlsRedis(port, certificate)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(mkdtemp(prefix="tandem-redis-"))
    try:
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)


def _command(*arguments: str) -> list[str]:
    binary = program("redis-server")
    if not binary:
        pytest.skip("Redis is not installed: apt-get install redis-server")
    return [binary, "--bind", LOOPBACK, "--save", "", "--appendonly", "no", *arguments]


def _answers(port: int) -> bool:
    return _pings(redis.Redis(LOOPBACK, port, username=USER, password=PASSWORD))


def _pings(client: redis.Redis) -> bool:
    with client:
        try:
            return bool(client.ping())
        except redis.exceptions.ConnectionError:
            return False
