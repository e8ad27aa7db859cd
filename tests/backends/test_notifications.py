"""Messages reach a webhook and a mailbox; who does not get one is named by place, and no address is ever shown."""

import logging
from collections.abc import Iterator
from io import StringIO

import pytest
from pydantic import SecretStr

from backends import notifications
from backends.notifications import UNKNOWN, Message, Recipients
from tests.inboxes import mail_server, webhook
from tests.serving import free_port

LATE = Message("churn is late", "No predictions of 2026-11-28.\nhttp://127.0.0.1:3000/runs/1", "warning")


@pytest.fixture
def everything_logged() -> Iterator[StringIO]:
    """What a program that logs everything would log."""
    text, root = StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(text), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.setLevel(level)
    root.removeHandler(handler)


def recipients(*addresses: str) -> Recipients:
    return Recipients.of(SecretStr("  ".join(addresses)))


def test_a_webhook_gets_title_text_and_kind():
    with webhook() as hook:
        assert recipients(hook.address).tell(LATE, [1]) == {}
    (got,) = hook.received
    assert (got["title"], got["message"], got["type"]) == (LATE.title, LATE.body, "warning")


def test_a_mailbox_gets_a_mail():
    with mail_server() as server:
        address = f"mailto://example.com:{server.port}?smtp=127.0.0.1&mode=insecure&from=tandem@example.com&to=ann@example.com"
        assert recipients(address).tell(LATE, [1]) == {}
    (mail,) = server.received
    assert mail["subject"] == LATE.title
    assert "ann@example.com" in mail["to"]
    assert "No predictions of 2026-11-28." in mail.get_body(("plain",)).get_content()


def test_everybody_is_told_though_one_address_is_dead_and_another_makes_no_sense():
    with webhook() as hook:
        failed = recipients(f"json://127.0.0.1:{free_port()}", hook.address, "gibberish://x").tell(LATE, [1, 2, 3])
    assert hook.titles == [LATE.title]
    assert failed.keys() == {1, 3}
    assert "Connection error" in failed[1]
    assert failed[3] == UNKNOWN


def test_only_those_who_are_named_are_told():
    with webhook() as first, webhook() as second:
        assert recipients(first.address, second.address).tell(LATE, [2, 7]) == {}
    assert (first.received, second.titles) == ([], [LATE.title])


def test_a_refusal_says_what_was_answered():
    with webhook() as hook:
        hook.status = 404
        failed = recipients(hook.address).tell(LATE, [1])
    assert "404" in failed[1]


def test_a_recipient_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(notifications, "READ_SECONDS", 0.3)
    with webhook() as hook:
        hook.hangs = True
        failed = recipients(hook.address).tell(LATE, [1])
        assert not hook.released.is_set()
    assert failed.keys() == {1}
    assert hook.asked == 1


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid"])
def test_no_part_of_an_address_is_shown_or_logged(host, everything_logged, capfd):
    secrets = ("hunter22", "tok/en", "tok%2Fen", "s3cr3tpath", "ann.smith")
    people = recipients(f"json://ann.smith:hunter22@{host}/s3cr3tpath?-key=tok%2Fen")
    failed = people.tell(LATE, [1])
    shown = " ".join(
        [str(failed), repr(people), str(vars(notifications)), everything_logged.getvalue(), *capfd.readouterr()]
    )
    assert failed.keys() == {1}
    assert not [secret for secret in secrets if secret in shown]
    assert host.partition(":")[0] not in str(failed)


def test_without_a_setting_there_is_nobody():
    assert recipients().places == []
