"""The container image of a service: what it installs, pinned to the versions that the model was built with."""

from importlib.metadata import version
from pathlib import Path

import bentoml

from backends.settings import Settings

REQUIREMENTS = ("bentoml", "onnxruntime", "numpy", "lmdb", "pydantic", "pydantic-settings")


def pinned_requirements() -> list[str]:
    """Return the few packages that a service imports, each at the version that is installed here."""
    return [f"{name}=={version(name)}" for name in REQUIREMENTS]


class PinnedImage(bentoml.images.Image):  # type: ignore[misc]  # BentoML is untyped here
    """An image whose requirements are final as they stand.

    BentoML's own asks for uv even where there is nothing to lock, and fetches it when it is not installed.
    """

    def _freeze_python_requirements(self, bento_fs: Path, platform_: str | None = None) -> str:  # noqa: ARG002
        return str(self.python_requirements)


def service_image() -> PinnedImage:
    """Return the image; building a Bento with it needs no network, building the container does."""
    image = PinnedImage(base_image=Settings().base_image, distro="", lock_python_packages=False)
    image.python_packages(*pinned_requirements())
    return image
