"""The files in `deploy/` for containers say what the service understands."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from backends.settings import ROOT, Settings
from bento.guard.connections import NEEDS_NO_KEY

KUBERNETES = ROOT / "deploy" / "kubernetes.yaml"
COMPOSE = ROOT / "deploy" / "compose.yaml"


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    deployment, *_ = yaml.safe_load_all(KUBERNETES.read_text())
    assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    return deployment["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text())["services"]["api"]


def test_every_variable_is_a_setting(pod, compose):
    known = {f"TANDEM_{name.upper()}" for name in Settings.model_fields}
    assert {variable["name"] for variable in pod["containers"][0]["env"]} <= known
    assert compose["environment"].keys() <= known


def test_the_values_are_ones_that_the_settings_take(pod, compose, monkeypatch):
    values = {variable["name"]: variable.get("value", "redis://store") for variable in pod["containers"][0]["env"]}
    for environment in (values, compose["environment"]):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert Settings().online.startswith("redis://")
        assert Settings().grpc_port == 8001


def test_probes_ask_what_needs_no_key(pod):
    container = pod["containers"][0]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] in NEEDS_NO_KEY
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["http"] == 3000  # the supervisor's default
    assert container["readinessProbe"]["httpGet"]["port"] == "http"


def test_a_pod_has_no_root_no_capabilities_and_writes_to_tmp_alone(pod, compose):
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 1034  # BentoML's user in the image
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["/tmp"]
    mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert Path(variables["TANDEM_API_KEYS_FILE"]).parent == mounts["keys"]
    assert compose["read_only"]
    assert compose["cap_drop"] == ["ALL"]


def test_what_was_asked_has_time_to_be_answered(pod):
    before = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    longest = Settings.model_fields["api_request_seconds"].default
    assert pod["terminationGracePeriodSeconds"] > before + 2 * longest
