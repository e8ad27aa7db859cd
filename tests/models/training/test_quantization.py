import numpy as np
import onnx
import pytest

from models.scoring import Scorer
from models.training.graph import build_graph
from models.training.layout import learn_layout
from models.training.quantization import quantize, quantized_nodes


@pytest.fixture(scope="module")
def int8(trained):
    return quantize(trained.onnx, trained.calibration_rows)


def test_the_hidden_layers_really_become_int8(trained, int8):
    assert quantized_nodes(int8) == 2
    assert quantized_nodes(trained.onnx) == 0


def test_the_int8_file_says_so_and_keeps_the_rest_of_the_contract(trained, int8):
    assert Scorer(int8).contract == trained.contract.model_copy(update={"precision": "int8"})
    assert [entry.key for entry in onnx.load_from_string(int8).metadata_props] == ["tandem.contract"]


def test_int8_scores_are_near_the_float_ones_and_as_many(trained, int8):
    scores = Scorer(int8).score(trained.test_rows)
    assert 0 < np.abs(scores - trained.scores_test).mean() < 0.01
    assert np.abs(scores - trained.scores_test).max() < 0.1
    assert len(np.unique(scores)) > 256


def test_weights_have_seven_bits_so_that_no_product_saturates(int8):
    tensors = onnx.load_from_string(int8).graph.initializer
    weights = [onnx.numpy_helper.to_array(t) for t in tensors if t.data_type == onnx.TensorProto.INT8 and t.dims]
    matrices = [matrix for matrix in weights if matrix.ndim == 2]
    assert len(matrices) == 2
    assert all(np.abs(matrix.astype(int)).max() <= 64 for matrix in matrices)


def test_quantizing_again_gives_the_same_bytes_and_says_nothing(trained, int8, caplog, capfd):
    assert quantize(trained.onnx, trained.calibration_rows) == int8
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 256])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_score_does_not_depend_on_the_batch(trained, int8, examples, precision, size):
    scorer = Scorer(int8 if precision == "int8" else trained.onnx)
    rows = trained.test_rows[np.arange(20_000) % len(trained.test_rows)]
    whole = scorer._score_chunk(rows)  # in one call, which `score` would cut into several
    asked = range(0, min(20_000, 300 * size), size)
    parts = np.concatenate([scorer.score(rows[start : start + size]) for start in asked])
    assert np.array_equal(parts, whole[: len(parts)])
    assert np.array_equal(scorer.score(rows), whole)


def test_any_contract_can_be_quantized(drawn, rows_of):
    rows = rows_of(drawn, 400)
    layout = learn_layout(drawn, rows, 8)
    rng = np.random.default_rng(0)
    shapes = [(layout.width, 16), (16, 1)]
    layers = [(rng.normal(0, 0.3, s).astype(np.float32), np.zeros(s[1], np.float32)) for s in shapes]
    file = build_graph(drawn, layout, layers)
    int8 = quantize(file, rows)
    assert quantized_nodes(int8) == 1
    np.testing.assert_allclose(Scorer(int8).score(rows), Scorer(file).score(rows), atol=0.05)
