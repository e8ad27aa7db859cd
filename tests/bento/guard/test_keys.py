"""API keys: hashed at rest, several at once, changed while the service runs."""

import hashlib
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backends.settings import Settings
from bento.guard import keys
from bento.guard.keys import KeyRing, check_listening, new_key
from models.errors import ApiKeysError
from orchestration.cli import app


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(keys, "REREAD_SECONDS", 0.0)


def write(file: Path, *lines: str) -> None:
    """Write the file as an editor does: a new one in the place of the old one."""
    file.with_suffix(".new").write_text("".join(f"{line}\n" for line in lines))
    file.with_suffix(".new").replace(file)


def test_without_a_file_nobody_needs_a_key():
    ring = KeyRing.open(Settings())
    assert not ring.required
    assert ring.accepts(None)
    assert ring.accepts_headers([])


def test_each_key_of_the_file_is_accepted_and_no_other(file):
    (first, line), (second, other_line) = new_key("shop"), new_key("batch-2.eu")
    write(file, "# who may ask", "", line, f"  {other_line}  ")
    ring = KeyRing.open(Settings(api_keys_file=file))
    assert ring.required
    assert ring.accepts(first)
    assert ring.accepts(second.encode())
    for wrong in (None, "", b"", "wrong", first[:-1], first.upper(), f"{first} ", line, line.partition(":")[2], "é"):
        assert not ring.accepts(wrong), wrong


def test_the_file_does_not_have_the_keys(file):
    key, line = new_key("shop")
    assert len(key) > 43
    assert key not in line
    assert line == f"shop:{hashlib.sha256(key.encode()).hexdigest()}"
    assert new_key("shop")[0] != key


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        ([(b"x-api-key", b"KEY")], True),
        ([(b"authorization", b"Bearer KEY")], True),
        ([(b"host", b"x"), (b"authorization", b"bearer   KEY")], True),
        ([(b"authorization", b"KEY")], False),
        ([(b"authorization", b"Basic KEY")], False),
        ([(b"authorization", b"Bearer")], False),
        ([(b"x-api-key", b"")], False),
        ([(b"x-api-key", b"\xff\xfe")], False),
        ([(b"x-key", b"KEY")], False),
        ([], False),
    ],
)
def test_a_key_stands_in_one_of_two_headers(file, headers, accepted):
    key, line = new_key("shop")
    write(file, line)
    ring = KeyRing(file)
    assert ring.accepts_headers([(name, value.replace(b"KEY", key.encode())) for name, value in headers]) is accepted


def test_keys_are_rotated_without_a_restart(file, at_once):
    (old, old_line), (new, new_line) = new_key("shop"), new_key("shop-2")
    write(file, old_line)
    ring = KeyRing(file)
    write(file, old_line, new_line)
    assert ring.accepts(new)
    assert ring.accepts(old)
    write(file, new_line)
    assert not ring.accepts(old)
    assert ring.accepts(new)


def test_the_file_is_looked_at_once_a_second(file):
    (old, old_line), (new, new_line) = new_key("shop"), new_key("shop-2")
    write(file, old_line)
    ring = KeyRing(file)
    assert ring.accepts(old)
    write(file, new_line)
    ring._next_look += 3600  # on a slow machine the second may be over
    assert not ring.accepts(new)
    ring._next_look = 0
    assert ring.accepts(new)


@pytest.mark.parametrize("damage", ["gone", "empty", "no line of ours", "not text"])
def test_a_file_that_is_damaged_meanwhile_changes_nothing_and_is_logged(file, at_once, damage, caplog):
    key, line = new_key("shop")
    write(file, line)
    ring = KeyRing(file)
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "no line of ours": b"hunter2\n", "not text": b"\xff\xfe"}[damage])
    assert ring.accepts(key)
    assert not ring.accepts("wrong")
    assert "The API keys stay as they were" in caplog.text
    assert "hunter2" not in caplog.text
    write(file, line, new_key("another")[1])
    caplog.clear()
    assert ring.accepts(key)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("hunter2\n", "Line 1 of .* is no `name:sha256`"),
        (f"# fine\nshop:{'0' * 63}\n", "Line 2 of"),
        (f":{'0' * 64}\n", "Line 1 of"),
        (f"shop:{'G' * 64}\n", "Line 1 of"),
        ("# nobody\n\n", "has no key"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_not_shown(file, content, says):
    if content is not None:
        file.write_text(content)
    with pytest.raises(ApiKeysError, match=says) as refused:
        KeyRing.open(Settings(api_keys_file=file))
    assert "hunter2" not in str(refused.value)
    assert "tandem api-key" in str(refused.value) or "TANDEM_API_KEYS_FILE" in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(file):
    write(file, new_key("shop")[1])
    file.chmod(0)
    with pytest.raises(ApiKeysError, match="cannot be read"):
        KeyRing(file)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "localhost"])
def test_on_loopback_a_service_may_listen_without_keys(host):
    check_listening(host, Settings())


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.7", "::ffff:10.0.0.7", "example.org", "localhost.example.org"]
)
def test_elsewhere_it_needs_keys_or_a_clear_word(host, file):
    with pytest.raises(ApiKeysError, match=r"loopback only.*TANDEM_API_KEYS_FILE.*TANDEM_API_OPEN"):
        check_listening(host, Settings())
    check_listening(host, Settings(api_open=True))
    check_listening(host, Settings(api_keys_file=file))


def test_the_command_line_makes_a_key_and_its_line(file):
    made = CliRunner().invoke(app, ["api-key", "shop"])
    assert made.exit_code == 0
    key, line = made.stdout.split()
    write(file, line)
    assert KeyRing(file).accepts(key)


@pytest.mark.parametrize("name", ["", "with space", "a:b", "-x", "ä", "two\nlines"])
def test_a_name_that_does_not_fit_in_the_file_is_refused(name):
    with pytest.raises(ApiKeysError, match="cannot be called"):
        new_key(name)
