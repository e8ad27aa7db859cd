"""The messages of `protocol.proto`, made at import from its descriptors in `protocol.pb` (`make protocol`).

They live in a pool of their own: in protobuf's default pool, a process could not also import another client of the
protocol, Triton's for example, since both define the package `inference`.
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool

SERVICE = "inference.GRPCInferenceService"
DESCRIPTORS = Path(__file__).with_name("protocol.pb")


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _pool()
METHODS = {
    method.name: (
        message_factory.GetMessageClass(method.input_type),
        message_factory.GetMessageClass(method.output_type),
    )
    for method in POOL.FindServiceByName(SERVICE).methods
}


def message(name: str) -> Any:
    """Return the class of a message of the protocol; protobuf makes one class for each."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


ModelInferRequest = message("ModelInferRequest")
ModelInferResponse = message("ModelInferResponse")
