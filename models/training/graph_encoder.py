"""The encoder's nodes: from numbers and category codes to the columns of `layout`, inside the ONNX graph.

    numbers ── centre, scale, clamp, fill ── Gemm ── Clip ──┐
                                                            ScatterElements ── dense
    categories ── column of each code ──────────────────────┘

The Gemm computes all pieces of all numbers at once, `clip((x - e) / (e' - e), 0, 1)`, with a block-diagonal matrix; the
scatter sets the one-hot columns in the zeros that it left for them. Behind the layout's columns is a spare one, which
takes the category codes that training had too few of; its weights are 0 (see `graph`). The int8 graph has other columns
for the same first layer: see `rising_columns`.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from models.contract import CATEGORIES, NUMBERS, Contract
from models.encoding import Numbers
from models.training.graph_parts import GraphParts
from models.training.layout import Layout

CLAMP = 1e29  # of any number as it is read, on either side; the edges are far within
MISSING = -4 * CLAMP  # what a missing number reads as
LARGEST_SCALE = 1e30  # of float32; a smaller reach is hardly distinct from 0
FINEST = 2.0**-12  # piece, by its own edges: below, float32 must be centred to tell its values apart
LARGEST_EDGE = 2.0**40  # of numbers that are read as they are


def add_encoder(parts: GraphParts, contract: Contract, layout: Layout) -> str:
    """Add the encoder's nodes; what they end in is float32 [rows, layout.width + 1], the spare column last."""
    dense = _pieces(parts, contract, layout) if contract.numbers else _zeros(parts, layout)
    if not contract.categories:
        return dense
    codes = parts.input(CATEGORIES, TensorProto.INT32, len(contract.categories))
    offsets = parts.constant("code_offsets", np.cumsum([0, *contract.code_counts[:-1]]), np.int32)
    positions = parts.node("Add", [codes, offsets], "code_positions")
    columns = parts.constant("code_columns", _one_hot_columns(layout), np.int64)
    one_hot = parts.node("Gather", [columns, positions], "one_hot_columns")
    shape = parts.node("Shape", [one_hot], "one_hot_shape")
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    ones = parts.node("ConstantOfShape", [shape], "ones", value=one)
    return parts.node("ScatterElements", [dense, one_hot, ones], "dense", axis=1)


def _pieces(parts: GraphParts, contract: Contract, layout: Layout) -> str:
    """Add the pieces of every number and the indicators, with zeros in the one-hot columns.

    Numbers that are huge, or whose pieces are fine, are centred and scaled first, so that they keep their precision;
    all are clamped, so that none overflows. A missing one reads as a value below the clamp, where every piece is 0 and
    the indicator, one more piece, is 1.
    """
    centre, scale = _centre_and_scale(layout)
    numbers = parts.input(NUMBERS, TensorProto.FLOAT, len(contract.numbers))
    absent = parts.node("IsNaN", [numbers], "absent")
    if centre.any() or (scale != 1).any():
        numbers = parts.node("Sub", [numbers, parts.constant("centre", centre)], "centred")
        numbers = parts.node("Mul", [numbers, parts.constant("scale", scale)], "scaled")
    limits = [parts.constant("lowest", -CLAMP), parts.constant("highest", CLAMP)]
    clamped = parts.node("Clip", [numbers, *limits], "clamped")
    missing = parts.constant("missing", _missing(contract, layout, centre, scale))
    filled = parts.node("Where", [absent, missing, clamped], "filled")
    slopes, bias = _piece_matrix(layout, centre, scale)
    operands = [filled, parts.constant("slopes", slopes), parts.constant("starts", bias)]
    unclipped = parts.node("Gemm", operands, "unclipped")
    return parts.node("Clip", [unclipped, parts.constant("zero", 0), parts.constant("one", 1)], "pieces")


def _zeros(parts: GraphParts, layout: Layout) -> str:
    """Add float32 zeros [rows, layout.width + 1], for a model without numbers."""
    rows = parts.node("Shape", [CATEGORIES], "row_count", start=0, end=1)
    shape = parts.node("Concat", [rows, parts.constant("width", [layout.width + 1], np.int64)], "dense_shape", axis=0)
    return parts.node("ConstantOfShape", [shape], "zeros")


def _centre_and_scale(layout: Layout) -> tuple[Numbers, Numbers]:
    """Return median and 1 / (last edge - first edge) of the numbers that need it, 0 and 1 of the others; float32."""
    centre, scale = np.zeros_like(layout.medians), np.ones_like(layout.medians)
    for j, cuts in enumerate(layout.edges):
        exact = cuts.astype(np.float64)
        if len(exact) > 1 and not _can_be_read_as_it_is(exact):
            centre[j] = layout.medians[j]
            scale[j] = min(1 / (exact[-1] - exact[0]), LARGEST_SCALE)
    return centre, scale


def _can_be_read_as_it_is(edges: npt.NDArray[np.float64]) -> bool:
    """Tell whether float32 has the pieces between the edges exactly enough, and both are far from its limits."""
    reach, widths = np.abs(edges), np.diff(edges)
    finest = np.maximum(FINEST * np.maximum(reach[1:], reach[:-1]), 1 / LARGEST_SCALE)
    return bool(reach.max() <= LARGEST_EDGE and (widths >= finest).all())


def _missing(contract: Contract, layout: Layout, centre: Numbers, scale: Numbers) -> Numbers:
    """Return what a missing number reads as: MISSING, or the median where training had none to learn from.

    float32 [1] if it is the same for all, which onnxruntime computes faster, else [numbers].
    """
    readings = np.full(len(contract.numbers), MISSING, np.float32)
    unlearnt = [number.missing for number in contract.numbers.values()]
    for j in layout.indicators:
        unlearnt[j] = False
    readings[unlearnt] = ((layout.medians - centre) * scale)[unlearnt]
    return readings if any(unlearnt) else readings[:1]


def _piece_matrix(layout: Layout, centre: Numbers, scale: Numbers) -> tuple[Numbers, Numbers]:
    """Return the block-diagonal slopes [numbers, width + 1] and the bias [width + 1] of all dense columns.

    A piece rises from 0 to 1 between two edges, an indicator between the lower clamp and the reading of a missing one.
    """
    pieces: list[tuple[int, float, float]] = []
    for j, cuts in enumerate(layout.edges):
        pieces += [(j, start, end) for start, end in pairwise((cuts.astype(np.float64) - centre[j]) * scale[j])]
    pieces += [(j, 1.5 * -CLAMP, 0.5 * MISSING) for j in layout.indicators]
    slopes, bias = np.zeros((len(layout.edges), layout.width + 1)), np.zeros(layout.width + 1)
    for column, (j, start, end) in enumerate(pieces):
        slopes[j, column], bias[column] = 1 / (end - start), -start / (end - start)
    return slopes.astype(np.float32), bias.astype(np.float32)


def _one_hot_columns(layout: Layout) -> list[int]:
    """Return the dense column of every code of every category; the spare one for a code that has none."""
    columns: list[int] = []
    first = layout.width - sum(grouping.width for grouping in layout.groupings)
    for grouping in layout.groupings:
        columns += np.where(grouping.columns < 0, layout.width, first + grouping.columns).tolist()
        first += grouping.width
    return columns
