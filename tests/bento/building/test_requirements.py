"""What an image installs is enough for the service, exact, and no more than is needed."""

import re
import shutil
import subprocess
import textwrap
from importlib.metadata import packages_distributions, version

import httpx
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bento.building import requirements
from bento.building.build import BuiltBento
from bento.building.requirements import REQUIREMENTS, pinned_requirements, without_hashes
from bento.serve import serve_command
from models.errors import ImageError
from tests.serving import free_port, running


@pytest.fixture(scope="module")
def pinned() -> dict[str, str]:
    """Name -> version of everything that an image installs."""
    return dict(line.split("==") for line in without_hashes(pinned_requirements()).splitlines())


def test_every_package_has_this_version_and_hashes(pinned):
    assert pinned == {name: version(name) for name in pinned}
    blocks = re.split(r"\n(?=\S)", pinned_requirements())
    assert len(blocks) == len(pinned)
    assert [block for block in blocks if "--hash=sha256:" not in block] == []


def test_what_is_asked_for_is_there_with_its_extras(pinned):
    assert {canonicalize_name(Requirement(asked).name) for asked in REQUIREMENTS} <= pinned.keys()
    assert "hiredis" in pinned  # redis[hiredis]


def test_a_package_that_the_service_imports_and_nobody_installed_is_named(monkeypatch):
    monkeypatch.setattr(requirements, "REQUIREMENTS", ("numpy", "no-such-package[extra]"))
    with pytest.raises(ImageError, match=r"no-such-package: not installed here, but a service needs it. Run `make set"):
        pinned_requirements()


def test_nothing_of_the_platform_is_installed(pinned):
    strange = {
        "dagster",
        "duckdb",
        "mlflow",
        "onnx",
        "pandas",
        "pyarrow",
        "pyiceberg",
        "pyspark",
        "scikit-learn",
        "scipy",
    }
    assert strange & pinned.keys() == set()


def test_a_bento_has_them_with_hashes_and_its_description_without(bento, pinned):
    assert (bento.path / "env/python/requirements.txt").read_text() == pinned_requirements()
    described = yaml.safe_load((bento.path / "bento.yaml").read_text())["image"]["python_requirements"]
    assert dict(line.split("==") for line in described.splitlines()) == pinned
    assert not (bento.path / "src/requirements.txt").exists()


ONLY_WHAT_THE_IMAGE_HAS = """
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {blocked}:
                raise ModuleNotFoundError(f"No module named {{name!r}} (it is not in the image)", name=name)

    sys.meta_path.insert(0, Blocker())
"""


def test_a_service_runs_with_nothing_but_what_its_image_installs(served, pinned, tmp_path):
    """No other package of this environment can be imported, in BentoML's own process and in its worker."""
    blocked = {
        module
        for module, packages in packages_distributions().items()
        if not {canonicalize_name(package) for package in packages} & pinned.keys()
    } - {"_virtualenv", "pip"}
    assert {"dagster", "mlflow", "pandas"} <= blocked
    lean = BuiltBento(served.bento.tag, tmp_path / "bento", served.bento.bytes)
    shutil.copytree(served.bento.path, lean.path)
    blocker = textwrap.dedent(ONLY_WHAT_THE_IMAGE_HAS).format(blocked=sorted(blocked))
    (lean.path / "src" / "sitecustomize.py").write_text(blocker)  # Python imports it before anything else
    with running(lean, served.settings, free_port()) as url:
        answer = httpx.post(f"{url}/predict", json={"customer_id": 1})
    assert answer.status_code == 200
    expected = httpx.post(f"{served.url}/predict", json={"customer_id": 1})
    assert answer.json()["probability"] == expected.json()["probability"]
    (python, *_), environment = serve_command(lean, served.settings, free_port())
    refused = subprocess.run([python, "-P", "-c", "import dagster"], env=environment, capture_output=True, check=False)
    assert b"it is not in the image" in refused.stderr
