"""From a declaration and its examples to a trained, calibrated, verified and evaluated float network."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from models.contract import Contract
from models.declaration import Declaration
from models.encoding import Encoded, encode_arrow
from models.errors import TandemError
from models.scoring import Scorer, Scores
from models.training.bins import bins_by_need
from models.training.budget import budget_of
from models.training.calibration import fold_into, platt
from models.training.costs import cost_saved, least_costly_threshold
from models.training.distillation import lesson
from models.training.evaluation import evaluate, recall_at
from models.training.graph import Encode, build_graph, dense_encoder, with_metadata
from models.training.layout import Layout, learn_layout
from models.training.learners import Part
from models.training.network import Network, logits, sigmoid, train_network
from models.training.profiling import learn_profile
from models.training.reference_rows import learn_reference
from models.training.shared_columns import learn_groupings
from models.training.split import Labels, Split, labels, split_examples
from models.training.steps import sharp_steps
from models.training.teacher import Teacher, fit_teacher
from models.training.trees import fit_plain_trees

TOLERANCE = 1e-5  # between the ONNX graph's probabilities and the trainer's own

Progress = Callable[[str], None]
KeyType = Literal["integer", "string"]


@dataclass(frozen=True)
class Trained:
    """A float network as ONNX bytes, the rows that quantization and evaluation need, and how the training went."""

    onnx: bytes  # precision float32, with its profile and its reference
    contract: Contract
    split: Split
    calibration_rows: Encoded  # held out from teacher and network
    test_rows: Encoded
    y_test: Labels
    scores_test: Scores  # of `onnx`, through `Scorer`
    scores_boosted_trees: Scores  # of the yardstick, on the test rows
    metrics: dict[str, dict[str, float]]  # `evaluate` on the test rows, for network, teacher and boosted_trees
    curve: list[float]  # training loss over time
    calibration: tuple[float, float]  # slope and intercept on the logit, inside `onnx`; (1, 0) where not needed
    graph_difference: float  # largest, between the ONNX graph's and the trainer's own probability on the test rows
    seconds: dict[str, float]  # of each phase


def train(
    declaration: Declaration,
    examples: pa.Table,
    *,
    entity_key_type: KeyType,
    training_snapshot: str,
    dagster_run_id: str = "",
    event_key_type: KeyType | None = None,
    progress: Progress = lambda _: None,
) -> Trained:
    """Train the declared model on its examples; seeded, so the same examples give the same bytes.

    Raises `ColumnError`, `ValueRejectedError` or `TrainingDataError` for the examples, and `TandemError` when the ONNX
    graph's probabilities are further than 1e-5 from the trainer's own.
    """
    seconds: dict[str, float] = {}
    contract = contract_of(declaration, entity_key_type, training_snapshot, dagster_run_id, event_key_type)
    with _timed(seconds, "rows"):
        split = split_examples(declaration, examples)
        training, calibration, test = _parts(declaration, contract, examples, split)
    with _timed(seconds, "teacher"):
        teacher = fit_teacher(contract, *training, declaration.training, progress)
    with _timed(seconds, "boosted_trees"):
        plain = fit_plain_trees(*training, declaration.training.seed)
    with _timed(seconds, "network"):
        bins = declaration.network.bins or bins_by_need(training.rows.numbers)
        steps = sharp_steps(teacher.trees, training.rows.numbers)
        groupings = learn_groupings(contract, training.rows, teacher, declaration.training.seed)
        layout = learn_layout(contract, training.rows, bins, steps, groupings)
        encode = dense_encoder(contract, layout)
        network = _taught_network(declaration, training, teacher, layout, encode, progress)
    with _timed(seconds, "evaluation"):
        platt_scaling = platt(logits(network.layers, encode, calibration.rows), calibration.y)
        layers = fold_into(network.layers, *platt_scaling)
        onnx = build_graph(contract, layout, layers)
        scorer = Scorer(onnx)
        if costs := declaration.decision_costs:
            threshold = least_costly_threshold(calibration.y, scorer.score(calibration.rows), costs)
            contract = contract.model_copy(update={"decision_threshold": threshold})
        scores = scorer.score(test.rows)
        difference = float(np.abs(scores - sigmoid(logits(layers, encode, test.rows))).max())
        _check_graph(contract, difference)
        all_scores = {"network": scores, "teacher": teacher.score(test.rows), "boosted_trees": plain(test.rows)}
        metrics = {name: _metrics(declaration, contract, test.y, s) for name, s in all_scores.items()}
    with _timed(seconds, "profile"):
        profile = learn_profile(contract, training.rows, scorer.score(training.rows))
        reference = learn_reference(contract, training.rows, declaration.training.seed)
    return Trained(
        onnx=with_metadata(onnx, contract.to_metadata() | profile.to_metadata() | reference.to_metadata()),
        contract=contract,
        split=split,
        calibration_rows=calibration.rows,
        test_rows=test.rows,
        y_test=test.y,
        scores_test=scores,
        scores_boosted_trees=all_scores["boosted_trees"],
        metrics=metrics,
        curve=network.curve,
        calibration=platt_scaling,
        graph_difference=difference,
        seconds=seconds,
    )


def _parts(declaration: Declaration, contract: Contract, examples: pa.Table, split: Split) -> list[Part]:
    rows, y = encode_arrow(contract, examples), labels(declaration, examples)
    return [Part(rows[part], y[part]) for part in (split.train, split.calibration, split.test)]


def _metrics(declaration: Declaration, contract: Contract, y: Labels, scores: Scores) -> dict[str, float]:
    threshold, costs = contract.decision_threshold, declaration.decision_costs
    metrics = evaluate(y, scores, threshold)
    if costs:
        metrics["cost_saved"] = cost_saved(y, scores, threshold, costs)
    if declaration.events:  # positives are rare: what matters is at few false alarms
        metrics |= {f"recall_at_{percent}_percent": recall_at(y, scores, percent / 100) for percent in (1, 0.1)}
    return metrics


def contract_of(
    declaration: Declaration,
    entity_key_type: KeyType,
    training_snapshot: str,
    dagster_run_id: str = "",
    event_key_type: KeyType | None = None,
) -> Contract:
    """Return the contract of a float network that is trained as declared, on that snapshot of the examples."""
    return Contract(
        model=declaration.name,
        entity_key=declaration.entity_key,
        entity_key_type=entity_key_type,
        events=declaration.events_of(event_key_type or "integer"),
        features=declaration.features,
        decision_threshold=declaration.decision_threshold,
        precision="float32",
        examples_table=declaration.examples.table,
        training_snapshot=training_snapshot,
        dagster_run_id=dagster_run_id,
        api=declaration.api,
    )


def _taught_network(
    declaration: Declaration, training: Part, teacher: Teacher, layout: Layout, encode: Encode, progress: Progress
) -> Network:
    budget, seed = budget_of(declaration.training, training.y), declaration.training.seed
    rows, targets = lesson(*training, teacher, layout.groupings, budget.synthetic_rows, seed)
    return train_network(
        encode,
        rows,
        targets,
        hidden=declaration.network.hidden,
        presentations=budget.row_presentations,
        seed=seed,
        progress=progress,
    )


def _check_graph(contract: Contract, difference: float) -> None:
    if not difference <= TOLERANCE:
        raise TandemError(
            f"The ONNX graph of {contract.model!r} is up to {difference:.2g} away from the network that was trained "
            f"(at most {TOLERANCE:g} is allowed): it is not exported. Use the onnxruntime version that Tandem pins."
        )


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - begin
