import numpy as np
import onnx
import pytest

from models.scoring import Scorer
from models.training.graph import build_graph, dense_encoder
from models.training.graph_encoder import add_encoder
from models.training.graph_parts import GraphParts
from models.training.layout import learn_layout
from models.training.quantization import quantize
from models.training.rising_columns import RisingColumns, rising_columns, rounded


def constants_of(contract, layout, weights, bias):
    parts = GraphParts()
    add_encoder(parts, contract, layout)
    spare = np.zeros((1, weights.shape[1]), np.float32)
    given = {"weights1": np.concatenate([weights, spare]), "bias1": bias}
    return {**{tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in parts.constants}, **given}


def as_read(constants, rows):
    """What the graph reads of numbers, in float64."""
    numbers = rows.numbers.astype(np.float64)
    if "centre" in constants:
        numbers = (numbers - constants["centre"]) * constants["scale"]
    limits = constants["lowest"], constants["highest"]
    return np.where(np.isnan(numbers), constants["missing"], np.clip(numbers, *limits))


def test_the_columns_add_up_to_the_first_layer_of_the_float_graph(drawn, rows_of):
    layout, rng = learn_layout(drawn, rows_of(drawn, 500), 8), np.random.default_rng(1)
    weights, bias = rng.normal(size=(layout.width, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    constants, rows = constants_of(drawn, layout, weights, bias), rows_of(drawn, 300, seed=1)
    columns = rising_columns(constants)
    numbers = [as_read(constants, rows)] if drawn.numbers else []
    features = np.concatenate([*numbers, rows.categories.astype(np.float64)], axis=1)
    dense = np.clip(features @ columns.slopes + columns.starts, 0, 1)
    wanted = dense_encoder(drawn, layout)(rows) @ weights + bias
    np.testing.assert_allclose(dense @ columns.weights + columns.bias, wanted, atol=0.02)


def test_runs_hold_the_columns_of_one_feature_in_the_order_of_its_values(drawn, rows_of):
    layout = learn_layout(drawn, rows_of(drawn, 500), 8)
    columns = rising_columns(constants_of(drawn, layout, np.ones((layout.width, 1), np.float32), np.zeros(1)))
    assert isinstance(columns, RisingColumns)
    covered = [i for run in columns.runs for i in range(run.start, run.stop)]
    assert covered == list(range(len(columns.starts)))
    for run in columns.runs:
        (owner,) = set(np.abs(columns.slopes[:, run]).argmax(0)) or {0}
        reached = -columns.starts[run] / columns.slopes[owner, run]  # where each begins to rise
        assert (np.diff(reached) > 0).all()


def test_rounded_weights_add_up_along_a_run_to_the_rounded_sums():
    weights = np.random.default_rng(0).uniform(-60, 60, (50, 7))
    whole = rounded(weights, [slice(0, 20), slice(20, 45)])
    for run in (slice(0, 20), slice(20, 45)):
        np.testing.assert_array_equal(np.cumsum(whole[run], axis=0), np.rint(np.cumsum(weights[run], axis=0)))
    assert np.abs(whole - weights).max() <= 1
    np.testing.assert_array_equal(whole[45:], np.rint(weights[45:]))


def test_int8_is_nearer_to_float_than_with_weights_rounded_one_by_one(contract_of, monkeypatch):
    from models.contract import NumberFeature
    from models.encoding import Encoded

    contract = contract_of({f"x{j}": NumberFeature(kind="number") for j in range(6)})

    def mean_change(seed):  # of one network: several are looked at, since one may be lucky
        rng = np.random.default_rng(seed)
        rows = Encoded(rng.normal(size=(4000, 6)).astype(np.float32), np.empty((4000, 0), np.int32))
        layout = learn_layout(contract, rows, 24)
        layers = []
        for shape in ((layout.width, 32), (32, 1)):
            weights, bias = rng.normal(0, 0.3, shape), rng.normal(0, 0.2, shape[1])
            layers.append((weights.astype(np.float32), bias.astype(np.float32)))
        file = build_graph(contract, layout, layers)
        return np.abs(Scorer(quantize(file, rows)).score(rows) - Scorer(file).score(rows)).mean()

    along_runs = sum(map(mean_change, range(5)))
    monkeypatch.setattr("models.training.quantization.rounded", lambda weights, _: np.rint(weights))
    assert along_runs < 0.9 * sum(map(mean_change, range(5)))


@pytest.mark.parametrize("size", [40, 300])
def test_a_category_of_many_values_is_as_near_to_float(contract_of, size):
    from models.contract import CategoryFeature
    from models.encoding import Encoded

    contract = contract_of({"word": CategoryFeature(kind="category", values=tuple(f"w{i}" for i in range(size)))})
    rng = np.random.default_rng(2)
    rows = Encoded(np.empty((9000, 0), np.float32), rng.integers(0, size, (9000, 1)).astype(np.int32))
    layout = learn_layout(contract, rows, 8)
    shapes = [(layout.width, 16), (16, 1)]
    layers = [(rng.normal(0, 0.5, s).astype(np.float32), rng.normal(0, 0.2, s[1]).astype(np.float32)) for s in shapes]
    file = build_graph(contract, layout, layers)
    np.testing.assert_allclose(Scorer(quantize(file, rows)).score(rows), Scorer(file).score(rows), atol=0.02)
