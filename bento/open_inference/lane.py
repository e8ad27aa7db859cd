"""Whether and where a service speaks gRPC: what its worker starts and stops beside HTTP."""

import socket
from functools import partial
from typing import TYPE_CHECKING

from backends.settings import Settings
from bento.guard.gate import Rules, listening_hosts
from bento.open_inference.inference import OpenInference
from models.contract import Contract
from models.errors import PortTakenError

if TYPE_CHECKING:
    from bento.open_inference.grpc_server import GrpcServer

LOOPBACK = "127.0.0.1"


class GrpcLane:
    """The gRPC of one worker, on the host where HTTP listens. Does nothing when the `port` is 0.

    `shared` lets several workers listen on the port.
    """

    def __init__(self, inference: OpenInference, settings: Settings, rules: Rules, *, shared: bool) -> None:
        self.port = grpc_port(settings, inference.contract)
        self._server: GrpcServer | None = None
        if self.port:
            from bento.open_inference import grpc_server  # here: 15 MB that a service without gRPC saves

            limits = grpc_server.Limits(rules.keys, rules.admission, rules.max_body_bytes, rules.max_connections)
            tls = partial(_tls, settings)
            self._server = grpc_server.GrpcServer(inference, self._address(), limits, tls, shared=shared)

    def check(self) -> None:
        """Raise `PortTakenError` when somebody listens on the port already; to be asked before any worker starts."""
        if self.port:
            check_port_is_free(self.port)

    async def start(self) -> None:
        """Listen; `PortTakenError` when that is not possible."""
        if self._server is not None:
            await self._server.start()

    async def stop(self) -> None:
        """Take no more calls, and wait for those in flight."""
        if self._server is not None:
            await self._server.stop()

    def _address(self) -> str:
        host = next(iter(listening_hosts()), LOOPBACK)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def grpc_port(settings: Settings, contract: Contract) -> int:
    """Return the port of gRPC, 0 for none: the setting's, else the declaration's."""
    return contract.api.grpc_port if settings.grpc_port is None else settings.grpc_port


def check_port_is_free(port: int) -> None:
    """Raise `PortTakenError` when somebody listens on a port.

    Several workers of a service share their port, which the kernel would also let those of another service do.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except OSError as error:
            raise PortTakenError(
                f"gRPC cannot listen on port {port}: {error.strerror}. "
                "Set TANDEM_GRPC_PORT to a free port, or to 0 for no gRPC."
            ) from error


def _tls(settings: Settings) -> tuple[bytes, bytes] | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes()
