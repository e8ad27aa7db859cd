"""How a catalog is reached: its properties, how long to wait for it, and what is said when it does not answer.

What tables there are is not known here.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, quote_plus, unquote, urlsplit

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog, SqlCatalogBaseTable
from pyiceberg.exceptions import CommitStateUnknownException, NotInstalledError, RESTError
from pyiceberg.io import FileIO
from pyiceberg.table import Table
from pyiceberg.utils.config import Config
from requests import PreparedRequest, RequestException, Response, Session
from requests.adapters import HTTPAdapter
from sqlalchemy import make_url
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from backends.settings import Settings, without_secrets
from models.errors import LakehouseError

NAME = "tandem"  # the catalog's, in PYICEBERG_CATALOG__TANDEM__* and in the rows of a SQL catalog
CONNECT_SECONDS = 10
ANSWER_SECONDS = 60
LIBPQ = {
    "connect_timeout": str(CONNECT_SECONDS),
    "keepalives_idle": "30",
    "tcp_user_timeout": str(1000 * ANSWER_SECONDS),
}
STORAGE = {"s3.connect-timeout": str(CONNECT_SECONDS), "s3.request-timeout": str(ANSWER_SECONDS)}
SECRET = re.compile("^auth$|authorization|credential|key|password|secret|token", re.IGNORECASE)
UNREACHED = (OSError, SQLAlchemyError, RESTError)  # an error of requests is an OSError


class CommitUnknownError(LakehouseError, CommitStateUnknownException):  # type: ignore[misc]  # pyiceberg's are Any
    """The catalog went away during a commit: whether it took place is not known, so nothing is cleaned up."""


class Connection:
    """A catalog, of any kind, each call of which says what it could not reach, and never a secret."""

    def __init__(self, catalog: Catalog, properties: dict[str, Any]) -> None:
        self._catalog = catalog
        self._properties = properties

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Connect to the catalog that the settings name; `LakehouseError` when it cannot be reached."""
        properties = catalog_properties(settings)
        with _named(properties, (*UNREACHED, ValueError, ImportError, NotInstalledError)):
            return cls(_load(properties), properties)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._catalog, name)
        return self._reaching(found, name) if callable(found) else found

    def _reaching(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def reached(*arguments: Any, **named: Any) -> Any:
            with _named(self._properties, UNREACHED, commits=name == "commit_table"):
                result = call(*arguments, **named)
            if isinstance(result, Table):
                result.catalog = self
            return result

        return reached


class SharedSqlCatalog(SqlCatalog):  # type: ignore[misc]
    """A SQL catalog that several processes may open for the first time at once."""

    def _init_catalog(self) -> None:
        try:
            self._make_tables()
        except SQLAlchemyError:
            self.engine.dispose()
            raise

    def _make_tables(self) -> None:
        for _ in SqlCatalogBaseTable.metadata.tables:
            with suppress(IntegrityError, OperationalError, ProgrammingError):  # another process has made one of them
                super()._init_catalog()
                return
        super()._init_catalog()


class PunctualRestCatalog(RestCatalog):  # type: ignore[misc]
    """A REST catalog that is not waited for without end."""

    def _config_headers(self, session: Session) -> None:
        super()._config_headers(session)
        for scheme in ("http://", "https://"):
            session.mount(scheme, _PunctualAdapter())


class _PunctualAdapter(HTTPAdapter):
    def send(self, request: PreparedRequest, *arguments: Any, **named: Any) -> Response:
        named["timeout"] = named.get("timeout") or (CONNECT_SECONDS, ANSWER_SECONDS)
        return super().send(request, *arguments, **named)


def catalog_properties(settings: Settings) -> dict[str, Any]:
    """Return what pyiceberg is told: its own settings for a catalog named `tandem`, then those of Tandem above them."""
    given = {**(Config().get_catalog_config(NAME) or {}), **settings.catalog_properties}
    uri = settings.catalog_uri or given.get("uri", settings.catalog)
    kind = given.get("type") or ("rest" if uri.startswith(("http://", "https://")) else "sql")
    places = {"type": kind, "uri": uri, "warehouse": settings.warehouse or given.get("warehouse", settings.lake)}
    return {**STORAGE, **_region(given), "pool_pre_ping": "true", **given, **places}


@contextmanager
def storage_named(io: FileIO, address: str) -> Iterator[None]:
    """Turn a storage that does not answer into `LakehouseError`, around work on files that the catalog does not do."""
    with _named({**io.properties, "warehouse": address}, (OSError,)):
        yield


# --- what is reached ------------------------------------------------------------------------------------------------


def _load(properties: dict[str, Any]) -> Catalog:
    if properties["type"] == "rest":
        return PunctualRestCatalog(NAME, **properties)
    if properties["type"] == "sql":
        return SharedSqlCatalog(NAME, **{**properties, "uri": _punctual(properties["uri"])})
    return load_catalog(NAME, **properties)


def _punctual(uri: str) -> str:
    """Return a database's address with limits to waiting, where it has none of its own; make a SQLite file's folder."""
    url = make_url(uri)
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    if url.get_backend_name() == "postgresql" and url.get_driver_name().startswith("psycopg"):
        url = url.set(query={**LIBPQ, **url.query})
    return url.render_as_string(hide_password=False)


def _region(given: dict[str, Any]) -> dict[str, str]:
    # Without a region pyiceberg asks Amazon for the bucket's, whosever the endpoint is.
    return {"s3.region": "us-east-1"} if "s3.endpoint" in given else {}


# --- what is said ---------------------------------------------------------------------------------------------------


@contextmanager
def _named(properties: dict[str, Any], errors: tuple[type[Exception], ...], commits: bool = False) -> Iterator[None]:
    try:
        yield
    except (LakehouseError, IntegrityError):  # the second: somebody else made the same thing in the same moment
        raise
    except errors as error:
        raw, secrets = str(getattr(error, "orig", None) or error), _secrets(properties)
        reason = " ".join(reduce(lambda text, secret: text.replace(secret, "***"), secrets, raw).split())
        failure = _failure(error, reason.rstrip("."), properties, commits)
        raise failure from None if any(secret in str(error) for secret in secrets) else error


def _failure(error: Exception, reason: str, properties: dict[str, Any], commits: bool) -> LakehouseError:
    if isinstance(error, OSError) and not isinstance(error, RequestException):
        endpoint = f" at {properties['s3.endpoint']}" if "s3.endpoint" in properties else ""
        return LakehouseError(
            f"The files in {properties['warehouse']}{endpoint} cannot be read or written: {reason}. Start the storage, "
            "or correct TANDEM_WAREHOUSE and TANDEM_CATALOG_PROPERTIES, and run again."
        )
    catalog = f"The Iceberg catalog at {without_secrets(properties['uri'])}"
    if isinstance(getattr(error, "orig", None), sqlite3.OperationalError):
        return LakehouseError(
            f"{catalog} cannot be read or written: {reason}. Make room for it, or wait until nobody locks it, and run "
            "again."
        )
    if commits and (isinstance(error, CommitStateUnknownException) or not isinstance(error, RESTError)):
        return CommitUnknownError(
            f"{catalog} went away during a commit, which may have taken place: {reason}. Start it, and run again: a "
            "run replaces what an earlier one left."
        )
    return LakehouseError(
        f"{catalog} does not answer as it should: {reason}. Start it, or correct TANDEM_CATALOG_URI and "
        "TANDEM_CATALOG_PROPERTIES, and run again."
    )


def _secrets(properties: dict[str, Any]) -> list[str]:
    """Return every text that must not be shown, as it was given and as an address has it, the longest first."""
    uri = urlsplit(str(properties.get("uri", "")))
    found = [uri.password or "", *(value for _, value in parse_qsl(uri.query)), *_texts(properties)]
    texts = {text for secret in found for text in (secret, unquote(secret), quote_plus(secret)) if len(text) > 3}
    return sorted(texts, key=len, reverse=True)


def _texts(properties: dict[str, Any], secret: bool = False) -> Iterator[str]:
    for name, value in properties.items():
        if isinstance(value, dict):
            yield from _texts(value, secret or bool(SECRET.search(name)))
        elif secret or SECRET.search(name):
            yield str(value)
