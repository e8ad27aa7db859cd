"""Who may ask: API keys, hashed at rest, compared in constant time and read again when their file changes.

A key is 256 random bits. Against those nobody can guess, so one SHA-256 is as good as a slow password hash and can be
done for every request. Whoever reads the file can check keys, but not make one.
"""

import hashlib
import hmac
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from backends.settings import Settings
from models.errors import ApiKeysError

LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*):(?P<digest>[0-9a-f]{64})")
REREAD_SECONDS = 1.0

_log = logging.getLogger("tandem.keys")


def new_key(name: str) -> tuple[str, str]:
    """Return a new key, and its line for the file; `ApiKeysError` when the name does not fit in the file."""
    key = f"tandem_{secrets.token_urlsafe(32)}"
    line = f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"
    if not LINE.fullmatch(line):
        raise ApiKeysError(f"A key cannot be called {name!r}. Use letters, digits, `.`, `_` and `-`.")
    return key, line


class KeyRing:
    """The keys of one file, which is looked at again once a second; without a file none is `required`.

    A file that has become unreadable leaves the keys as they were, and the log says why.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._digests: tuple[bytes, ...] = ()
        self._version: tuple[int, int, int] | None = None
        self._next_look = 0.0
        if path is not None:
            self._read(path)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Return the keys that the settings name; `ApiKeysError` when the file cannot be read or has no key."""
        return cls(settings.api_keys_file)

    @property
    def required(self) -> bool:
        """Whether a request needs a key."""
        return self._path is not None

    def accepts(self, presented: str | bytes | None) -> bool:
        """Whether a presented key is one of the file's. Takes as long for a wrong one as for a right one."""
        if self._path is None:
            return True
        self._look_again(self._path)
        digest = hashlib.sha256(presented.encode() if isinstance(presented, str) else presented or b"").digest()
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found and bool(presented)

    def accepts_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether one of a request's headers (names in lower case) is `Authorization: Bearer` or `X-API-Key`."""
        return self._path is None or self.accepts(_presented(headers))

    def _look_again(self, path: Path) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + REREAD_SECONDS
        try:
            if _version(path) != self._version:
                self._read(path)
        except (OSError, ApiKeysError) as error:
            _log.warning("The API keys stay as they were: %s", error)

    def _read(self, path: Path) -> None:
        try:
            version, text = _version(path), path.read_text()
        except (OSError, ValueError) as error:
            raise ApiKeysError(
                f"The file of API keys {path} cannot be read: {error}. Check TANDEM_API_KEYS_FILE."
            ) from error
        lines = {number: line.strip() for number, line in enumerate(text.splitlines(), 1)}
        lines = {number: line for number, line in lines.items() if line and not line.startswith("#")}
        for number, line in lines.items():
            if not LINE.fullmatch(line):  # the line may be a key in the clear: it is not shown
                raise ApiKeysError(
                    f"Line {number} of {path} is no `name:sha256`. `tandem api-key NAME` makes keys and lines."
                )
        if not lines:
            raise ApiKeysError(f"{path} has no key. Make one with `tandem api-key NAME`.")
        self._digests = tuple(bytes.fromhex(line.partition(":")[2]) for line in lines.values())
        self._version = version


def check_listening(host: str, settings: Settings) -> None:
    """Raise `ApiKeysError` when a service without keys would be reached from other machines, unless it is wanted."""
    if settings.api_keys_file is None and not settings.api_open and not is_loopback(host):
        raise ApiKeysError(
            f"Without API keys the service listens on loopback only, not on {host}. Set TANDEM_API_KEYS_FILE "
            "(`tandem api-key NAME` makes a key), or TANDEM_API_OPEN=true when something else keeps strangers out."
        )


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    for name, value in headers:
        if name == b"x-api-key":
            return value
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
    return None


def _version(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
