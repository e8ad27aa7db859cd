"""Where Redis is and how to greet it: the address in TANDEM_ONLINE_STORE, taken apart. Nothing is opened here."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from models.errors import OnlineStoreError

WITHIN = 0.01  # seconds for a connection, and for each answer: two of them fit into the API's 15 ms, nearly
PORT = 6379
EXAMPLE = "redis://user:password@host:6379/0"
OPTIONS = (
    "socket_connect_timeout",
    "socket_timeout",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
)
Command = tuple[str | int | bytes, ...]


@dataclass(frozen=True)
class Address:
    """One Redis server, one of its databases, and how long to wait for it. The options have redis-py's names."""

    host: str
    port: int
    database: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    connect_seconds: float = WITHIN
    read_seconds: float = WITHIN

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Read `redis[s]://[[user]:password@]host[:port][/database][?option=value&...]`.

        What is special in user and password is percent-encoded. `OnlineStoreError`, which never shows them, when the
        address cannot be read.
        """
        parts = urlsplit(uri)
        options = _options(parts)
        try:
            host, port, database = parts.hostname, parts.port, int(parts.path.strip("/") or 0)
        except ValueError:
            host, port, database = None, None, -1
        if not host or database < 0:
            raise OnlineStoreError(
                "TANDEM_ONLINE_STORE is no address of a Redis: host, port or database cannot be read. Write it as "
                f"{EXAMPLE}, and encode what is special in user and password (@ is %40, / is %2F)."
            )
        return cls(
            host,
            port or PORT,
            database,
            unquote(parts.username) if parts.username else None,
            unquote(parts.password) if parts.password else None,
            _tls(options) if parts.scheme == "rediss" else None,
            _seconds(options, "socket_connect_timeout"),
            _seconds(options, "socket_timeout"),
        )

    @property
    def greeting(self) -> list[Command]:
        """The commands that a new connection begins with."""
        user = () if self.username is None else (self.username,)
        login: list[Command] = [] if self.password is None else [("AUTH", *user, self.password)]
        return login + ([("SELECT", self.database)] if self.database else [])

    def __str__(self) -> str:
        """Return the address as it may be shown."""
        return f"{self.host}:{self.port}/{self.database}"


def _options(parts: SplitResult) -> dict[str, str]:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := [name for name in options if name not in OPTIONS]:
        raise OnlineStoreError(
            f"TANDEM_ONLINE_STORE has options that are not known: {', '.join(unknown)}. Known: {', '.join(OPTIONS)}."
        )
    return options


def _seconds(options: Mapping[str, str], name: str) -> float:
    try:
        seconds = float(options.get(name, WITHIN))
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise OnlineStoreError(f"{name} in TANDEM_ONLINE_STORE is {options[name]!r}. Give seconds, like {name}=0.01.")
    return seconds


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context that verifies the server, by the system's authorities or by those of `ssl_ca_certs`."""
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if certificate := options.get("ssl_certfile"):
            context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    except OSError as error:  # ssl's own errors are OSErrors
        named = ", ".join(f"{name}={options[name]}" for name in OPTIONS if name in options and name.startswith("ssl_"))
        raise OnlineStoreError(
            f"The certificates that TANDEM_ONLINE_STORE names cannot be read ({error}): {named}. Give PEM files."
        ) from error
    context.check_hostname = options.get("ssl_check_hostname", "true").lower() not in ("false", "0", "no")
    return context
