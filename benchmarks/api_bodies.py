"""What is written to each system of `make bench-api`, and the score that is read in its answers.

A row of a home's sample is asked for by its key, or with all its features; a swipe with what is known of it by itself.
"""

import json
from collections.abc import Sequence

import numpy as np

from benchmarks.api_home import ApiHome
from benchmarks.api_requests import Swipe
from bento.event_reader import written
from bento.open_inference.messages import ModelInferRequest, ModelInferResponse
from bento.open_inference.tensors import BYTES, Tensor, inputs_of
from models.contract import CATEGORIES, NUMBERS, Contract

SCORE = "_probability"  # the end of the name of the output that has it
CONTENTS = {"INT64": "int64_contents", "FP32": "fp32_contents", BYTES: "bytes_contents"}


def _key(home: ApiHome, row: int) -> int:
    return int(home.sample.keys[row])


def by_key(home: ApiHome, row: int) -> bytes:
    """Ask for a row by its entity's key."""
    return json.dumps({home.contract.entity_key: _key(home, row)}).encode()


def tensors_of_key(home: ApiHome, row: int) -> list[Tensor]:
    """Return the same as a tensor."""
    return [Tensor(home.contract.entity_key, "INT64", [_key(home, row)])]


def in_rest(tensors: Sequence[Tensor]) -> bytes:
    """Write tensors as the Open Inference Protocol does over REST."""
    inputs = [{"name": t.name, "shape": [1], "datatype": t.datatype, "data": t.values} for t in tensors]
    return json.dumps({"inputs": inputs}).encode()


def in_grpc(model: str, tensors: Sequence[Tensor]) -> bytes:
    """Write them as it does over gRPC."""
    request = ModelInferRequest(model_name=model)
    for name, datatype, values in tensors:
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[1])
        elements = [value.encode() for value in values] if datatype == BYTES else values
        getattr(tensor.contents, CONTENTS[datatype]).extend(elements)
    return bytes(request.SerializeToString())


def by_name(home: ApiHome, row: int) -> bytes:
    """Send the row as the lake has it: numbers and texts."""
    customer, names = home.sample.values[row], list(home.contract.features)
    values = [float(value) if isinstance(value, int) else value for value in map(customer.get, names)]
    return json.dumps({"dataframe_split": {"columns": names, "data": [values]}}).encode()


def by_tensors(home: ApiHome, row: int) -> bytes:
    """Send what the graph takes: the encoding is done already."""
    rows = home.sample.rows[row : row + 1]
    return json.dumps({"inputs": {NUMBERS: rows.numbers.tolist(), CATEGORIES: rows.categories.tolist()}}).encode()


# --- about a swipe ---------------------------------------------------------------------------------------------------


def swipe_in_json(contract: Contract, swipe: Swipe) -> bytes:
    """Write a swipe as `/predict` takes it."""
    assert contract.events is not None
    names = contract.events
    named = {contract.entity_key: swipe.entity, names.key: swipe.key, names.time: written(swipe.at)}
    return json.dumps({**named, "features": swipe.features}).encode()


def tensors_of_swipe(contract: Contract, swipe: Swipe) -> list[Tensor]:
    """Return the tensors of all that is said of a swipe; a missing feature is left out."""
    assert contract.events is not None
    names = contract.events
    said = {contract.entity_key: swipe.entity, names.key: swipe.key, names.time: written(swipe.at), **swipe.features}
    described = [one for one in inputs_of(contract).values() if said.get(one.name) is not None]
    return [Tensor(one.name, one.datatype, [said[one.name]]) for one in described]


# --- and answered ---------------------------------------------------------------------------------------------------


def of_json(answer: bytes) -> float:
    """Read what `/predict` answers."""
    return float(json.loads(answer)["probability"])


def of_rest(answer: bytes) -> float:
    """Read an answer of the Open Inference Protocol over REST."""
    outputs = {output["name"]: output for output in json.loads(answer)["outputs"]}
    return float(next(output["data"][0] for name, output in outputs.items() if name.endswith(SCORE)))


def of_grpc(answer: bytes) -> float:
    """Read one over gRPC."""
    response = ModelInferResponse.FromString(answer)
    at = next(i for i, output in enumerate(response.outputs) if output.name.endswith(SCORE))
    if response.raw_output_contents:
        return float(np.frombuffer(response.raw_output_contents[at], "<f4")[0])
    return float(response.outputs[at].contents.fp32_contents[0])


def of_mlflow(answer: bytes) -> float:
    """Read what MLflow's server answers to rows."""
    return float(json.loads(answer)["predictions"][0])


def of_mlflow_tensors(answer: bytes) -> float:
    """Read what it answers to tensors."""
    (scores,) = json.loads(answer)["predictions"].values()
    return float(scores[0])
