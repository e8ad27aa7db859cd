"""A certificate for tests of TLS: of 127.0.0.1, signed by itself."""

import subprocess
from pathlib import Path

import pytest

from tests.processes import program


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Make a private key and its certificate in `folder`; skip where OpenSSL is not installed."""
    binary = program("openssl")
    if not binary:
        pytest.skip("OpenSSL is not installed: apt-get install openssl")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    named = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([binary, *made, *named, *files], check=True, capture_output=True)
    return key, certificate
