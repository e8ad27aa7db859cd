"""Quantize a network and hold it against the float one, on the same test rows and in the same run."""

from dataclasses import dataclass

import pyarrow as pa

from assets.examples import held_out, training_rows
from backends.registry import Registry
from models.declaration import Declaration
from models.encoding import Encoded
from models.errors import Problem
from models.reference import METADATA_KEY as REFERENCE
from models.scoring import Scorer
from models.training.evaluation import compare_int8, evaluate, int8_verdict, rows_per_second, speedup
from models.training.graph import with_metadata
from models.training.plots import float_against_int8
from models.training.profiling import learn_profile
from models.training.quantization import quantize, quantized_nodes

SECONDS = 0.25  # of each measurement of speed


@dataclass(frozen=True)
class Quantization:
    """Both files' figures; `problems` is empty when int8 is accepted."""

    floating: Scorer
    quantized: Scorer
    int8: bytes
    metrics: dict[str, dict[str, float]]
    changes: dict[str, float]
    rows_per_second: dict[str, int]
    problems: list[Problem]
    pictures: dict[str, bytes]

    @property
    def accepted(self) -> bool:
        """Whether int8 goes on."""
        return not self.problems

    @property
    def chosen(self) -> Scorer:
        """The file that goes on."""
        return self.quantized if self.accepted else self.floating


def quantize_and_compare(declaration: Declaration, table: pa.Table, floating: bytes) -> Quantization:
    """Quantize on the calibration rows, compare on the test rows."""
    before = Scorer(floating)
    calibration = held_out(declaration, before.contract, table, "calibration")
    test = held_out(declaration, before.contract, table, "test")
    rows = training_rows(declaration, before.contract, table)
    int8 = _with_company(quantize(floating, calibration.encoded), rows, before)
    after, threshold = Scorer(int8), before.contract.decision_threshold
    scores = {"float32": before.score(test.encoded), "int8": after.score(test.encoded)}
    faster = speedup(after, before, test.encoded)
    if faster < 1:  # a busy machine may lie once
        faster = speedup(after, before, test.encoded)
    nodes, size_ratio = quantized_nodes(int8), len(int8) / len(floating)
    changes = compare_int8(test.labels, scores["float32"], scores["int8"], threshold)
    return Quantization(
        floating=before,
        quantized=after,
        int8=int8,
        metrics={name: evaluate(test.labels, values, threshold) for name, values in scores.items()},
        changes={**changes, "speedup": faster, "quantized_nodes": nodes, "size_ratio": size_ratio},
        rows_per_second={
            "rows_per_second_float32": round(rows_per_second(before, test.encoded, SECONDS)),
            "rows_per_second_int8": round(rows_per_second(after, test.encoded, SECONDS)),
        },
        problems=int8_verdict(declaration.gates.int8, changes, speedup=faster, quantized=nodes, size_ratio=size_ratio),
        pictures={"float_against_int8.png": float_against_int8(scores["float32"], scores["int8"])},
    )


def _with_company(int8: bytes, rows: Encoded, before: Scorer) -> bytes:
    """Give the file the float one's reference, and a profile with scores of its own.

    A night is to differ from it by its rows, not by rounding.
    """
    scorer = Scorer(int8)
    profile = learn_profile(scorer.contract, rows, scorer.score(rows))
    reference = {name: text for name, text in before.metadata.items() if name == REFERENCE}
    return with_metadata(int8, profile.to_metadata() | reference)


def log_quantization(registry: Registry, run_id: str, outcome: Quantization, artifact: str) -> None:
    """Add the int8 file and its figures to the training run."""
    registry.log_onnx(run_id, artifact, outcome.int8)
    metrics = {f"int8.{name}": value for name, value in {**outcome.metrics["int8"], **outcome.changes}.items()}
    registry.log_facts(run_id, {}, metrics)
    registry.tag_run(run_id, {"served_precision": outcome.chosen.contract.precision})  # made again, it may be another
    registry.log_pictures(run_id, outcome.pictures)
