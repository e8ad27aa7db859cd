"""An S3 storage on loopback for the tests of a session: moto's server, which keeps its objects in memory."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
from botocore.config import Config

from tests.processes import Server
from tests.serving import free_port

KEY, SECRET, REGION = "tandem-key", "tandem-s3-secret", "eu-central-1"


def s3_client(endpoint: str, service: str = "s3", attempts: int = 10) -> Any:
    """Return boto3's client for a server."""
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=Config(retries={"total_max_attempts": attempts, "mode": "standard"}),
    )


def s3_properties(endpoint: str) -> dict[str, str]:
    """Return the catalog properties with which pyiceberg reaches a server."""
    return {
        "s3.endpoint": endpoint,
        "s3.region": REGION,
        "s3.access-key-id": KEY,
        "s3.secret-access-key": SECRET,
        "s3.force-virtual-addressing": "false",
    }


@contextmanager
def moto(folder: Path) -> Iterator[str]:
    """Run moto's server; give its address."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with Server(command, folder, lambda: answers_http(f"{endpoint}/moto-api/")):
        yield endpoint


def answers_http(url: str) -> bool:
    """Tell whether a server answers at all."""
    try:
        httpx.get(url, timeout=10)
    except httpx.TransportError:
        return False
    return True
