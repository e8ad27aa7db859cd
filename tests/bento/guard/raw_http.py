"""HTTP by hand: what no decent client sends, byte by byte."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

PATIENCE = 30.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        return str(self.json()["error"]["type"])


class RawConnection:
    """One TCP connection to a service."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self.socket = socket.create_connection((where.hostname, where.port), PATIENCE)
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        self.send(request(path, body, headers))
        return self.answer()

    def answer(self) -> Answer:
        head, _, self._read = self._until(b"\r\n\r\n").partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status, length = int(first.split()[1]), int(headers.get("content-length", "0"))
        while len(self._read) < length:
            self._read += self._some()
        body, self._read = self._read[:length], self._read[length:]
        return Answer(status, headers, body)

    def is_closed(self) -> bool:
        """Whether the service closes the connection without another byte."""
        return not self._read and self.socket.recv(1) == b""

    def _until(self, end: bytes) -> bytes:
        while end not in self._read:
            self._read += self._some()
        return self._read

    def _some(self) -> bytes:
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError(f"closed after {self._read[:200]!r}")
        return data


def request(path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, method: str = "POST") -> bytes:
    """Return the bytes of a request; `content-length` is added unless the headers say something about the length."""
    lines = {"host": "tests", "content-type": "application/json", **(headers or {})}
    if "transfer-encoding" not in lines:
        lines.setdefault("content-length", str(len(body)))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body
