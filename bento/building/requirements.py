"""What a service's image installs: a few packages and all that they need, as they are installed here, with hashes."""

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from backends.settings import ROOT
from models.errors import ImageError

REQUIREMENTS = (
    "bentoml",
    "grpcio",
    "grpcio-health-checking",
    "grpcio-reflection",
    "hiredis",
    "httptools",
    "lmdb",
    "numpy",
    "onnxruntime",
    "opentelemetry-exporter-otlp-proto-http",
    "pydantic",
    "pydantic-settings",
    "uvloop",
)
REQUIREMENTS_FILE = "requirements.txt"  # in the folder that a Bento is built from; it goes into the Bento's `env/`
LINUX = {"os_name": "posix", "sys_platform": "linux", "platform_system": "Linux"}
LOCKED = re.compile(r"^([a-z0-9][a-z0-9.-]*)==([^\s;]+)[^\n]*\n((?:[ ]+--hash=[^\n]+\n)+)", re.MULTILINE)


def pinned_requirements() -> str:
    """Return a requirements file of all that a service needs, and of all that this needs in turn.

    Each package has the version that is installed here, and the hashes of `requirements.lock` where that names the same
    version. What is not installed here, because this is another platform than the image's, is left to the installer.
    `ImageError` when a package is missing that the service itself imports.
    """
    hashes = _locked_hashes()
    packages = sorted(_with_their_needs(REQUIREMENTS).items())
    lines = [" \\\n    ".join([f"{name}=={version}", *hashes.get((name, version), ())]) for name, version in packages]
    return "\n".join(lines) + "\n"


def without_hashes(requirements: str) -> str:
    """Return the same requirements, shorter: a line each, with name and version only."""
    lines = [line for line in requirements.splitlines() if not line.startswith(" ")]
    return "".join(line.removesuffix(" \\") + "\n" for line in lines)


def _with_their_needs(requirements: Iterable[str]) -> Mapping[str, str]:
    """Return names and installed versions of some packages and of all that they need on Linux."""
    found: dict[str, str] = {}
    pending = [Requirement(requirement) for requirement in requirements]
    if missing := [requirement.name for requirement in pending if _installed(requirement.name) is None]:
        raise ImageError(f"{', '.join(missing)}: not installed here, but a service needs it. Run `make setup`.")
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        requirement = pending.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        installed = _installed(name)
        if (name, extras) in seen or installed is None:
            continue
        seen.add((name, extras))
        found[name] = installed.version
        pending += [need for need in map(Requirement, installed.requires or ()) if _applies(need, extras)]
    return found


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    """Say whether the image needs what a package with some extras asks for."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**LINUX, "extra": extra}) for extra in ("", *extras))


def _locked_hashes() -> Mapping[tuple[str, str], list[str]]:
    """Return the hashes of each name and version in the lock file; none where Tandem is installed without it."""
    lock = ROOT / "requirements.lock"
    locked = LOCKED.findall(lock.read_text()) if lock.is_file() else []
    return {(name, version): re.findall(r"--hash=\S+", hashes) for name, version, hashes in locked}
