from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.encoding import Encoded, encode_rows
from models.errors import ModelFileError
from models.scoring import ROWS_PER_CALL, Scorer, sha256_of
from tests.tiny_model import FEATURES, tiny_contract, tiny_onnx, tiny_rows

ONNX = tiny_onnx(tiny_contract())


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(ONNX)


@pytest.fixture(scope="module")
def rows() -> Encoded:
    return encode_rows(tiny_contract(), tiny_rows(tiny_contract(), 2 * ROWS_PER_CALL + 77))


def test_scores_are_float32_probabilities_that_differ(scorer: Scorer, rows: Encoded):
    scores = scorer.score(rows)
    assert scores.dtype == np.float32
    assert scores.shape == (len(rows),)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert len(np.unique(scores)) > len(rows) / 2


def test_the_scorer_carries_the_contract_and_the_identity_of_its_bytes(scorer: Scorer):
    assert scorer.contract == tiny_contract()
    assert scorer.sha256 == sha256_of(ONNX)
    assert Scorer(ONNX, sha256_of(ONNX)).sha256 == scorer.sha256
    assert sha256_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_many_rows_score_as_one_by_one_bit_for_bit(scorer: Scorer, rows: Encoded):
    together = scorer.score(rows)
    single = np.concatenate([scorer.score(rows[i : i + 1]) for i in range(len(rows))])
    assert together.tobytes() == single.tobytes()


@pytest.mark.parametrize(
    "count", [0, 1, 2, ROWS_PER_CALL - 1, ROWS_PER_CALL, ROWS_PER_CALL + 1, 2 * ROWS_PER_CALL, 2 * ROWS_PER_CALL + 1]
)
def test_a_score_does_not_depend_on_the_rows_beside_it(scorer: Scorer, rows: Encoded, count: int):
    assert scorer.score(rows[:count]).tobytes() == scorer.score(rows)[:count].tobytes()
    assert scorer.score(rows[:count]).dtype == np.float32


def test_rows_need_not_be_contiguous(scorer: Scorer, rows: Encoded):
    assert scorer.score(rows[::-3]).tobytes() == scorer.score(rows)[::-3].tobytes()


def test_one_scorer_serves_many_threads(scorer: Scorer, rows: Encoded):
    parts = [rows[start : start + 300] for start in range(0, len(rows), 50)]
    expected = [scorer.score(part).tobytes() for part in parts]
    with ThreadPoolExecutor(8) as pool:
        found = [scores.tobytes() for scores in pool.map(scorer.score, parts * 4)]
    assert found == expected * 4


@pytest.mark.parametrize(
    "features",
    [
        {name: feature for name, feature in FEATURES.items() if feature.kind == "number"},
        {name: feature for name, feature in FEATURES.items() if feature.kind == "category"},
    ],
    ids=["numbers only", "categories only"],
)
def test_a_graph_may_have_one_of_the_inputs_alone(features: dict):
    contract = tiny_contract(features=features)
    scores = Scorer(tiny_onnx(contract)).score(encode_rows(contract, tiny_rows(contract, 50)))
    assert len(np.unique(scores)) > 1


@pytest.mark.parametrize("threshold", [0.3, 0.1, 0.7])
def test_a_score_at_the_threshold_decides_yes(threshold: float):
    scorer = Scorer(tiny_onnx(tiny_contract(decision_threshold=threshold)))
    at = np.float32(threshold)  # 0.7 and 0.3 lie on different sides of their float32
    scores = np.array([np.nextafter(at, np.float32(0)), at, np.nextafter(at, np.float32(1))])
    assert scorer.decide(scores).tolist() == [False, True, True]


# --- files that are refused -------------------------------------------------------------------------------------------


def test_another_sha256_is_refused_and_both_are_named():
    asked = sha256_of(b"another file")
    with pytest.raises(ModelFileError, match=f"{sha256_of(ONNX)}, but {asked} was asked for"):
        Scorer(ONNX, asked)


def test_one_flipped_bit_is_another_file():
    changed = bytearray(ONNX)
    changed[len(changed) // 2] ^= 1
    with pytest.raises(ModelFileError, match="was asked for"):
        Scorer(bytes(changed), sha256_of(ONNX))


@pytest.mark.parametrize("size", [0, 1, 100, len(ONNX) // 2, len(ONNX) - 1])
def test_truncated_bytes_are_refused(size: int):
    with pytest.raises(ModelFileError):
        Scorer(ONNX[:size])
    with pytest.raises(ModelFileError, match=rf"\({size} bytes\)"):
        Scorer(ONNX[:size], sha256_of(ONNX))


@pytest.mark.parametrize("content", [b"no model", b"\x00" * 4096, b"PK\x03\x04"])
def test_bytes_that_are_no_onnx_are_refused(content: bytes):
    with pytest.raises(ModelFileError, match="cannot be loaded"):
        Scorer(content)


def test_an_onnx_file_of_somebody_else_is_refused():
    model = onnx.load_from_string(ONNX)
    onnx.helper.set_model_props(model, {"author": "somebody"})
    with pytest.raises(ModelFileError, match=r"no metadata entry 'tandem.contract' \(it has: \['author'\]\)"):
        Scorer(model.SerializeToString())


def test_a_file_is_read_and_verified(tmp_path: Path, rows: Encoded, scorer: Scorer):
    path = tmp_path / "model.onnx"
    path.write_bytes(ONNX)
    assert Scorer.from_file(path, sha256_of(ONNX)).score(rows).tobytes() == scorer.score(rows).tobytes()
    path.write_bytes(ONNX[:-10])
    with pytest.raises(ModelFileError, match="was asked for"):
        Scorer.from_file(path, sha256_of(ONNX))


@pytest.mark.parametrize("missing", ["nothing.onnx", "."])  # no file, and a folder
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, missing: str):
    with pytest.raises(ModelFileError, match="cannot be read"):
        Scorer.from_file(tmp_path / missing)
