"""What a Bento contains, and that it cannot contain another model."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from bento.building.build import BuiltBento, build_bento, find_bento
from bento.serve import serve_command
from models.errors import ModelFileError, TandemError
from tests.serving import free_port


def files_of(bento: BuiltBento) -> set[str]:
    files = {file.relative_to(bento.path / "src") for file in (bento.path / "src").rglob("*") if file.is_file()}
    return {str(file) for file in files if file.suffix != ".pyc"}  # which a service that ran from here has left


def test_a_bento_is_the_code_the_model_and_its_lineage(bento, onnx, lineage):
    assert bento.tag == f"tiny:3-{lineage.sha256[:8]}"
    assert (bento.path / "src/model/model.onnx").read_bytes() == onnx
    assert json.loads((bento.path / "src/model/lineage.json").read_text()) == lineage.model_dump()
    folders = {str(Path(file).parent) for file in files_of(bento)}
    packages = {"bento/building", "bento/guard", "bento/observing", "bento/open_inference"}
    ours = {"bento", *packages, "models", "backends", "backends/redis_store"}
    assert folders == {".", *ours, "model"}  # neither training nor assets nor data
    backends = {str(Path(file).relative_to("backends")) for file in files_of(bento) if file.startswith("backends/")}
    alone = {"__init__.py", "online_store.py", "settings.py", "vector_spool.py", "vectors.py"}
    alone |= {"histories.py", "history_journal.py", "lmdb_histories.py", "lmdb_store.py"}
    assert {file for file in backends if not file.startswith("redis_store/")} == alone
    assert bento.bytes < 1_000_000


def test_a_bento_says_where_it_comes_from_and_installs_little(bento):
    described = yaml.safe_load((bento.path / "bento.yaml").read_text())
    assert described["labels"]["dagster_run_id"] == "run-of-tiny"
    assert described["service"] == "bento.app:service"
    assert described["image"]["base_image"] == "python:3.11-slim"
    assert "onnxruntime==" in described["image"]["python_requirements"]
    assert "dagster" not in described["image"]["python_requirements"]


def test_the_same_content_is_kept_and_other_content_replaces_it(bento, onnx, lineage, settings):
    built_at = (bento.path / "bento.yaml").stat().st_mtime_ns
    again = build_bento(onnx, lineage, settings.bentoml_home, {"dagster_run_id": "run-of-tiny"}, "kept")
    first_built_at = (again.path / "bento.yaml").stat().st_mtime_ns
    build_bento(onnx, lineage, settings.bentoml_home, {"dagster_run_id": "run-of-tiny"}, "kept")
    assert (again.path / "bento.yaml").stat().st_mtime_ns == first_built_at
    build_bento(onnx, lineage, settings.bentoml_home, {"dagster_run_id": "another"}, "kept")
    assert yaml.safe_load((again.path / "bento.yaml").read_text())["labels"]["dagster_run_id"] == "another"
    assert (bento.path / "bento.yaml").stat().st_mtime_ns == built_at
    assert find_bento(settings.bentoml_home, "tiny").tag == "tiny:kept"


def test_bytes_that_are_not_those_of_the_lineage_are_not_built(onnx, lineage, tmp_path):
    other = lineage.model_copy(update={"sha256": hashlib.sha256(b"other").hexdigest()})
    with pytest.raises(ModelFileError, match="was asked for"):
        build_bento(onnx, other, tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_a_bento_that_was_never_built_is_named(tmp_path):
    for tag in ("tiny", "tiny:4"):
        with pytest.raises(TandemError, match=f"no Bento {tag}. Materialize tiny/bento"):
            find_bento(tmp_path, tag)


def test_a_service_whose_model_was_changed_does_not_start(bento, settings, tmp_path):
    changed = BuiltBento(bento.tag, tmp_path / "changed", bento.bytes)
    shutil.copytree(bento.path, changed.path)
    model = changed.path / "src/model/model.onnx"
    flipped = bytearray(model.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    model.write_bytes(flipped)
    arguments, environment = serve_command(changed, settings, free_port())
    refused = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120)
    assert refused.returncode != 0
    assert hashlib.sha256(flipped).hexdigest() in refused.stdout + refused.stderr
