"""Small hand-made models in which features interact, and the exact Shapley values of their scores by enumeration."""

from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from models.contract import CATEGORIES, NUMBERS, CategoryFeature, Contract, NumberFeature
from models.encoding import Encoded
from models.reasons import log_odds_of
from models.reference import Reference
from models.scoring import Scorer
from models.training.graph import with_metadata
from models.training.reference_rows import learn_reference
from tests.tiny_model import tiny_contract

VALUES = ("a", "b", "c")


def contract_of(numbers: int, categories: int) -> Contract:
    """Return a contract of so many features; all may be missing."""
    features: dict[str, Any] = {f"number_{i}": NumberFeature(kind="number", missing=True) for i in range(numbers)}
    for i in range(categories):
        features[f"category_{i}"] = CategoryFeature(kind="category", values=VALUES, missing=True)
    return tiny_contract(features=features)


def interacting_onnx(contract: Contract, linear: npt.NDArray[Any], pairs: npt.NDArray[Any], bend: float = 0.0) -> bytes:
    """Return ONNX bytes whose log-odds are `z @ linear + (z @ pairs * z).sum() + bend * (z @ linear) ** 3`.

    z are the numbers, missing ones as 0, and then the category codes less 1; linear [features], pairs [features,
    features]. Without a bend, features interact in pairs at most.
    """
    inputs, parts, nodes = [], [], []
    if contract.numbers:
        inputs.append(helper.make_tensor_value_info(NUMBERS, TensorProto.FLOAT, ["rows", len(contract.numbers)]))
        nodes.append(helper.make_node("IsNaN", [NUMBERS], ["missing"]))
        nodes.append(helper.make_node("Where", ["missing", "zero", NUMBERS], ["filled"]))
        parts.append("filled")
    if contract.categories:
        width = len(contract.categories)
        inputs.append(helper.make_tensor_value_info(CATEGORIES, TensorProto.INT32, ["rows", width]))
        nodes.append(helper.make_node("Cast", [CATEGORIES], ["codes"], to=int(TensorProto.FLOAT)))
        nodes.append(helper.make_node("Sub", ["codes", "one"], ["centred"]))
        parts.append("centred")
    nodes += [
        helper.make_node("Concat", parts, ["z"], axis=1),
        helper.make_node("MatMul", ["z", "linear"], ["straight_column"]),
        helper.make_node("Squeeze", ["straight_column", "axis"], ["straight"]),
        helper.make_node("MatMul", ["z", "pairs"], ["towards"]),
        helper.make_node("Mul", ["towards", "z"], ["products"]),
        helper.make_node("ReduceSum", ["products", "axis"], ["together"], keepdims=0),
        helper.make_node("Pow", ["straight", "three"], ["cube"]),
        helper.make_node("Mul", ["cube", "bend"], ["bent"]),
        helper.make_node("Sum", ["straight", "together", "bent"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], [contract.output]),
    ]
    constants = {"zero": 0, "one": 1, "three": 3, "bend": bend, "linear": linear[:, None], "pairs": pairs}
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    tensors.append(numpy_helper.from_array(np.array([1]), "axis"))
    output = helper.make_tensor_value_info(contract.output, TensorProto.FLOAT, ["rows"])
    graph = helper.make_graph(nodes, contract.model, inputs, [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, contract.to_metadata())
    return model.SerializeToString()  # type: ignore[no-any-return]


def random_rows(contract: Contract, rows: int, seed: int = 0) -> Encoded:
    """Return rows of small numbers and codes of every kind; some are missing."""
    rng = np.random.default_rng(seed)
    numbers = rng.uniform(-1, 1, (rows, len(contract.numbers))).astype(np.float32)
    numbers[rng.random(numbers.shape) < 0.1] = np.nan
    return Encoded(numbers, rng.integers(0, len(VALUES) + 2, (rows, len(contract.categories)), np.int32))


def with_reference(onnx: bytes, rows: Encoded, seed: int = 0) -> bytes:
    """Return the file with the reference of some rows in its metadata."""
    return with_metadata(onnx, learn_reference(Scorer(onnx).contract, rows, seed).to_metadata())


def exact_values(scorer: Scorer, reference: Reference, row: Encoded) -> dict[str, float]:
    """Return each feature's Shapley value: the mean over all orders of what it adds to the reference rows' mean."""
    names = [*scorer.contract.numbers, *scorer.contract.categories]
    worth = {
        known: float(log_odds_of(scorer.score(_put_in(reference.encoded, row, known))).mean())
        for size in range(len(names) + 1)
        for known in combinations(range(len(names)), size)
    }
    values = dict.fromkeys(names, 0.0)
    for known, value in worth.items():
        for i in set(range(len(names))) - set(known):
            weight = factorial(len(known)) * factorial(len(names) - len(known) - 1) / factorial(len(names))
            values[names[i]] += weight * (worth[tuple(sorted((*known, i)))] - value)
    return values


def _put_in(reference: Encoded, row: Encoded, known: tuple[int, ...]) -> Encoded:
    numbers, categories = reference.numbers.copy(), reference.categories.copy()
    for i in known:
        if i < numbers.shape[1]:
            numbers[:, i] = row.numbers[0, i]
        else:
            categories[:, i - numbers.shape[1]] = row.categories[0, i - numbers.shape[1]]
    return Encoded(numbers, categories)
