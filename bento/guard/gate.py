"""The rules of a service for whoever comes: who may ask, how much, how fast, and how many at once.

BentoML starts uvicorn and passes on few of its options. So the rules are kept by the class of uvicorn's connections,
which `install` puts where uvicorn looks for its default.
"""

import os
import resource
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import uvicorn.config

from backends.settings import Settings
from bento.guard.admission import Admission
from bento.guard.keys import KeyRing, check_listening
from bento.guard.refusals import Refusal, body_too_large
from models.contract import Contract

LEAST_BODY_BYTES = 1 << 20
BYTES_PER_VALUE = 64  # of JSON: a name, a value and their punctuation
OTHER_FILES = 256  # what a service holds open beside connections


@dataclass(frozen=True)
class Rules:
    """What all connections of a service share."""

    keys: KeyRing
    admission: Admission
    loopback_only: bool
    max_body_bytes: int
    body_too_large: Refusal
    max_connections: int
    request_seconds: float
    listening: Sequence[int]  # descriptors
    count: Callable[[int], None]  # is told the status of each refusal

    @classmethod
    def of(cls, settings: Settings, contract: Contract, count: Callable[[int], None] = lambda _: None) -> Self:
        """Return the rules of a model's service; `ApiKeysError` when its keys cannot be read."""
        keys = KeyRing.open(settings)
        values = contract.api.batch_limit * (len(contract.features) + 1)
        most = settings.api_max_body_bytes or max(LEAST_BODY_BYTES, values * BYTES_PER_VALUE)
        return cls(
            keys=keys,
            admission=Admission(settings.api_longest_wait_ms / 1000),
            loopback_only=not keys.required and not settings.api_open,
            max_body_bytes=most,
            body_too_large=body_too_large(most),
            max_connections=settings.api_max_connections,
            request_seconds=settings.api_request_seconds,
            listening=listening_descriptors(),
            count=count,
        )


def install(settings: Settings, contract: Contract, count: Callable[[int], None] = lambda _: None) -> Rules:
    """Keep the rules on everything that uvicorn serves in this process from now on.

    `ApiKeysError` when the keys cannot be read, or when there are none and this process listens beyond loopback.
    """
    from bento.guard.connections import GuardedConnection

    rules = Rules.of(settings, contract, count)
    for host in listening_hosts():
        check_listening(host, settings)
    connection = type("Connection", (GuardedConnection,), {"rules": rules})
    uvicorn.config.HTTP_PROTOCOLS["auto"] = connection  # type: ignore[assignment]  # a class stands for itself
    _allow_open_files(rules.max_connections + OTHER_FILES)
    return rules


def listening_descriptors() -> list[int]:
    """Return what this process listens on if it is a worker of BentoML: one is given its socket as `--fd`."""
    return [int(value) for option, value in pairwise(sys.argv) if option == "--fd"]


def listening_hosts() -> list[str]:
    """Return the addresses that a worker of BentoML listens on."""
    hosts = []
    for descriptor in listening_descriptors():
        with socket.socket(fileno=os.dup(descriptor)) as listening:
            if listening.family in (socket.AF_INET, socket.AF_INET6):
                hosts.append(listening.getsockname()[0])
    return hosts


def _allow_open_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
