"""podman without a daemon, for tests: storage of its own, and a base image made of Debian's packages.

Made for root on a plain Linux machine that has no registry of images, cgroups of both versions mounted, and no right to
raise limits. What takes long to make, the base image's tar file, is kept in the user's cache.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

BASE_IMAGE = "localhost/python:3.11-slim"
PROGRAMS = ("podman", "crun", "mmdebstrap", "unshare")
SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
CERTIFICATES = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))

# Some crun refuse to start where a cgroup2 tree is mounted beside the old ones: it is hidden from crun alone, in a
# mount namespace of its own. podman lets a container go without cgroups only for a runtime of this name.
CRUN = """#!/bin/sh
exec unshare --mount --propagation slave sh -c \\
    'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$0" "$@"' {crun} "$@"
"""
STORAGE = """[storage]
driver = "overlay"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
"""
# The volumes are for the steps of a build: they reach the package index with this machine's certificates.
ENGINE = """[containers]
cgroups = "disabled"
netns = "host"
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
volumes = [{volumes}]
[engine]
runtime = "crun"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{folder}/tmp"
[engine.runtimes]
crun = ["{folder}/bin/crun"]
[network]
network_backend = "netavark"
"""


def why_not() -> str:
    """Return why no container can be built and run here, or nothing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)}: not installed"
    if os.geteuid() != 0:
        return "needs root, to make a base image and to mount"
    return "" if sys.version_info[:2] == (3, 11) else "the base image has Python 3.11, like this Debian"


class Podman:
    """podman with its configuration, images and containers in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        crun = folder / "bin" / "crun"
        crun.parent.mkdir(parents=True)
        crun.write_text(CRUN.format(crun=shutil.which("crun")))
        crun.chmod(0o755)
        volumes = f'"{CERTIFICATES}:/etc/ssl/certs/ca-certificates.crt:ro", "{folder}/uv.toml:/etc/uv/uv.toml:ro"'
        (folder / "uv.toml").write_text("system-certs = true\n")
        (folder / "storage.conf").write_text(STORAGE.format(folder=folder))
        (folder / "registries.conf").write_text("unqualified-search-registries = []\n")
        (folder / "run.conf").write_text(ENGINE.format(folder=folder, volumes=""))
        (folder / "build.conf").write_text(ENGINE.format(folder=folder, volumes=volumes))

    def environment(self, conf: str = "run.conf") -> dict[str, str]:
        """Return what podman and whoever calls it must find in the environment; `build.conf` is for builds."""
        return {
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.folder / "registries.conf"),
            "CONTAINERS_CONF": str(self.folder / conf),
            "BUILDAH_ISOLATION": "chroot",
        }

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Run podman; return what it prints, without the line's end. What it complains of is in a failure's message."""
        done = self._run(arguments, subprocess.PIPE)
        assert not check or done.returncode == 0, f"podman {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def log(self, container: str) -> str:
        """Return what a container has written to both its streams."""
        return self._run(["logs", container], subprocess.STDOUT).stdout

    def _run(self, arguments: Sequence[str], stderr: int) -> subprocess.CompletedProcess[str]:
        command, environment = ["podman", *arguments], {**os.environ, **self.environment()}
        return subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False, timeout=300
        )

    def import_base(self) -> None:
        """Put the base image into the storage."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self("import", "-q", "--change", 'CMD ["python3"]', "--change", f"ENV {path}", str(base_tar()), BASE_IMAGE)

    def close(self) -> None:
        """Remove containers, images and everything else."""
        self("rm", "-af", "-t", "5", check=False)
        self("rmi", "-af", check=False)
        subprocess.run(["umount", self.folder / "graph" / "overlay"], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def podman_in(folder: Path) -> Iterator[Podman]:
    """Give podman with a base image, in an empty folder; nothing of it is left afterwards."""
    podman = Podman(folder)
    try:
        podman.import_base()
        yield podman
    finally:
        podman.close()


def base_tar(environment: Mapping[str, str] = os.environ) -> Path:
    """Return a tar file of Debian with its Python and pip, made (in one or two minutes) if it is not in the cache."""
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem-tests"
    tar = cache / "python-3.11-slim.tar"
    if tar.is_file():
        return tar
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = cache / f"{os.getpid()}.tar"
    command = [
        *("mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--format=tar"),
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Check-Valid-Until "false"',
        *(f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("man", "locale", "doc")),
        # Without these two, dpkg's /usr is merged by a package that brings all of perl.
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        "--include=usr-is-merged,python3,python3-venv,python3-pip,ca-certificates",
        '--customize-hook=rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
        '--customize-hook=ln -sf python3 "$1"/usr/bin/python',
        *("bookworm", str(unfinished)),
    ]
    try:
        if SOURCES.is_file():
            with SOURCES.open("rb") as sources:
                done = subprocess.run([*command, "-"], stdin=sources, capture_output=True, text=True, check=False)
        else:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        unfinished.replace(tar)
    finally:
        unfinished.unlink(missing_ok=True)
    return tar
