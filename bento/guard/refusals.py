"""What is answered without asking the service: bytes made in advance, in the form of every other error."""

from http import HTTPStatus
from typing import NamedTuple, Self

from pydantic_core import to_json

from bento.failures import RETRY_AFTER_SECONDS, refusal
from models.errors import Problem

MOST_HEAD_BYTES = 1 << 16


class Refusal(NamedTuple):
    """An HTTP answer: its head without the last line, and its body."""

    status: int
    head: bytes
    body: bytes

    @classmethod
    def of(cls, status: int, kind: str, field: str, message: str, remedy: str) -> Self:
        """Return the answer that names a problem."""
        body = to_json(refusal(status, kind, Problem(field, None, message, remedy)))
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
        ]
        if status == 503:
            lines.append(f"retry-after: {RETRY_AFTER_SECONDS}")
        if status == 401:
            lines.append("www-authenticate: Bearer")
        return cls(status, "".join(f"{line}\r\n" for line in lines).encode(), body)

    def write(self, keep_alive: bool, with_body: bool = True) -> bytes:
        """Return all bytes of the answer."""
        end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        return b"".join([self.head, end, self.body if with_body else b""])


NO_KEY = Refusal.of(
    401,
    "KeyRefused",
    "Authorization",
    "is no key of this service",
    "Send `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
)
NOT_OPEN = Refusal.of(
    403,
    "NotOpen",
    "address",
    "is not loopback, and there are no keys",
    "Set TANDEM_API_KEYS_FILE or TANDEM_API_OPEN.",
)
NOT_HTTP = Refusal.of(400, "NotHttp", "request", "is not HTTP/1.1", "Send a request as RFC 9112 describes it.")
TOO_SLOW = Refusal.of(
    408, "TooSlow", "request", "did not arrive in time", "Send it in one go, or raise TANDEM_API_REQUEST_SECONDS."
)
HEAD_TOO_LARGE = Refusal.of(
    431, "HeadTooLarge", "headers", f"are longer than {MOST_HEAD_BYTES} bytes", "Send fewer or shorter ones."
)
OVERLOADED = Refusal.of(
    503, "Overloaded", "request", "would wait too long for its turn", "Try again after the seconds of Retry-After."
)
TOO_MANY_CONNECTIONS = Refusal.of(
    503, "TooManyConnections", "connection", "is one too many", "Try again later, or raise TANDEM_API_MAX_CONNECTIONS."
)


def body_too_large(most_bytes: int) -> Refusal:
    """Return the answer to a body that is longer than allowed."""
    remedy = "Send fewer rows at once, or raise TANDEM_API_MAX_BODY_BYTES."
    return Refusal.of(413, "BodyTooLarge", "request", f"is longer than {most_bytes} bytes", remedy)
