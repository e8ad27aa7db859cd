"""The bodies of inference requests and responses over REST.

Tensors stand in the JSON, or behind it as raw bytes (the extension `binary_tensor_data`, which Triton's client uses
unless it is told otherwise): the header `Inference-Header-Content-Length` then says where the JSON ends.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import to_json

from bento.open_inference.tensors import (
    BINARY_SIZE,
    BYTES,
    HEADER_LENGTH,
    UNSUPPORTED,
    Tensor,
    bytes_of,
    refused,
    tensor_of_bytes,
    tensor_of_elements,
    texts_of,
)
from bento.rest import parsed
from bento.schema import REASONS

_KINDS: Mapping[type, str] = {str: "a text", list: "a list", dict: "an object"}


class Asked(NamedTuple):
    """An inference request as it was read: `outputs` are names, and whether each is wanted as raw bytes."""

    id: str | None
    tensors: list[Tensor]
    outputs: dict[str, bool]
    binary: bool  # for outputs that are not named
    reasons: Any = None  # how many are asked for, as it came


def read_request(body: bytes, header_length: str | None) -> Asked:
    """Read the body of an inference request; `ValueRejectedError` for anything that is not as the protocol says."""
    end = _json_end(body, header_length)
    known = {"id": str, "inputs": list, "outputs": list, "parameters": dict}
    fields = _fields("request", parsed(body[:end]), known, ("inputs",))
    raw = _Raw(body[end:])
    tensors = [_tensor(f"inputs[{i}]", described, raw) for i, described in enumerate(fields["inputs"])]
    raw.check_used_up()
    parameters = fields.get("parameters", {})
    binary = parameters.get("binary_data_output") is True
    outputs = dict(_output(f"outputs[{i}]", named, binary) for i, named in enumerate(fields.get("outputs", [])))
    return Asked(fields.get("id"), tensors, outputs, binary, parameters.get(REASONS))


def written_response(head: Mapping[str, Any], outputs: Sequence[Tensor], asked: Asked) -> tuple[bytes, int | None]:
    """Return the body of a response, and the length of the JSON in it when raw bytes stand behind that."""
    described, raw = [], []
    for output in outputs:
        shown: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": [len(output.values)]}
        if asked.outputs.get(output.name, asked.binary):
            raw.append(bytes_of(output))
            shown["parameters"] = {BINARY_SIZE: len(raw[-1])}
        else:
            shown["data"] = texts_of(output) if output.datatype == BYTES else output.values
        described.append(shown)
    content = to_json({**head, "outputs": described})
    return (b"".join([content, *raw]), len(content)) if raw else (content, None)


def _json_end(body: bytes, header_length: str | None) -> int:
    if header_length is None:
        return len(body)
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 20):
        raise refused(HEADER_LENGTH, header_length, "is not a length", "Give the length of the JSON in bytes.")
    if int(header_length) > len(body):
        remedy = "Give the length of the JSON, without the raw data behind it."
        raise refused(HEADER_LENGTH, header_length, f"is beyond the body of {len(body)} bytes", remedy)
    return int(header_length)


class _Raw:
    """What stands behind the JSON, handed out in the order of the inputs."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._start = 0

    def take(self, at: str, size: Any) -> bytes:
        left = len(self._raw) - self._start
        if type(size) is not int or not 0 <= size <= left:
            remedy = "Send the raw data of all inputs behind the JSON, in the order of the inputs."
            raise refused(f"{at}.parameters.{BINARY_SIZE}", size, f"is not a size within {left} bytes", remedy)
        self._start += size
        return self._raw[self._start - size : self._start]

    def check_used_up(self) -> None:
        if self._start < len(self._raw):
            remedy = f"Name the raw data of each input by its parameter {BINARY_SIZE}."
            raise refused("request", None, f"has {len(self._raw) - self._start} bytes that no input names", remedy)


def _tensor(at: str, described: Any, raw: _Raw) -> Tensor:
    known = {"name": str, "datatype": str, "shape": list, "data": list, "parameters": dict}
    fields = _fields(at, described, known, ("name", "datatype", "shape"))
    name, datatype, shape = fields["name"], fields["datatype"], fields["shape"]
    size = fields.get("parameters", {}).get(BINARY_SIZE)
    if size is None:
        return tensor_of_elements(name, datatype, shape, fields.get("data"))
    if "data" in fields:
        raise refused(f"{at}.data", None, f"stands beside {BINARY_SIZE}", "Send one of the two.")
    return tensor_of_bytes(name, datatype, shape, raw.take(at, size))


def _output(at: str, named: Any, binary: bool) -> tuple[str, bool]:
    fields = _fields(at, named, {"name": str, "parameters": dict}, ("name",))
    parameters = fields.get("parameters", {})
    if strange := [name for name in UNSUPPORTED if parameters.get(name)]:
        raise refused(f"{at}.parameters", strange[0], "is not supported here", "Leave it out.")
    return fields["name"], parameters.get("binary_data", binary) is True


def _fields(at: str, content: Any, known: Mapping[str, type], needed: tuple[str, ...]) -> dict[str, Any]:
    """Return an object's fields after a check of their types; other fields are ignored, null is as if left out."""
    if not isinstance(content, dict):
        raise refused(at, content, "is not a JSON object", f"Send an object with {', '.join(needed)}.")
    fields = {name: content[name] for name in known if content.get(name) is not None}
    for name in needed:
        if name not in fields:
            raise refused(f"{at}.{name}", None, "is missing", f"Send an object with {', '.join(needed)}.")
    for name, value in fields.items():
        if not isinstance(value, known[name]):
            remedy = f"Send {_KINDS[known[name]]}."
            raise refused(f"{at}.{name}", value, f"is not {_KINDS[known[name]]}", remedy)
    return fields
