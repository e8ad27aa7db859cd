"""A line to a server that can swallow an answer: what a network does when it breaks after a request was carried out."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Relay:
    """Passes bytes on between clients and a server; after `swallow(words)`, the answer to those words is lost."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._words: bytes | None = None
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._door.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self, words: bytes) -> None:
        """Close the line instead of passing on the answer to the next request that has these words."""
        self._words = words

    def close(self) -> None:
        """Let nobody in any more."""
        self._door.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._door.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server, suppress(OSError):
            lost = threading.Event()
            threading.Thread(target=self._answers, args=(server, client, lost), daemon=True).start()
            while request := client.recv(1 << 20):
                if self._words and self._words in request:
                    self._words = None
                    lost.set()
                server.sendall(request)

    def _answers(self, server: socket.socket, client: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while answer := server.recv(1 << 20):
                if lost.is_set():
                    break
                client.sendall(answer)
            client.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay(server_port: int) -> Iterator[Relay]:
    """Run a line to a server of this machine."""
    line = Relay(server_port)
    try:
        yield line
    finally:
        line.close()
