"""Tensors in the messages of gRPC: raw contents as Triton's client sends them, typed ones as a person writes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from bento.open_inference.messages import ModelInferResponse
from bento.open_inference.tensors import (
    BYTES,
    UNSUPPORTED,
    Tensor,
    bytes_of,
    refused,
    tensor_of_bytes,
    tensor_of_elements,
    texts_of,
)
from bento.schema import REASONS

_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}


def tensors_in(request: Any) -> list[Tensor]:
    """Return the input tensors of a `ModelInferRequest`; `ValueRejectedError` for what is not as the protocol says."""
    raw = request.raw_input_contents
    if not raw:
        return [_typed(tensor) for tensor in request.inputs]
    if len(raw) != len(request.inputs):
        remedy = f"Send one for each of {len(request.inputs)} inputs, in their order."
        raise refused("raw_input_contents", None, f"has {len(raw)} elements", remedy)
    tensors = []
    for tensor, content in zip(request.inputs, raw, strict=True):
        if tensor.HasField("contents"):
            raise refused(tensor.name, None, "has contents beside raw_input_contents", "Send one of the two.")
        tensors.append(tensor_of_bytes(tensor.name, tensor.datatype, list(tensor.shape), content))
    return tensors


def outputs_in(request: Any) -> list[str]:
    """Return the names of the outputs that a request asks for."""
    names = []
    for output in request.outputs:
        if strange := [name for name in UNSUPPORTED if name in output.parameters]:
            raise refused(f"outputs.{output.name}.parameters", strange[0], "is not supported here", "Leave it out.")
        names.append(output.name)
    return names


def reasons_in(request: Any) -> Any:
    """Return how many reasons a request asks for, as it came; None when it does not."""
    if REASONS not in request.parameters:
        return None
    parameter = request.parameters[REASONS]
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def head_of(head: Mapping[str, Any]) -> Any:
    """Return the part of a `ModelInferResponse` that is the same for every request."""
    response = ModelInferResponse(model_name=head["model_name"], model_version=head["model_version"])
    for name, value in head["parameters"].items():
        if isinstance(value, str):
            response.parameters[name].string_param = value
        else:
            response.parameters[name].double_param = value
    return response


def response_of(head: Any, id_: str, outputs: Sequence[Tensor], raw: bool) -> Any:
    """Return a `ModelInferResponse`, with contents of the kind that the request had."""
    response = ModelInferResponse(id=id_)
    response.MergeFrom(head)
    for output in outputs:
        message = response.outputs.add(name=output.name, datatype=output.datatype, shape=[len(output.values)])
        if raw:
            response.raw_output_contents.append(bytes_of(output))
        else:
            fill_typed(message, output)
    return response


def fill_typed(message: Any, tensor: Tensor) -> None:
    """Write a tensor's values into the typed contents of a message."""
    values = [text.encode() for text in texts_of(tensor)] if tensor.datatype == BYTES else tensor.values
    getattr(message.contents, _FIELDS[tensor.datatype]).extend(values)


def _typed(tensor: Any) -> Tensor:
    field = _FIELDS.get(tensor.datatype)
    if field is None:  # FP16 has no typed contents; what is not known at all is refused as everywhere
        elements: Any = [] if tensor.datatype != "FP16" else None
        return tensor_of_elements(tensor.name, tensor.datatype, list(tensor.shape), elements)
    return tensor_of_elements(tensor.name, tensor.datatype, list(tensor.shape), list(getattr(tensor.contents, field)))
