"""The one folder that everything is made in, prepared for every tool that keeps files of its own."""

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path

import yaml

from backends.settings import QUIET, ROOT, Settings, without_secrets
from models.errors import HomeError

POSTGRES = "DAGSTER_PG_URL"  # what dagster.yaml reads the address from: it has a password, and stands in no file
STORAGE = f"storage: {{postgres: {{postgres_url: {{env: {POSTGRES}}}}}}}\n"
SEAL = "# As shipped: "  # and the digest of all that follows; a copy without it, or with a wrong one, was changed
FIRST_RELEASE = "37c62016a0cf26ddd863f4d02cc6962224772e5fa0435fb74ad4cb7fb22b765b"  # had no seal yet


def prepare(settings: Settings) -> dict[str, str]:
    """Make the folder ready and return the environment that points every tool at it; telemetry is off in it.

    `HomeError` when Dagster's configuration there was changed and contradicts the settings.
    """
    storage = _storage(settings)
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    settings.bentoml_home.mkdir(parents=True, exist_ok=True)
    _configure(settings.dagster_home / "dagster.yaml", STORAGE if storage else "")
    environment = {
        **QUIET,
        "TANDEM_HOME": str(settings.home),
        "DAGSTER_HOME": str(settings.dagster_home),
        "BENTOML_HOME": str(settings.bentoml_home),
        **storage,
    }
    os.environ.update(environment)
    return environment


def is_as_shipped(text: str) -> bool:
    """Whether nobody has changed a dagster.yaml since Tandem wrote it."""
    first, _, rest = text.partition("\n")
    return first == SEAL + _digest(rest) or _digest(text) == FIRST_RELEASE


def _configure(path: Path, storage: str) -> None:
    """Write dagster.yaml, or bring it up to date; one that a person has changed is only checked."""
    shipped = (ROOT / "deploy" / "dagster.yaml").read_text() + ("\n" + storage if storage else "")
    wanted = f"{SEAL}{_digest(shipped)}\n{shipped}"
    there = path.read_text() if path.exists() else None
    if there is not None and not is_as_shipped(there):
        _check(path, there, storage)
    elif there != wanted:
        fresh = path.with_name(f"dagster.yaml.{os.getpid()}")
        fresh.write_text(wanted)
        fresh.replace(path)


def _check(path: Path, text: str, storage: str) -> None:
    """Refuse a changed dagster.yaml that would keep Dagster's history elsewhere than the settings say."""
    remedy = "Or delete the file: the next start writes it as shipped."
    try:
        raw = yaml.safe_load(text) or {}
        has_postgres = POSTGRES in str(raw.get("storage"))
    except (yaml.YAMLError, AttributeError) as error:
        raise HomeError(f"{path} was changed and cannot be read: {error}. Mend it. {remedy}") from error
    if storage and not has_postgres:
        raise HomeError(
            f"TANDEM_DAGSTER_STORAGE names a PostgreSQL, but {path} was changed and does not use it. "
            f"Add the line `{storage.strip()}`. {remedy}"
        )
    if has_postgres and not storage:
        raise HomeError(f"{path} keeps runs in PostgreSQL, but TANDEM_DAGSTER_STORAGE is not set. Set it. {remedy}")


def _storage(settings: Settings) -> dict[str, str]:
    """Return the variable that dagster.yaml names, with SQLAlchemy's name of the driver; empty with SQLite."""
    url = settings.dagster_storage.get_secret_value()
    if not url:
        return {}
    scheme, separator, rest = url.partition("://")
    if scheme not in ("postgresql", "postgres", "postgresql+psycopg2") or not separator:
        raise HomeError(
            f"TANDEM_DAGSTER_STORAGE is {without_secrets(url)!r}, which is no PostgreSQL. "
            "Write postgresql://user:password@host:5432/database, or unset it for SQLite."
        )
    if find_spec("dagster_postgres") is None:
        raise HomeError(
            "TANDEM_DAGSTER_STORAGE needs the package dagster-postgres. Install Tandem with its extra `postgres`."
        )
    return {POSTGRES: f"postgresql+psycopg2://{rest}"}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
