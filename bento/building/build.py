"""From ONNX bytes to a Bento: the service's own code, the model and its lineage, and nothing else of this project.

BentoML fixes its home and remembers imported services per process, so it builds in a child process, in a clean folder
that holds only what ships. No network is needed: the image's requirements are pinned, not resolved.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backends.settings import QUIET, ROOT
from bento.building.requirements import REQUIREMENTS_FILE, pinned_requirements
from bento.lineage import MODEL_FILE, Lineage
from models.errors import ModelFileError, TandemError
from models.scoring import Scorer, sha256_of

SHIPPED = (
    "bento/*.py",
    "bento/*/*.py",
    "bento/open_inference/*.pb",
    "models/*.py",
    "backends/__init__.py",
    "backends/histories.py",
    "backends/history_journal.py",
    "backends/lmdb_histories.py",
    "backends/lmdb_store.py",
    "backends/online_store.py",
    "backends/redis_store/*.py",
    "backends/settings.py",
    "backends/vector_spool.py",
    "backends/vectors.py",
)


@dataclass(frozen=True)
class BuiltBento:
    """A Bento in BentoML's store: `<model>:<version>`, its folder, and the size of all its files."""

    tag: str
    path: Path
    bytes: int

    @property
    def model_folder(self) -> Path:
        """Where the Bento keeps its ONNX file and its lineage."""
        return model_folder(self.path)


def model_folder(bento: Path) -> Path:
    """Return the folder of the ONNX file and the lineage inside a Bento's folder."""
    return bento / "src" / "model"


def build_bento(
    onnx: bytes, lineage: Lineage, bentoml_home: Path, labels: Mapping[str, str], version: str = ""
) -> BuiltBento:
    """Build the Bento `<model>:<version>`; the version defaults to `<model version>-<first 8 digits of sha256>`.

    The same content under the same tag is kept as it is, other content replaces it. `labels` go into the Bento's
    description, beside a digest of the content. `ModelFileError` when the bytes are not those of the lineage, before or
    after the build; `TandemError` when BentoML fails.
    """
    Scorer(onnx, lineage.sha256)
    tag = f"{lineage.model}:{version or f'{lineage.version}-{lineage.sha256[:8]}'}".lower()
    with tempfile.TemporaryDirectory(prefix="tandem-bento-") as temporary:
        context = Path(temporary)
        _stage(context, onnx, lineage)
        _run(context, tag, labels, bentoml_home)
    built = find_bento(bentoml_home, tag)
    shipped = sha256_of((built.model_folder / MODEL_FILE).read_bytes())
    if shipped != lineage.sha256:
        raise ModelFileError(f"The Bento {tag} holds an ONNX file with sha256 {shipped}, not {lineage.sha256}.")
    return built


def find_bento(bentoml_home: Path, tag: str) -> BuiltBento:
    """Return a Bento that was built: `<model>:<version>`, or `<model>` for the newest; `TandemError` without one."""
    name, _, version = tag.partition(":")
    folder = bentoml_home / "bentos" / name
    try:
        path = folder / (version or (folder / "latest").read_text().strip())
        files = [file for file in path.rglob("*") if file.is_file()]
        if not (path / "bento.yaml").is_file():
            raise FileNotFoundError(path / "bento.yaml")
    except OSError as error:
        raise TandemError(f"There is no Bento {tag}. Materialize {name}/bento.") from error
    return BuiltBento(f"{name}:{path.name}", path, sum(file.stat().st_size for file in files))


def _stage(context: Path, onnx: bytes, lineage: Lineage) -> None:
    """Lay out in `context` what the Bento is to contain."""
    for pattern in SHIPPED:
        for source in ROOT.glob(pattern):
            target = context / source.relative_to(ROOT)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
    (context / "model").mkdir()
    (context / "model" / MODEL_FILE).write_bytes(onnx)
    lineage.write(context / "model")
    (context / REQUIREMENTS_FILE).write_text(pinned_requirements())


def _run(context: Path, tag: str, labels: Mapping[str, str], bentoml_home: Path) -> None:
    """Run this module in `context`, with the staged packages and no others of ours."""
    environment = {
        "BENTOML_HOME": str(bentoml_home),
        "TANDEM_MODEL_FOLDER": str(context / "model"),
        "PYTHONPATH": str(context),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    bentoml_home.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "bento.building.build", tag, json.dumps(dict(labels))],
        cwd=context,
        env={**os.environ, **QUIET, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise TandemError(f"BentoML could not build {tag}: {(done.stderr or done.stdout).strip()[-2000:]}")


def _build_here(tag: str, labels: dict[str, str]) -> None:
    """Build the Bento of the current folder, unless the store has it already."""
    import bentoml
    from bentoml._internal.bento.build_config import BentoEnvSchema  # its builder takes nothing else

    from bento.building.image import IMAGE_ENVIRONMENT, service_image

    labels["content_sha256"] = _digest(Path(), service_image().base_image)
    try:
        if bentoml.bentos.get(tag).info.labels == labels:
            return
        bentoml.bentos.delete(tag)
    except bentoml.exceptions.NotFound:
        pass  # the usual case: a version is built once
    name, version = tag.split(":")
    bentoml.bentos.build(
        "bento.app:service",
        name=name,
        version=version,
        labels=labels,
        build_ctx=".",
        exclude=[REQUIREMENTS_FILE],
        envs=[BentoEnvSchema(name=variable, value=value) for variable, value in IMAGE_ENVIRONMENT.items()],
    )


def _digest(context: Path, base_image: str) -> str:
    """Return a sha256 over the base image's name and the names and contents of all staged files."""
    digest = hashlib.sha256(base_image.encode())
    for file in sorted(context.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(context)} {sha256_of(file.read_bytes())}\n".encode())
    return digest.hexdigest()


if __name__ == "__main__":
    _build_here(sys.argv[1], json.loads(sys.argv[2]))
