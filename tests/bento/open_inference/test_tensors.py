"""Tensors to requests and back, without a server: every form of them, and whatever else somebody may send."""

import contextlib
import json
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from bento.open_inference.bodies import Asked, read_request, written_response
from bento.open_inference.contents import head_of, outputs_in, response_of, tensors_in
from bento.open_inference.messages import DESCRIPTORS, METHODS, POOL, ModelInferRequest
from bento.open_inference.tensors import (
    FORMATS,
    Tensor,
    bytes_of,
    inputs_of,
    outputs_of,
    requests_of,
    tensor_of_bytes,
    tensor_of_elements,
    wanted,
)
from models.contract import CategoryFeature
from models.errors import ValueRejectedError
from tests.tiny_model import FEATURES, tiny_contract

CONTRACT = tiny_contract()
NUMPY = {"BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"} | {
    f"{sign}{bits}": f"<{sign[0].lower()}{bits // 8}" for sign in ("INT", "UINT") for bits in (8, 16, 32, 64)
}


@pytest.mark.parametrize("datatype", FORMATS)
def test_raw_contents_are_read_and_written_as_numpy_does(datatype):
    values = np.array([0, 1, 1, 0] if datatype == "BOOL" else [0, 1, 77, 3], NUMPY[datatype])
    tensor = tensor_of_bytes("balance", datatype, [4], values.tobytes())
    assert tensor.values == values.tolist()
    assert bytes_of(tensor) == values.tobytes()


def test_raw_texts_are_read_and_written_as_tritons_client_does():
    texts = ["", "pro", "ÄÖ\0ü", "x" * 1000]
    raw = serialize_byte_tensor(np.array(texts, object)).item()
    tensor = tensor_of_bytes("plan", "BYTES", [4, 1], raw)
    assert tensor.values == texts
    assert bytes_of(tensor) == raw


def test_columns_become_rows():
    tensors = [
        tensor_of_elements("customer_id", "INT64", [2], [7, 8]),
        tensor_of_elements("balance", "FP64", [2, 1], [[1.5], [None]]),
        tensor_of_bytes("age_years", "FP32", [2], np.float32([np.nan, 40]).tobytes()),
        tensor_of_elements("plan", "BYTES", [2], ["pro", ""]),
    ]
    assert requests_of(CONTRACT, tensors) == [
        {"customer_id": 7, "features": {"balance": 1.5, "age_years": None, "plan": "pro"}},
        {"customer_id": 8, "features": {"balance": None, "age_years": 40.0, "plan": None}},
    ]
    assert requests_of(CONTRACT, tensors[:1]) == [{"customer_id": 7}, {"customer_id": 8}]
    assert requests_of(CONTRACT, tensors[3:]) == [{"features": {"plan": "pro"}}, {"features": {"plan": None}}]


def test_the_empty_text_is_a_value_where_the_vocabulary_has_it():
    known = CategoryFeature(kind="category", values=("", "pro"), missing=True)
    contract = tiny_contract(features=FEATURES | {"plan": known})
    tensors = [tensor_of_elements("plan", "BYTES", [1], [""]), tensor_of_elements("channel", "BYTES", [1], [""])]
    assert requests_of(contract, tensors) == [{"features": {"plan": "", "channel": None}}]


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (("balance", "FP8", [1], [1.0]), "datatype that is not known.*Known: BYTES, BOOL"),
        (("balance", "FP32", [], [1.0]), r"balance: has a shape that is no column.*Send shape \[rows\]"),
        (("balance", "FP32", [1, 2], [1.0, 2.0]), "no column"),
        (("balance", "FP32", [-1], []), "no column"),
        (("balance", "FP32", [True], [1.0]), "no column"),
        (("balance", "FP32", [2], [1.0]), "has 1 elements.*Send 2"),
        (("balance", "FP32", [1], None), "no list of data"),
        (("balance", "FP32", [1], [True]), r"not of datatype FP32 \(value: True\)"),
        (("balance", "FP32", [1], ["1"]), "not of datatype FP32"),
        (("balance", "INT8", [2], [1, 300]), r"does not fit into INT8 \(value: 300\)"),
        (("balance", "UINT64", [1], [-1]), "does not fit into UINT64"),
        (("balance", "INT64", [1], [1.0]), "not of datatype INT64"),
        (("plan", "BYTES", [1], [b"\xff"]), "plan: is not UTF-8"),
        (("plan", "BYTES", [1, 1], [[["pro"]]]), "not of datatype BYTES"),
    ],
)
def test_a_tensor_that_is_not_as_it_says_is_named(tensor, said):
    with pytest.raises(ValueRejectedError, match=said):
        tensor_of_elements(*tensor)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (("balance", "FP32", [2], b"\0" * 7), "has 7 bytes of data.*Send 8 bytes: 4 for each of 2 rows"),
        (("plan", "BYTES", [1], b"\0\0"), "ends in the middle of element 0"),
        (("plan", "BYTES", [1], struct.pack("<I", 5) + b"pro"), "ends in the middle of element 0"),
        (("plan", "BYTES", [2], struct.pack("<I", 3) + b"pro"), "has 1 elements.*Send 2"),
        (("plan", "BYTES", [1], struct.pack("<I", 1) + b"\xff"), "not UTF-8"),
    ],
)
def test_raw_contents_that_are_not_as_they_say_are_named(tensor, said):
    with pytest.raises(ValueRejectedError, match=said):
        tensor_of_bytes(*tensor)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([], "inputs: are missing.*Send customer_id, features, or both"),
        ([Tensor("blance", "FP32", [1.0])], r"neither the entity key nor a feature \(value: 'blance'\).*balance, plan"),
        ([Tensor("balance", "FP32", [1.0])] * 2, r"stands twice \(value: 'balance'\)"),
        ([Tensor("balance", "FP32", [1.0]), Tensor("plan", "BYTES", ["pro"] * 2)], "plan: has 2 rows.*in balance: 1"),
    ],
)
def test_tensors_that_do_not_go_together_are_named(tensors, said):
    with pytest.raises(ValueRejectedError, match=said):
        requests_of(CONTRACT, tensors)


def test_an_output_that_there_is_not_is_named():
    outputs = outputs_of(CONTRACT)
    assert [output.name for output in wanted(outputs, ["decision", "decision"])] == ["decision"]
    assert [output.name for output in wanted(outputs, [])] == list(outputs)
    with pytest.raises(ValueRejectedError, match=r"'churn'\). Known: tiny_probability, decision"):
        wanted(outputs, ["decision", "churn"])


@pytest.mark.parametrize(
    ("body", "header", "said"),
    [
        (b"{", None, "request: is not JSON"),
        (b"[]", None, "request: is not a JSON object"),
        (b"{}", None, "request.inputs: is missing"),
        (b'{"inputs": {}}', None, "request.inputs: is not a list"),
        (b'{"inputs": [1]}', None, r"inputs\[0\]: is not a JSON object"),
        (b'{"inputs": [{"name": "plan", "datatype": "BYTES"}]}', None, r"inputs\[0\].shape: is missing"),
        (b'{"inputs": [], "id": 7}', None, "request.id: is not a text"),
        (b'{"inputs": [], "outputs": [{}]}', None, r"outputs\[0\].name: is missing"),
        (b'{"inputs": []}', "x", "Inference-Header-Content-Length: is not a length"),
        (b'{"inputs": []}', "99", "is beyond the body of 14 bytes"),
        (b'{"inputs": []}!', "14", "has 1 bytes that no input names"),
    ],
)
def test_a_body_that_is_not_as_the_protocol_says_is_named(body, header, said):
    with pytest.raises(ValueRejectedError, match=said):
        read_request(body, header)


@pytest.mark.parametrize("size", [-1, 5, "4", True, 4.0])
def test_raw_data_of_a_wrong_size_are_named(size):
    tensor = {"name": "balance", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(
        ValueRejectedError, match=r"inputs\[0\].parameters.binary_data_size: is not a size within 4 bytes"
    ):
        read_request(head + b"\0\0\0\0", str(len(head)))


def test_data_beside_raw_data_are_refused():
    tensor = {"name": "balance", "datatype": "FP32", "shape": [1], "data": [1], "parameters": {"binary_data_size": 4}}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(ValueRejectedError, match=r"inputs\[0\].data: stands beside binary_data_size"):
        read_request(head + b"\0\0\0\0", str(len(head)))


@pytest.mark.parametrize("parameter", ["classification", "shared_memory_region"])
def test_what_triton_can_do_with_outputs_and_we_cannot_is_refused(parameter):
    body = {"inputs": [], "outputs": [{"name": "decision", "parameters": {parameter: 1}}]}
    with pytest.raises(ValueRejectedError, match=f"'{parameter}'.*Leave it out"):
        read_request(json.dumps(body).encode(), None)
    request = ModelInferRequest()
    request.outputs.add(name="decision").parameters[parameter].int64_param = 1
    with pytest.raises(ValueRejectedError, match=f"'{parameter}'.*Leave it out"):
        outputs_in(request)


def test_a_float32_survives_json_bit_for_bit():
    values = np.float32([0.1, 1 / 3, 1e-45, np.nextafter(np.float32(1), np.float32(0))])
    tensor = Tensor("tiny_probability", "FP32", values.tolist())
    body, _ = written_response({}, [tensor], Asked("1", [], {}, False))
    (output,) = json.loads(body)["outputs"]
    assert np.float32(output["data"]).tobytes() == values.tobytes() == bytes_of(tensor)


# --- the messages of gRPC -------------------------------------------------------------------------------------------


def test_typed_and_raw_contents_say_the_same():
    values = {"BOOL": [True, False], "BYTES": ["pro", ""], "FP32": [0.5, math.inf], "FP64": [0.1, -1e300]}
    values |= {name: [0, 100] for name in FORMATS if "INT" in name}
    for datatype, elements in values.items():
        tensor = Tensor("x", datatype, elements)
        for raw in (True, False):
            response = response_of(
                head_of({"model_name": "m", "model_version": "1", "parameters": {}}), "1", [tensor], raw
            )
            request = ModelInferRequest(raw_input_contents=response.raw_output_contents)
            request.inputs.add().MergeFromString(response.outputs[0].SerializeToString())
            assert tensors_in(request) == [tensor], (datatype, raw)


@pytest.mark.parametrize(
    ("inputs", "raw", "said"),
    [
        ([{"name": "plan", "datatype": "BYTES", "shape": [1]}], [b"", b""], "has 2 elements.*one for each of 1 inputs"),
        (
            [{"name": "plan", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"pro"]}}],
            [b"\3\0\0\0pro"],
            "plan: has contents beside raw_input_contents",
        ),
        ([{"name": "balance", "datatype": "FP16", "shape": [1]}], [], "balance: has no list of data"),
        ([{"name": "balance", "datatype": "FP23", "shape": [1]}], [], "datatype that is not known"),
        ([{"name": "balance", "datatype": "FP32", "shape": [1]}], [], "has 0 elements.*Send 1"),
        ([{"name": "age_years", "datatype": "INT8", "shape": [1], "contents": {"int_contents": [300]}}], [], "INT8"),
    ],
)
def test_contents_that_are_not_as_the_protocol_says_are_named(inputs, raw, said):
    with pytest.raises(ValueRejectedError, match=said):
        tensors_in(ModelInferRequest(inputs=inputs, raw_input_contents=raw))


def test_the_compiled_protocol_is_that_of_the_text(tmp_path):
    protoc = pytest.importorskip("grpc_tools.protoc")
    compiled = tmp_path / "protocol.pb"
    arguments = ["protoc", f"-I{DESCRIPTORS.parent}", f"--descriptor_set_out={compiled}", "protocol.proto"]
    assert protoc.main(arguments) == 0
    assert compiled.read_bytes() == DESCRIPTORS.read_bytes(), "run `make protocol`"


def test_the_protocol_is_tritons_field_by_field():
    theirs = service_pb2.DESCRIPTOR
    service = theirs.services_by_name["GRPCInferenceService"].methods_by_name
    for method, (request, response) in METHODS.items():
        assert (service[method].input_type.name, service[method].output_type.name) == (
            request.DESCRIPTOR.name,
            response.DESCRIPTOR.name,
        )
    ours = POOL.FindFileByName("protocol.proto").message_types_by_name
    assert {name for name in ours if ours[name].fields} <= set(theirs.message_types_by_name)
    for name, message in ours.items():
        same_fields(message, theirs.message_types_by_name[name])


def same_fields(ours: Any, theirs: Any) -> None:
    for field in ours.fields:
        if (ours.name, field.name) == ("ModelMetadataResponse", "properties"):
            continue  # in the specification, and not in Triton's older text
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated), (
            field.full_name
        )
    for nested in ours.nested_types:
        if nested.name != "PropertiesEntry":
            same_fields(nested, theirs.nested_types_by_name[nested.name])


# --- whatever somebody may send -------------------------------------------------------------------------------------

names = st.sampled_from([*inputs_of(CONTRACT), *outputs_of(CONTRACT)]) | st.text(max_size=3)
datatypes = st.sampled_from(["BYTES", *FORMATS]) | st.text(max_size=3)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
shapes = st.lists(st.integers(0, 3), min_size=1, max_size=2) | st.lists(scalars, max_size=3)
fields = st.fixed_dictionaries(
    {"name": names | anything, "datatype": datatypes | anything, "shape": shapes | anything},
    optional={
        "data": st.lists(scalars, max_size=3) | anything,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 30) | anything}),
    },
)
bodies = st.fixed_dictionaries(
    {"inputs": st.lists(fields | anything, max_size=3) | anything},
    optional={
        "outputs": st.lists(st.fixed_dictionaries({"name": names | anything}), max_size=2) | anything,
        "parameters": anything,
        "id": anything,
    },
)


@given(bodies, st.binary(max_size=30), st.none() | st.text(max_size=3))
def test_any_body_is_read_or_refused_with_a_remedy(body, raw, header):
    head = json.dumps(body).encode()

    def read(length: str | None) -> None:
        asked = read_request(head + raw, length)
        rows = requests_of(CONTRACT, asked.tensors)
        wanted(outputs_of(CONTRACT), tuple(asked.outputs))
        assert len(rows) == len(asked.tensors[0].values)

    refused_well(read, header)
    refused_well(read, str(len(head)))


@given(names, datatypes, shapes, st.lists(scalars | st.binary(max_size=3), max_size=3), st.binary(max_size=30))
def test_any_tensor_is_read_or_refused_with_a_remedy(name, datatype, shape, elements, raw):
    for read, data in ((tensor_of_elements, elements), (tensor_of_bytes, raw)):
        tensor = refused_well(read, name, datatype, shape, data)
        assert tensor is None or len(tensor.values) == shape[0]


@given(st.binary(max_size=200))
def test_any_message_is_read_or_refused_with_a_remedy(raw):
    with contextlib.suppress(DecodeError):
        request = ModelInferRequest.FromString(raw)
        refused_well(lambda: requests_of(CONTRACT, tensors_in(request)))


def refused_well(read: Callable[..., Any], *given: Any) -> Any:
    """Return what is read; None when it was refused, which is to name a field and a remedy."""
    refusal = None
    try:
        return read(*given)
    except ValueRejectedError as error:
        refusal = error
    assert refusal.problems
    assert all(problem.field and problem.message and problem.remedy for problem in refusal.problems)
    return None
