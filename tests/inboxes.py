"""Where messages arrive in tests: a webhook and a mail server on loopback, real ones, that can be told to misbehave."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook(ThreadingHTTPServer):
    """Keeps the JSON that is posted to it. `status` is what it answers with; while `hangs`, it does not answer."""

    class RequestHandlerClass(BaseHTTPRequestHandler):
        server: "Webhook"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.server.asked += 1
            if self.server.hangs:
                self.server.released.wait(30)
                return
            if self.server.status == 200:
                self.server.received.append(body)
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.RequestHandlerClass)
        self.received: list[dict[str, str]] = []
        self.asked, self.status, self.hangs, self.released = 0, 200, False, threading.Event()

    def handle_error(self, *_: Any) -> None:  # who was left waiting has gone
        pass

    @property
    def address(self) -> str:
        return f"json://127.0.0.1:{self.server_port}/secret-token"

    @property
    def titles(self) -> list[str]:
        return [one["title"] for one in self.received]


@contextmanager
def webhook() -> Iterator[Webhook]:
    """Run a webhook."""
    with Webhook() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


class MailServer:
    """Takes mail over SMTP, as much of it as a client needs."""

    def __init__(self) -> None:
        self.received: list[EmailMessage] = []
        self.port = 0
        self._ready, self._stop = threading.Event(), asyncio.Event()

    async def serve(self) -> None:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        async with server:
            await self._stop.wait()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sink\r\n")
        while line := await reader.readline():
            verb = line.split()[0].upper()
            if verb == b"DATA":
                writer.write(b"354 go on\r\n")
                text = await reader.readuntil(b"\r\n.\r\n")
                message = message_from_bytes(text[:-5], policy=policy.default)
                assert isinstance(message, EmailMessage)
                self.received.append(message)
            writer.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n")
            await writer.drain()
            if verb == b"QUIT":
                break
        writer.close()


@contextmanager
def mail_server() -> Iterator[MailServer]:
    """Run a mail server."""
    server = MailServer()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    assert server._ready.wait(10)
    try:
        yield server
    finally:
        server._loop.call_soon_threadsafe(server._stop.set)
        thread.join()
