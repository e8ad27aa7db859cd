"""From a file or a table to a model that is declared and whose tables are loaded: what `tandem new` does."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.settings import Settings
from models.declaration import Declaration, load_declaration
from models.errors import DeclarationError, OnboardingError
from onboarding.baseline import Baseline
from onboarding.declaring import declare, warnings_of
from onboarding.draft import Draft
from onboarding.outcomes import FEW_POSITIVES
from onboarding.profiling import Profiled, Request, profile
from onboarding.sources import bring

if TYPE_CHECKING:
    from backends.lakehouse.catalog import Lakehouse

Say = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """A model that was declared, and what is to be known of it."""

    declaration: Declaration
    path: Path
    profiled: Profiled
    draft: Draft
    baseline: Baseline
    warnings: Sequence[str]


def new_model(settings: Settings, request: Request, say: Say = lambda _: None, today: date | None = None) -> Made:
    """Profile, load and declare; `TandemError` with the remedy for what does not fit, and then nothing is changed."""
    from backends.lakehouse.catalog import Lakehouse

    path, taken = _free_path(settings, request), _ports(settings, request.name)
    with _scratch(settings) as scratch, Lakehouse.open(settings) as lake:
        say("reading")
        staged = bring(request.source, lake, scratch)
        say("profiling")
        found = profile(staged, request)
        say("measuring a baseline")
        declared = declare(request.name, found, taken, today or datetime.now(UTC).date(), scratch / path.name)
        say("loading into Iceberg")
        with _loaded(lake, found, declared.draft, request.replace):
            _put(scratch / path.name, path, request.replace)
    return Made(
        load_declaration(path), path, found, declared.draft, declared.baseline, warnings_of(found, FEW_POSITIVES)
    )


def _free_path(settings: Settings, request: Request) -> Path:
    """Return where the declaration goes; `OnboardingError` when one is there and is not to be replaced."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", request.name):
        raise OnboardingError(
            f"NAME is {request.name!r}. Use lower-case letters, digits and underscores, like churn or card_fraud."
        )
    path = settings.models / f"{request.name}.yaml"
    if path.exists() and not request.replace:
        raise OnboardingError(f"{path} exists. --replace writes it anew, with its tables; or take another name.")
    return path


def _ports(settings: Settings, name: str) -> set[int]:
    """Return the ports of the other models; `OnboardingError` when one of their declarations is broken."""
    others = [path for path in sorted(settings.models.glob("*.yaml")) if path.stem != name]
    try:
        declared = [load_declaration(path) for path in others]
    except DeclarationError as error:
        raise OnboardingError(f"Another declaration is broken, so nothing could run. Mend it first. {error}") from error
    return {port for declaration in declared for port in (declaration.api.port, declaration.api.grpc_port)}


def _loaded(lake: "Lakehouse", found: Profiled, draft: Draft, replace: bool) -> AbstractContextManager[Any]:
    """Load both tables, and put them back when what comes then fails; a table of the catalog may stay as it is."""
    from backends.lakehouse.loading import Incoming, loading

    if draft.population == found.staged.table:
        return nullcontext()
    rows, key = found.rows, (found.key.name,)
    population = Incoming(draft.population, rows.schema, lambda: rows.batches(False, found.population), key)
    examples = Incoming(draft.examples, rows.examples_schema, lambda: rows.batches(True), key)
    return loading(lake, [population, examples], replace)


@contextmanager
def _scratch(settings: Settings) -> Iterator[Path]:
    settings.scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="new-", dir=settings.scratch))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(written: Path, path: Path, replace: bool) -> None:
    """Put a finished file in its place: whoever looks finds all of it, or none; what is there stays, unless told."""
    beside = path.with_name(f".{path.name}.{written.parent.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(written, beside)
        if replace:
            beside.replace(path)
        else:
            _link(beside, path)
    except FileExistsError as error:
        raise OnboardingError(
            f"{path} was written by somebody else meanwhile, and stays theirs. --replace it."
        ) from error
    except OSError as error:
        raise OnboardingError(f"{path} cannot be written: {error}. Mend its folder, and run again.") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _link(beside: Path, path: Path) -> None:
    """Give a file its name, if nobody has it; `FileExistsError` otherwise."""
    try:
        path.hardlink_to(beside)
    except FileExistsError:
        raise
    except OSError as error:  # some file systems have no links
        if path.exists():
            raise FileExistsError(path) from error
        beside.replace(path)
