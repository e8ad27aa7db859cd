"""From a Bento to a container image, with `bentoml containerize` and Docker or podman.

BentoML runs in a child process, on a copy of the Bento in a store of its own: the base image is the one that is set
now, not the one that was set when the Bento was built.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from backends.settings import QUIET, Settings
from bento.building.build import BuiltBento
from bento.lineage import MODEL_FILE, Lineage
from models.errors import ImageError, ModelFileError
from models.scoring import sha256_of

ENGINES = ("docker", "podman")  # the order in which they are asked
ANSWER_SECONDS = 60  # within which a container engine says that it is there
MOST_BYTES = 500_000_000
SHOWN = 3000  # characters at the end of a failed build's output; the reason stands there


@dataclass(frozen=True)
class BuiltImage:
    """An image in a container engine's store: its name, what built it, its labels, and the size of all its layers."""

    name: str
    engine: str
    id: str
    bytes: int
    labels: Mapping[str, str]

    @property
    def is_too_large(self) -> bool:
        """Say whether it is larger than an image of a service should be."""
        return self.bytes > MOST_BYTES


def containerize(bento: BuiltBento, settings: Settings, name: str = "") -> BuiltImage:
    """Build the image of a Bento; return it as the engine knows it.

    `name` is `[registry/]repository[:tag]`, by default that of the Bento; without a tag it gets the Bento's version.
    The engine's whole output is in `<home>/image-<model>.log`. `ModelFileError` when the Bento's bytes are not those
    that its lineage names; `ImageError` without a container engine, and when the build fails: no image has the name
    then, unless an earlier one had.
    """
    labels = labels_of(bento)
    engine = find_engine(settings.container_backend)
    image = _full_name(bento, name)
    with tempfile.TemporaryDirectory(prefix="tandem-image-") as store:
        _copy(bento, Path(store), settings.base_image)
        _build(bento, Path(store), engine, image, labels, settings)
    return inspect_image(engine, image)


def labels_of(bento: BuiltBento) -> dict[str, str]:
    """Return what the image says of itself: model, version and sha256 of the ONNX file, which is checked here."""
    lineage = Lineage.read(bento.model_folder)
    shipped = sha256_of((bento.model_folder / MODEL_FILE).read_bytes())
    if shipped != lineage.sha256:
        raise ModelFileError(
            f"The Bento {bento.tag} holds an ONNX file with sha256 {shipped}, but its lineage names {lineage.sha256}. "
            f"Materialize {lineage.model}/bento again."
        )
    name, _, version = bento.tag.partition(":")
    return {
        "org.opencontainers.image.title": name,
        "org.opencontainers.image.version": version,
        "tandem.bento": bento.tag,
        "tandem.model": lineage.model,
        "tandem.model_version": lineage.version,
        "tandem.model_sha256": lineage.sha256,
    }


def find_engine(wanted: str = "") -> str:
    """Return the container engine to use: the wanted one, or the first that answers. `ImageError` without one."""
    reasons = []
    for engine in [wanted] if wanted else ENGINES:
        reason = _why_not(engine)
        if not reason:
            return engine
        reasons.append(f"{engine} {reason}")
    raise ImageError(
        f"No container engine can build the image: {'; '.join(reasons)}. Install podman or start Docker, and set "
        "TANDEM_CONTAINER_BACKEND to `podman` or `docker` if it is to be a certain one."
    )


def inspect_image(engine: str, name: str) -> BuiltImage:
    """Return an image that is in the engine's store; `ImageError` when it is not."""
    done = _ask(engine, "image", "inspect", name)
    if done.returncode:
        raise ImageError(
            f"{engine} has no image {name}: {_last_line(done.stderr)}. Build it with `make image`; "
            "TANDEM_CONTAINER_BACKEND says which engine's images are meant."
        )
    facts: dict[str, Any] = json.loads(done.stdout)[0]
    return BuiltImage(name, engine, facts["Id"], facts["Size"], facts["Config"].get("Labels") or {})


def _why_not(engine: str) -> str:
    """Return why an engine cannot build, or nothing when it can."""
    if shutil.which(engine) is None:
        return "is not installed"
    try:
        done = _ask(engine, "info")
    except subprocess.TimeoutExpired:
        return f"does not answer within {ANSWER_SECONDS} s"
    return f"does not work ({_last_line(done.stderr)})" if done.returncode else ""


def _ask(engine: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([engine, *arguments], capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)


def _last_line(text: str) -> str:
    return next((line.strip(" .") for line in reversed(text.splitlines()) if line.strip()), "no reason given")


def _full_name(bento: BuiltBento, name: str) -> str:
    if not name:
        return bento.tag
    version = bento.tag.partition(":")[2]
    return name if ":" in name.rpartition("/")[2] else f"{name}:{version}"  # a registry's port has a colon too


def _copy(bento: BuiltBento, store: Path, base_image: str) -> None:
    """Put the Bento into an empty store, with another base image."""
    copy = store / "bentos" / Path(*bento.tag.split(":"))
    shutil.copytree(bento.path, copy)
    description = yaml.safe_load((copy / "bento.yaml").read_text())
    description["image"]["base_image"] = base_image
    (copy / "bento.yaml").write_text(yaml.safe_dump(description, sort_keys=False))


def _build(
    bento: BuiltBento, store: Path, engine: str, image: str, labels: Mapping[str, str], settings: Settings
) -> None:
    command = [sys.executable, "-m", "bentoml", "containerize", bento.tag, "--backend", engine, "--image-tag", image]
    for label, value in labels.items():
        command += ["--opt", f"label={label}={value}"]
    log = settings.home / f"image-{labels['tandem.model']}.log"
    environment = {**os.environ, **QUIET, "BENTOML_HOME": str(store)}
    with log.open("wb") as file:
        done = subprocess.run(command, cwd=store, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise ImageError(
            f"{engine} could not build the image {image} from {settings.base_image}. Its whole output is in {log}; the "
            f"end of it:\n{log.read_text(errors='replace').strip()[-SHOWN:]}"
        )
