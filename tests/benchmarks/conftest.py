"""What tests of benchmarks share: a home of card swipes, without a training."""

import pytest
from pyarrow import parquet

from backends.settings import ROOT
from benchmarks.api_home import LMDB
from benchmarks.api_swipes import SwipeHome
from models.declaration import load_declaration
from models.training.fit import contract_of
from tests.tiny_model import tiny_onnx


@pytest.fixture(scope="session")
def swipe_home(tmp_path_factory) -> SwipeHome:
    """A home of the demo's stream, whose network is made by hand, with LMDB loaded."""
    made = SwipeHome(tmp_path_factory.mktemp("swipes"), 2000, 0)
    contract = contract_of(load_declaration(ROOT / "models" / "fraud.yaml"), "integer", "1")
    made.onnx.write_bytes(tiny_onnx(contract))
    with made._lakehouse() as lake:
        made._write(lake)
    parquet.write_table(made.draw(), made.drawn)
    made.load([LMDB])
    return made
