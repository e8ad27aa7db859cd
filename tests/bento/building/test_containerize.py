"""What is asked of Docker and podman, and what is said when they cannot. The real thing is in `test_container.py`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from backends.settings import Settings
from bento.building.build import BuiltBento
from bento.building.containerize import BuiltImage, _full_name, containerize, find_engine, inspect_image, labels_of
from models.errors import ImageError, ModelFileError
from orchestration.cli import app

ANSWERS = """#!/bin/sh
[ "$1" = info ] && exit 0
cat {folder}/env/docker/Dockerfile 2>/dev/null
echo "FATAL: no space left on device" >&2
exit 125
"""
BROKEN = """#!/bin/sh
echo "Cannot connect to the daemon." >&2
exit 1
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A PATH of its own, with this Python and what a shell script needs; engines are put there by `install`."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("sh", "cat", "cp"):
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def install(programs: Path, name: str, script: str) -> None:
    (programs / name).write_text(script)
    (programs / name).chmod(0o755)


def test_a_machine_without_engines_is_told_which_were_looked_for(programs):
    with pytest.raises(ImageError, match=r"docker is not installed; podman is not installed. Install podman or start"):
        find_engine()


def test_the_first_engine_that_answers_is_used(programs):
    install(programs, "docker", BROKEN)
    with pytest.raises(ImageError, match=r"docker does not work \(Cannot connect to the daemon\); podman is not"):
        find_engine()
    install(programs, "podman", ANSWERS)
    assert find_engine() == "podman"
    install(programs, "docker", ANSWERS)
    assert find_engine() == "docker"
    assert find_engine("podman") == "podman"


def test_an_engine_that_was_asked_for_is_not_replaced_by_another(programs):
    install(programs, "docker", ANSWERS)
    with pytest.raises(ImageError, match="podman is not installed"):
        find_engine("podman")


def test_the_reason_of_a_failed_build_is_told_and_its_output_kept(programs, bento, tmp_path):
    install(programs, "podman", ANSWERS)
    settings = Settings(home=tmp_path, base_image="registry.example/python:3.11")
    with pytest.raises(ImageError, match=r"podman could not build the image tiny:3-\w+ from registry.example") as error:
        containerize(bento, settings)
    assert "no space left on device" in str(error.value)
    assert str(tmp_path / "image-tiny.log") in str(error.value)
    assert "no space left on device" in (tmp_path / "image-tiny.log").read_text()


SHOW_DOCKERFILE = """#!/bin/sh
[ "$1" = info ] && exit 0
[ "$1" = version ] && echo '"28.1.0"'
[ "$1" = build ] && { cp env/docker/Dockerfile env/python/requirements.txt "$KEEP"; echo "$@" > "$KEEP/arguments"; }
[ "$1" = image ] && echo '[{"Id": "4f", "Size": 1000000000, "Config": {"Labels": {"tandem.model": "tiny"}}}]'
exit 0
"""


def test_the_engine_gets_the_base_image_that_is_set_now_the_labels_and_hashed_requirements(
    programs, bento, lineage, tmp_path, monkeypatch
):
    install(programs, "podman", SHOW_DOCKERFILE)
    monkeypatch.setenv("KEEP", str(tmp_path))
    built = containerize(bento, Settings(home=tmp_path, base_image="mirror/python:3.11"), "registry:5000/team/tiny")
    version = bento.tag.partition(":")[2]
    assert built == BuiltImage(
        f"registry:5000/team/tiny:{version}", "podman", "4f", 1_000_000_000, {"tandem.model": "tiny"}
    )
    assert built.is_too_large
    dockerfile = (tmp_path / "Dockerfile").read_text()
    assert "FROM mirror/python:3.11 " in dockerfile
    assert "\nUSER bentoml\n" in dockerfile
    assert "TANDEM_ONLINE_STORE=lmdb:///online\n" in dockerfile
    arguments = (tmp_path / "arguments").read_text().split()
    assert f"tandem.model_sha256={lineage.sha256}" in arguments
    assert f"org.opencontainers.image.version={version}" in arguments
    packages = (tmp_path / "requirements.txt").read_text().split("\n    --hash")
    assert len(packages) > 100
    assert yaml.safe_load((bento.path / "bento.yaml").read_text())["image"]["base_image"].startswith("python:")


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("", "tiny:{version}"),
        ("team/tiny", "team/tiny:{version}"),
        ("registry:5000/tiny", "registry:5000/tiny:{version}"),  # a port is no tag
        ("registry:5000/tiny:today", "registry:5000/tiny:today"),
    ],
)
def test_an_image_without_a_tag_gets_the_bentos_version(bento, name, image):
    assert _full_name(bento, name) == image.format(version=bento.tag.partition(":")[2])


def test_the_image_has_that_name_and_says_what_built_it(programs, bento, tmp_path, monkeypatch):
    install(programs, "docker", SHOW_DOCKERFILE)
    monkeypatch.setenv("KEEP", str(tmp_path))
    built = containerize(bento, Settings(home=tmp_path), "registry:5000/tiny")
    assert (built.name, built.engine) == (_full_name(bento, "registry:5000/tiny"), "docker")


def test_the_command_tells_name_and_size_and_warns_of_a_large_image(programs, bento, settings, tmp_path, monkeypatch):
    install(programs, "podman", SHOW_DOCKERFILE)
    monkeypatch.setenv("KEEP", str(tmp_path))
    monkeypatch.setenv("TANDEM_HOME", str(settings.home))
    done = CliRunner().invoke(app, ["image", "tiny", "--name", "team/tiny:1"])
    assert done.exit_code == 0, done.output
    assert done.stdout == "team/tiny:1  1000 MB  podman  4f\n"
    assert "more than 500 MB; `podman history team/tiny:1` says what is large" in done.stderr


def test_the_entrypoint_serves_with_the_options_given_and_runs_other_commands(programs, bento, monkeypatch):
    install(programs, "python", '#!/bin/sh\necho "$@" "in $TANDEM_MODEL_FOLDER"\n')
    monkeypatch.setenv("BENTO_PATH", "/bento")

    def entry(*arguments: str) -> str:
        return subprocess.check_output(["sh", bento.path / "env/docker/entrypoint.sh", *arguments], text=True)

    served = "-P -m bento.supervisor /bento --host 0.0.0.0"
    assert entry() == f"{served} in /bento/src/model\n"
    assert entry("--host=::", "--port=80") == f"{served} --host=:: --port=80 in /bento/src/model\n"
    assert entry("sh", "-c", "echo $PYTHONPATH") == "/bento/src\n"


def test_an_image_that_was_never_built_is_named(programs):
    install(programs, "podman", BROKEN)
    with pytest.raises(ImageError, match=r"podman has no image tiny:9: Cannot connect to the daemon. Build it with"):
        inspect_image("podman", "tiny:9")


def test_a_bento_whose_model_was_changed_becomes_no_image(bento, tmp_path):
    changed = BuiltBento(bento.tag, tmp_path / "changed", bento.bytes)
    shutil.copytree(bento.path, changed.path)
    (changed.model_folder / "model.onnx").write_bytes(b"another")
    with pytest.raises(ModelFileError, match="Materialize tiny/bento again"):
        labels_of(changed)


def test_this_python_is_the_images():
    assert Settings().base_image == f"python:3.{sys.version_info.minor}-slim"
