"""Messages to people, through Apprise: who is told, and whether a message arrived.

What is worth telling is not known here. Addresses carry passwords and tokens: none is ever shown, logged or raised.
"""

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import unquote

from pydantic import SecretStr

Kind = Literal["info", "success", "warning", "failure"]
CONNECT_SECONDS, READ_SECONDS, ALL_SECONDS = 3.0, 4.0, 8.0
UNKNOWN = "Apprise does not know this kind of address, or it lacks a part. See docs/notifications.md."
LONGEST_REASON = 300
SHOWN_LENGTH = 4  # a shorter text is no secret, and would be found in any word


@dataclass(frozen=True)
class Message:
    """What somebody is told: a line, a text, and how bad it is."""

    title: str
    body: str
    kind: Kind


class Recipients:
    """Everybody in `TANDEM_NOTIFY`, each known by the place of the address in it: 1, 2, ..."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = dict(enumerate(addresses, 1))

    @classmethod
    def of(cls, addresses: SecretStr) -> Self:
        """Read the setting: Apprise URLs with white space between them."""
        return cls(addresses.get_secret_value().split())

    def __len__(self) -> int:
        return len(self._addresses)

    @property
    def places(self) -> list[int]:
        """The place of each address."""
        return list(self._addresses)

    def tell(self, message: Message, places: Collection[int]) -> dict[int, str]:
        """Send a message to some; return why not for those who did not get it. Never raises, and waits 8 s at most."""
        apprise = _silenced()
        everybody, failed = apprise.Apprise(), {}
        for place in sorted(set(places) & self._addresses.keys()):
            service = _service(self._addresses[place])
            if service is None:
                failed[place] = UNKNOWN
            else:
                everybody.add(service, tag=str(place))
                service.tags = {str(place)}
        if len(everybody):
            failed |= self._send(everybody, message)
        return failed

    def _send(self, everybody: Any, message: Message) -> dict[int, str]:
        from apprise import NotifyFormat, NotifyType

        results = everybody.notify(
            message.body,
            title=message.title,
            notify_type=NotifyType(message.kind),
            body_format=NotifyFormat.TEXT,
            timeout=ALL_SECONDS,
            log_level=logging.WARNING,
        )
        told = {int(next(iter(result.tag))): result for result in results}
        asked = {int(next(iter(service.tags))) for service in everybody}
        return {place: self._reason(place, told.get(place)) for place in asked if not told.get(place)}

    def _reason(self, place: int, result: Any) -> str:
        if result is None:
            return "it was not asked"
        if result.status.name == "TIMEOUT":
            return f"{result.name} did not answer within {ALL_SECONDS:g} s"
        said = next((entry.message for entry in reversed(list(result.logs()))), "no reason is known")
        return f"{result.name}: {_masked(said, self._addresses[place])[:LONGEST_REASON]}"


def _silenced() -> Any:
    """Return Apprise; it logs addresses, and what it sends with logs their paths."""
    logging.getLogger("apprise").propagate = False
    for name in ("urllib3", "smtplib"):
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger(name).level))
    import apprise

    return apprise


def _service(address: str) -> Any:
    """Return Apprise's plugin for an address, with limits to waiting; None for one that it does not know."""
    service = _silenced().Apprise.instantiate(address, suppress_exceptions=True)
    if service is not None:
        service.socket_connect_timeout = min(service.socket_connect_timeout, CONNECT_SECONDS)
        service.socket_read_timeout = min(service.socket_read_timeout, READ_SECONDS)
    return service


def _masked(text: str, address: str) -> str:
    """Return a text without any part of an address."""
    parts = {part for part in re.split(r"[:/?&=@,+#]+", address.partition("://")[2]) if len(part) >= SHOWN_LENGTH}
    for secret in sorted(parts | {unquote(part) for part in parts}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return " ".join(text.split())
