"""A small ONNX model built by hand: a real contract and a real graph, for every test that needs bytes to score."""

from typing import Any

import numpy as np
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from models.contract import CATEGORIES, NUMBERS, CategoryFeature, Contract, Feature, NumberFeature
from models.encoding import encode_arrow, encode_rows
from models.scoring import Scorer
from models.training.graph import with_metadata
from models.training.profiling import learn_profile
from models.training.reference_rows import learn_reference

FEATURES: dict[str, Feature] = {
    "tenure_months": NumberFeature(kind="number", min=0, max=600, description="Months since the first contract."),
    "age_years": NumberFeature(kind="number", min=16, max=110, missing=True),
    "balance": NumberFeature(kind="number", min=-10_000, max=10_000),
    "plan": CategoryFeature(kind="category", values=("basic", "plus", "pro"), description="Tariff."),
    "channel": CategoryFeature(kind="category", values=("web", "shop"), missing=True),
}


def tiny_contract(**changes: Any) -> Contract:
    """Return the contract of a model with three numbers and two categories, with the fields in `changes` replaced."""
    fields = {
        "model": "tiny",
        "entity_key": "customer_id",
        "entity_key_type": "integer",
        "features": FEATURES,
        "decision_threshold": 0.5,
        "precision": "float32",
        "examples_table": "silver.tiny_examples",
        "training_snapshot": "8170927402156543211",
        "dagster_run_id": "run-of-tiny",
    }
    return Contract(**(fields | changes))


def tiny_onnx(contract: Contract, seed: int = 0) -> bytes:
    """Return ONNX bytes for any contract: sigmoid of a weighted sum in which every feature has a share.

    Numbers are weighted by the reach of their bounds, missing ones count as 0; each category code has a weight of its
    own. The same contract and seed always give the same bytes.
    """
    rng = np.random.default_rng(seed)
    nodes, constants, shares, inputs = [], [], [], []
    if contract.numbers:
        weights = rng.uniform(1, 2, len(contract.numbers)) / [_reach(number) for number in contract.numbers.values()]
        constants += [("zero", np.float32(0)), ("number_weights", weights[:, None]), ("last_axis", np.array([1]))]
        inputs.append(helper.make_tensor_value_info(NUMBERS, TensorProto.FLOAT, ["rows", len(contract.numbers)]))
        nodes += [
            helper.make_node("IsNaN", [NUMBERS], ["is_missing"]),
            helper.make_node("Where", ["is_missing", "zero", NUMBERS], ["filled"]),
            helper.make_node("Gemm", ["filled", "number_weights"], ["number_column"]),
            helper.make_node("Squeeze", ["number_column", "last_axis"], ["number_share"]),
        ]
        shares.append("number_share")
    if contract.categories:
        widths = [category.other_code + 2 for category in contract.categories.values()]
        constants += [("offsets", np.cumsum([0, *widths[:-1]], dtype=np.int32)), ("category_axis", np.array([1]))]
        constants.append(("code_weights", rng.normal(0, 1, sum(widths))))
        inputs.append(helper.make_tensor_value_info(CATEGORIES, TensorProto.INT32, ["rows", len(widths)]))
        nodes += [
            helper.make_node("Add", [CATEGORIES, "offsets"], ["positions"]),
            helper.make_node("Gather", ["code_weights", "positions"], ["code_shares"]),
            helper.make_node("ReduceSum", ["code_shares", "category_axis"], ["category_share"], keepdims=0),
        ]
        shares.append("category_share")
    nodes += [helper.make_node("Sum", shares, ["logit"]), helper.make_node("Sigmoid", ["logit"], [contract.output])]
    output = helper.make_tensor_value_info(contract.output, TensorProto.FLOAT, ["rows"])
    tensors = [numpy_helper.from_array(_narrow(np.asarray(value)), name) for name, value in constants]
    graph = helper.make_graph(nodes, contract.model, inputs, [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, contract.to_metadata())
    return model.SerializeToString()  # type: ignore[no-any-return]


def tiny_onnx_with_profile(contract: Contract, training: pa.Table, seed: int = 0) -> bytes:
    """Return the same bytes with what training adds to their metadata: the profile and the reference of some rows."""
    onnx, rows = tiny_onnx(contract, seed), encode_arrow(contract, training)
    profile = learn_profile(contract, rows, Scorer(onnx).score(rows))
    return with_metadata(onnx, profile.to_metadata() | learn_reference(contract, rows, seed).to_metadata())


def tiny_onnx_with_reference(contract: Contract, seed: int = 0) -> bytes:
    """Return the same bytes with a reference in their metadata, learnt from random rows: a model that gives reasons."""
    rows = encode_rows(contract, tiny_rows(contract, 500, seed))
    return with_metadata(tiny_onnx(contract, seed), learn_reference(contract, rows, seed).to_metadata())


def _reach(number: NumberFeature) -> float:
    """How far from zero a number is expected to go, so that no feature drowns the others."""
    return max([abs(bound) for bound in (number.min, number.max) if bound is not None and bound != 0] or [100.0])


def _narrow(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if value.dtype == np.float64 else value


def tiny_rows(contract: Contract, rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return `rows` random requests that fit `contract`: missing values and unseen categories among them."""
    rng = np.random.default_rng(seed)
    return [{name: _value(feature, rng) for name, feature in contract.features.items()} for _ in range(rows)]


def _value(feature: Feature, rng: np.random.Generator) -> float | str | None:
    if feature.missing and rng.random() < 0.2:
        return None
    if isinstance(feature, CategoryFeature):
        return str(rng.choice([*feature.values, "never seen before"]))
    reach = _reach(feature)
    low = -reach if feature.min is None else feature.min
    high = reach if feature.max is None else feature.max
    return float(rng.uniform(low, max(low, high)))
