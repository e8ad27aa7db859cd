"""The definition of a service's container image, as it travels in the Bento: base, environment, requirements.

What is installed is said in `requirements`; the image itself is built by `containerize`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import bentoml

from backends.settings import ROOT, Settings
from bento.building.requirements import REQUIREMENTS_FILE, without_hashes

# What a container is told unless it is told otherwise. BentoML makes ENV lines of the image of it, and nothing else.
IMAGE_ENVIRONMENT = {
    "TANDEM_ONLINE_STORE": "lmdb:///online",
    "TANDEM_HOME": "/tmp/tandem",  # noqa: S108  with a read-only root, /tmp is where a container may write
    "ORT_DISABLE_TELEMETRY": "1",
    "UV_NO_CACHE": "1",  # podman has no cache mounts: the cache would stay in a layer
    "UV_PYTHON_DOWNLOADS": "never",  # the base image's Python, or an error
}

# What a container runs, in place of BentoML's own start: that leaves a killed worker dead.
ENTRYPOINT = """#!/bin/sh
# Serves the model. Options are those of bento.supervisor (--host, --port); any other command is run instead.
export BENTOML_HOME=/tmp/bentoml PYTHONPATH="$BENTO_PATH/src" TANDEM_MODEL_FOLDER="$BENTO_PATH/src/model"
case "${1:-}" in
    "" | -*) exec python -P -m bento.supervisor "$BENTO_PATH" --host 0.0.0.0 "$@" ;;
    *) exec "$@" ;;
esac
"""


class PinnedImage(bentoml.images.Image):  # type: ignore[misc]  # BentoML is untyped here
    """An image whose requirements are final as they stand, with hashes.

    BentoML's own asks for uv even where there is nothing to lock, fetches it where it is missing, and drops hashes.
    """

    def freeze(self, bento_fs: Path, envs: Sequence[Any], platform_: str | None = None) -> Any:
        """Write the image's files into a Bento; its description, which is read at each start, goes without hashes."""
        info = super().freeze(bento_fs, envs, platform_)
        (bento_fs / "env" / "docker" / "entrypoint.sh").write_text(ENTRYPOINT)
        return attrs.evolve(info, python_requirements=without_hashes(info.python_requirements))

    def _freeze_python_requirements(self, bento_fs: Path, platform_: str | None = None) -> str:  # noqa: ARG002
        return (ROOT / REQUIREMENTS_FILE).read_text()


def service_image() -> PinnedImage:
    """Return the image; building a Bento with it needs no network, building the container does."""
    return PinnedImage(base_image=Settings().base_image, distro="", lock_python_packages=False)
