"""The image for real: built by podman, run as docs/deploying.md says, asked, and stopped. `make test-image` runs it."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from backends.settings import Settings
from bento.building.containerize import MOST_BYTES, BuiltImage, containerize
from bento.building.requirements import pinned_requirements, without_hashes
from bento.client import ApiClient
from bento.guard.keys import new_key
from bento.open_inference.client import GrpcInferenceClient, RestInferenceClient
from models.encoding import encode_rows
from models.scoring import Scorer
from tests.containers import BASE_IMAGE, Podman, podman_in, why_not
from tests.serving import free_port

pytestmark = [pytest.mark.container, pytest.mark.skipif(bool(why_not()), reason=why_not()), pytest.mark.timeout(1800)]

WAIT_SECONDS = 180
HARDENED = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--tmpfs=/tmp",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
)
KEYS = (0, 1, 42)  # of customers


@dataclass(frozen=True)
class Container:
    """A container: its name, where it answers over HTTP and gRPC, and the key that it asks for."""

    podman: Podman
    name: str
    url: str = ""
    grpc: str = ""
    key: SecretStr | None = None

    @property
    def log(self) -> str:
        return self.podman.log(self.name)

    @property
    def state(self) -> str:
        return self.podman("inspect", self.name, "--format", "{{.State.Running}} {{.State.ExitCode}}")

    @property
    def supervisor(self) -> int:
        """Its first process, by this machine's number."""
        return int(self.podman("inspect", self.name, "--format", "{{.State.Pid}}"))

    @property
    def worker(self) -> int:
        children = Path(f"/proc/{self.supervisor}/task/{self.supervisor}/children").read_text().split()
        return int(children[0])

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.is_ready():
            assert self.state.startswith("true"), self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.2)


@pytest.fixture(scope="module")
def podman(tmp_path_factory) -> Iterator[Podman]:
    with podman_in(tmp_path_factory.mktemp("containers") / "podman") as podman:
        yield podman


@pytest.fixture(scope="module")
def image(podman, bento, tmp_path_factory) -> BuiltImage:
    settings = Settings(home=tmp_path_factory.mktemp("image"), base_image=BASE_IMAGE, container_backend="podman")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in podman.environment("build.conf").items():
            patch.setenv(name, value)
        return containerize(bento, settings)


@pytest.fixture(scope="module")
def container(podman, image, served, tmp_path_factory) -> Iterator[Container]:
    """A hardened container of the image, with the local service's online store and a key; it listens on loopback."""
    key, line = new_key("tests")
    secrets = tmp_path_factory.mktemp("secrets")
    secrets.chmod(0o755)  # the container's user is another one
    (secrets / "keys").write_text(f"{line}\n")
    name, port, grpc_port = f"tiny-{uuid4().hex[:8]}", free_port(), free_port()
    arguments = [
        *("--detach", f"--name={name}", *HARDENED),
        f"--volume={served.settings.home}/online:/online:ro",
        f"--volume={secrets}:/run/tandem:ro",
        *("--env=TANDEM_API_KEYS_FILE=/run/tandem/keys", f"--env=TANDEM_GRPC_PORT={grpc_port}"),
    ]
    podman("run", *arguments, image.name, "--host=127.0.0.1", f"--port={port}")
    container = Container(podman, name, f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc_port}", SecretStr(key))
    container.wait_until_ready()
    yield container
    podman("rm", "-f", "-t", "5", name)


def test_the_image_is_small_and_says_which_model_it_holds(image, bento, lineage):
    assert image.name == bento.tag
    assert 0 < image.bytes < MOST_BYTES, f"{image.bytes / 1e6:.0f} MB"
    assert not image.is_too_large
    assert image.labels["tandem.model_sha256"] == lineage.sha256
    assert image.labels["tandem.model"] == "tiny"
    assert image.labels["tandem.model_version"] == "3"


def test_what_is_installed_is_what_was_locked(podman, image):
    folder = Path(podman("image", "mount", image.name))
    packages = folder / "app" / ".venv" / "lib" / "python3.11" / "site-packages"
    installed = {package.name.lower().replace("_", "-"): package.version for package in distributions(path=[packages])}
    locked = dict(line.split("==") for line in without_hashes(pinned_requirements()).splitlines())
    assert len(locked) > 50
    assert locked.items() <= installed.items()
    beside = installed.keys() - locked.keys()
    assert beside <= {"async-timeout"}  # redis asks for it where Python is older than 3.11.3, as Debian's is
    assert not (folder / "root" / ".cache").exists()  # neither pip's nor uv's


def test_it_answers_like_the_service_outside(container, served):
    """Bit for bit, over every protocol."""
    expected = Scorer(served.onnx).score(encode_rows(served.contract, [served.rows[key] for key in KEYS]))
    with ApiClient(container.url, key=container.key) as api, ApiClient(served.url) as outside:
        answers = [api.predict({"customer_id": key})["probability"] for key in KEYS]
        assert answers == [outside.predict({"customer_id": key})["probability"] for key in KEYS]
        assert np.array_equal(np.float32(answers), expected)
        assert api.lineage()["sha256"] == served.lineage.sha256
        assert api.lineage()["online_features"] == outside.lineage()["online_features"]
    for client, address in ((RestInferenceClient, container.url), (GrpcInferenceClient, container.grpc)):
        with client("tiny", address, key=container.key) as inference:
            inferred = inference.infer({"customer_id": KEYS})
        assert np.array_equal(np.float32(inferred.outputs[served.contract.output]), expected), client


def test_a_request_without_a_key_is_refused(container):
    assert httpx.post(f"{container.url}/predict", json={"customer_id": 1}).status_code == 401


def test_it_runs_without_root_without_capabilities_and_cannot_write(container):
    for process in (container.supervisor, container.worker):
        status = Path(f"/proc/{process}/status").read_text()
        assert re.search(r"^Uid:\t1034\t1034\t1034\t1034$", status, re.MULTILINE)
        for capabilities in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert re.search(rf"^{capabilities}:\t0+$", status, re.MULTILINE), capabilities
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    mounts = [line.split() for line in Path(f"/proc/{container.worker}/mountinfo").read_text().splitlines()]
    options = {mount[4]: mount[5].split(",") for mount in mounts}
    assert {"ro"} <= set(options["/"]) & set(options["/online"]) & set(options["/run/tandem"])
    assert "rw" in options["/tmp"]


def test_without_keys_it_refuses_to_be_reached_from_outside(podman, image):
    container = Container(podman, f"tiny-{uuid4().hex[:8]}")
    podman("run", "--detach", f"--name={container.name}", *HARDENED, image.name, f"--port={free_port()}")
    deadline = time.monotonic() + WAIT_SECONDS
    while container.state.startswith("true"):
        assert time.monotonic() < deadline, container.log
        time.sleep(0.2)
    assert container.state == "false 1"
    assert "TANDEM_API_KEYS_FILE" in container.log
    assert "Traceback" not in container.log


def test_a_killed_worker_is_started_again(container):
    killed = container.worker
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + WAIT_SECONDS
    while Path(f"/proc/{killed}").exists() and container.worker == killed:
        assert time.monotonic() < deadline, container.log
        time.sleep(0.05)
    container.wait_until_ready()
    with ApiClient(container.url, key=container.key) as client:
        assert client.predict({"customer_id": 1})["probability"]


def test_it_stops_when_it_is_told_to_and_loses_no_request(container):
    """The last test: it stops the container that the others ask, while others ask it too."""
    asked, answers, stopping = threading.Barrier(5), [], threading.Event()

    def ask() -> None:
        headers = {"X-API-Key": container.key.get_secret_value() if container.key else ""}
        asked.wait()
        while not stopping.is_set():
            try:
                answers.append(
                    httpx.post(f"{container.url}/predict", json={"customer_id": 7}, headers=headers).status_code
                )
            except httpx.ConnectError:
                return  # it listens no more

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    asked.wait()
    while len(answers) < 20:
        time.sleep(0.01)
    container.podman("stop", "-t", "60", container.name)
    stopping.set()
    for thread in threads:
        thread.join(60)
    assert set(answers) == {200}
    assert container.state == "false 0", container.log
    assert "Traceback" not in container.log
