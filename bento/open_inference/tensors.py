"""What the Open Inference Protocol calls tensors, and what a predictor calls requests and answers. No transport here.

One tensor is one column: the entity key or a feature, of shape [rows] or [rows, 1]. Its values stay as they came; the
one encoder decides what they may be. A missing number is NaN; a missing text is the empty one, since BYTES has no null
(where a vocabulary has the empty text, it is that value). JSON may write null for either.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bento.schema import FEATURES, REASONS, RECORD
from models.contract import CategoryFeature, Contract, Feature, NumberFeature
from models.errors import Problem, ValueRejectedError

HEADER_LENGTH = "Inference-Header-Content-Length"  # over REST: where the JSON ends and raw contents begin
BINARY_SIZE = "binary_data_size"  # and how many bytes a tensor has there

BYTES = "BYTES"
FORMATS: Mapping[str, str] = {  # of elements in raw contents, as `struct` writes them
    "BOOL": "?",
    **dict(zip(("INT8", "INT16", "INT32", "INT64"), "bhiq", strict=True)),
    **dict(zip(("UINT8", "UINT16", "UINT32", "UINT64"), "BHIQ", strict=True)),
    **dict(zip(("FP16", "FP32", "FP64"), "efd", strict=True)),
}
_SIZES = {name: struct.calcsize(f"<{letter}") for name, letter in FORMATS.items()}
_KINDS: Mapping[str, frozenset[type]] = {
    BYTES: frozenset({str, type(None)}),
    "BOOL": frozenset({bool, type(None)}),
    **{name: frozenset({int, type(None)}) for name in FORMATS if "INT" in name},
    **{name: frozenset({int, float, type(None)}) for name in FORMATS if name.startswith("FP")},
}
_RANGES = {
    **{f"INT{bits}": range(-(2 ** (bits - 1)), 2 ** (bits - 1)) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": range(2**bits) for bits in (8, 16, 32, 64)},
}
UNSUPPORTED = ("classification", "shared_memory_region")  # of an output: to ignore Triton's own would be a wrong answer
_LENGTH = struct.Struct("<I")  # in front of each element of a BYTES tensor


class Tensor(NamedTuple):
    """A column of a request or of an answer: `values` are Python's own, one per row."""

    name: str
    datatype: str
    values: list[Any]


class Described(NamedTuple):
    """A tensor as the model's metadata describe it; `field` is what the predictor calls it."""

    name: str
    datatype: str
    field: str


def inputs_of(contract: Contract) -> dict[str, Described]:
    """Return the tensors that may be sent: the entity key, what an event has, and features in the contract's order."""
    key, kinds = contract.entity_key, {"number": "FP32", "category": BYTES}
    described = [Described(key, "INT64" if contract.entity_key_type == "integer" else BYTES, key)]
    if events := contract.events:
        described.append(Described(events.key, "INT64" if events.key_type == "integer" else BYTES, events.key))
        described += [Described(events.time, BYTES, events.time), Described(RECORD, "BOOL", RECORD)]
    described += [Described(name, kinds[feature.kind], name) for name, feature in contract.asked.features.items()]
    return {one.name: one for one in described}


def explained_outputs() -> dict[str, Described]:
    """Return the tensors that an answer has beside them when reasons are asked for, each of shape [rows]."""
    described = [
        Described("base_probability", "FP64", "base_probability"),
        Described(REASONS, BYTES, REASONS),  # a JSON list for each row, as `/predict` has it
    ]
    return {one.name: one for one in described}


def outputs_of(contract: Contract) -> dict[str, Described]:
    """Return the tensors of an answer, each of shape [rows]."""
    described = [
        Described(contract.output, "FP32", "probability"),
        Described("decision", "BOOL", "decision"),
        Described("features_as_of", BYTES, "features_as_of"),  # ISO 8601; empty where no stored features were used
        Described("features_stale", "BOOL", "features_stale"),
    ]
    if contract.events:
        described.append(Described("history_events", "INT64", "history_events"))
        described += [Described(name, "BOOL", name) for name in ("history_complete", "known_entity")]
    return {one.name: one for one in described}


# --- requests -------------------------------------------------------------------------------------------------------


def tensor_of_elements(name: str, datatype: str, shape: Sequence[Any], elements: Any) -> Tensor:
    """Return the tensor of elements that stand in JSON, flat or nested as the shape is, or in typed gRPC contents.

    `ValueRejectedError` when they are not as many, or not of the kind, that shape and datatype promise.
    """
    rows = _rows(name, datatype, shape)
    if not isinstance(elements, list):
        raise refused(name, elements, "has no list of data", "Send `data`, a list with one element per row.")
    if len(shape) > 1 and all(isinstance(element, list) for element in elements):
        elements = [element for row in elements for element in row]
    if datatype == BYTES:
        elements = [_text(name, element) if isinstance(element, bytes) else element for element in elements]
    if strange := [element for element in elements if type(element) not in _KINDS[datatype]]:
        raise refused(name, strange[0], f"is not of datatype {datatype}", "Send elements of the tensor's datatype.")
    if (allowed := _RANGES.get(datatype)) and (strange := [e for e in elements if e is not None and e not in allowed]):
        raise refused(name, strange[0], f"does not fit into {datatype}", "Send the tensor in a wider datatype.")
    return Tensor(name, datatype, _counted(name, elements, rows))


def tensor_of_bytes(name: str, datatype: str, shape: Sequence[Any], raw: bytes) -> Tensor:
    """Return the tensor of raw contents: little-endian, and in BYTES each element behind its length in 4 bytes.

    `ValueRejectedError` when there are not as many bytes as shape and datatype promise.
    """
    rows = _rows(name, datatype, shape)
    if datatype == BYTES:
        return Tensor(name, datatype, _counted(name, _texts(name, raw), rows))
    if len(raw) != rows * _SIZES[datatype]:
        remedy = f"Send {rows * _SIZES[datatype]} bytes: {_SIZES[datatype]} for each of {rows} rows."
        raise refused(name, None, f"has {len(raw)} bytes of data", remedy)
    return Tensor(name, datatype, list(struct.unpack(f"<{rows}{FORMATS[datatype]}", raw)))


def requests_of(contract: Contract, tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Return what `Predictor.predict_many` takes, one request per row of the tensors.

    `ValueRejectedError` for a tensor that is not known here, stands twice, or has another number of rows.
    """
    columns = _columns(contract, tensors)
    if contract.events:
        return _events_of(contract, columns)
    keys = columns.pop(contract.entity_key, None)
    if not columns:
        return [{contract.entity_key: key} for key in keys or []]
    names = tuple(columns)
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if keys is None:
        return [{FEATURES: row} for row in rows]
    return [{contract.entity_key: key, FEATURES: row} for key, row in zip(keys, rows, strict=True)]


def _events_of(contract: Contract, columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Return requests about events; an empty text, and a null, is as if it were left out."""
    own = {name: columns.pop(name) for name in _beside_features(contract) if name in columns}
    count = len(next(iter((own or columns).values())))
    given = [{name: values[row] for name, values in columns.items()} for row in range(count)]
    beside = [{n: v[row] for n, v in own.items() if v[row] is not None and v[row] != ""} for row in range(count)]
    return [{**some, FEATURES: features} for some, features in zip(beside, given, strict=True)]


def _beside_features(contract: Contract) -> list[str]:
    """Return the names of the tensors that are no features."""
    events = contract.events
    return [contract.entity_key, *([events.key, events.time, RECORD] if events else [])]


def _columns(contract: Contract, tensors: Sequence[Tensor]) -> dict[str, list[Any]]:
    if not tensors:
        raise refused("inputs", None, "are missing", f"Send {contract.entity_key}, features, or both as tensors.")
    columns: dict[str, list[Any]] = {}
    features, beside = contract.asked.features, _beside_features(contract)
    for name, datatype, values in tensors:
        feature = features.get(name)
        if feature is None and name not in beside:
            what = "is neither the entity key nor a feature" if not contract.events else "is not asked for"
            raise refused("inputs", name, what, f"Known: {', '.join([*beside, *features])}.")
        if name in columns:
            raise refused("inputs", name, "stands twice", "Send each tensor once.")
        if len(values) != len(tensors[0].values):
            remedy = f"Send as many as in {tensors[0].name}: {len(tensors[0].values)}."
            raise refused(name, None, f"has {len(values)} rows", remedy)
        columns[name] = values if feature is None else _with_none(feature, datatype, values)
    return columns


def _with_none(feature: Feature, datatype: str, values: list[Any]) -> list[Any]:
    """Write a missing value as JSON would, which the encoder reads fastest."""
    if isinstance(feature, NumberFeature) and datatype.startswith("FP"):
        return [value if value == value else None for value in values]  # NaN alone is not equal to itself
    if isinstance(feature, CategoryFeature) and datatype == BYTES and "" not in feature.values:
        return [value or None for value in values]
    return values


def _rows(name: str, datatype: str, shape: Sequence[Any]) -> int:
    """Return how many rows a shape has; refuse the datatypes and shapes that no column has."""
    if not name:
        raise refused("inputs", name, "is a tensor without a name", "Give each its name.")
    if datatype not in _KINDS:
        raise refused(name, datatype, "is of a datatype that is not known here", f"Known: {', '.join(_KINDS)}.")
    if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) or type(shape[0]) is not int or shape[0] < 0:
        raise refused(name, list(shape), "has a shape that is no column", "Send shape [rows] or [rows, 1].")
    return shape[0]


def _counted(name: str, values: list[Any], rows: int) -> list[Any]:
    if len(values) != rows:
        raise refused(name, None, f"has {len(values)} elements", f"Send {rows}, as its shape says.")
    return values


def _texts(name: str, raw: bytes) -> list[str]:
    texts: list[str] = []
    start = 0
    while start < len(raw):
        end = start + _LENGTH.size
        if end <= len(raw):
            start, end = end, end + _LENGTH.unpack_from(raw, start)[0]
        if end > len(raw):
            remedy = "Put the length of each element in front of it, as 4 bytes, little-endian."
            raise refused(name, None, f"ends in the middle of element {len(texts)}", remedy)
        texts.append(_text(name, raw[start:end]))
        start = end
    return texts


def _text(name: str, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise refused(name, element[:40], "is not UTF-8", "Send texts in UTF-8.") from error


def refused(field: str, value: Any, message: str, remedy: str) -> ValueRejectedError:
    """Return the error of a request that is not as the protocol or the contract says."""
    return ValueRejectedError([Problem(field, value, message, remedy)])


# --- answers --------------------------------------------------------------------------------------------------------


def wanted(outputs: Mapping[str, Described], requested: Sequence[str]) -> list[Described]:
    """Return the requested outputs in that order, or all when none is; `ValueRejectedError` for an unknown one."""
    if strange := [name for name in requested if name not in outputs]:
        remedy = f"Known: {', '.join(outputs)}."
        if strange[0] in explained_outputs():
            remedy = f"Send the parameter {REASONS} too: how many are wanted."
        raise refused("outputs", strange[0], "is not an output of this request", remedy)
    return [outputs[name] for name in dict.fromkeys(requested or outputs)]


def answered(outputs: Sequence[Described], answers: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """Return some answers of a predictor as output tensors."""
    return [Tensor(name, datatype, [answer[field] for answer in answers]) for name, datatype, field in outputs]


def bytes_of(tensor: Tensor) -> bytes:
    """Return an output tensor as raw contents; a probability is the scorer's own float32 again."""
    if tensor.datatype == BYTES:
        encoded = [text.encode() for text in texts_of(tensor)]
        return b"".join(part for value in encoded for part in (_LENGTH.pack(len(value)), value))
    return struct.pack(f"<{len(tensor.values)}{FORMATS[tensor.datatype]}", *tensor.values)


def texts_of(tensor: Tensor) -> list[str]:
    """Return the elements of a BYTES tensor of an answer; what is not there is the empty text."""
    return [value or "" for value in tensor.values]
