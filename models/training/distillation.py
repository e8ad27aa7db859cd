"""What the network is shown: real rows with softened outcomes, and recombined rows that the teacher labels.

After Hinton et al., "Distilling the Knowledge in a Neural Network" (2015).
"""

from collections.abc import Sequence

import numpy as np

from models.encoding import Encoded
from models.scoring import Scores
from models.training.grouping import Grouping, unknowing
from models.training.split import Labels
from models.training.teacher import Teacher

TRUTH = 0.1  # weight of the outcome in a real row's target; the rest is the teacher's out-of-fold score
MOST_REPLACED = 0.4  # a synthetic row takes each feature from another row at a rate of up to this


def lesson(
    rows: Encoded, y: Labels, teacher: Teacher, groupings: Sequence[Grouping], synthetic_rows: int, seed: int
) -> tuple[Encoded, Scores]:
    """Return the rows to learn from, the training rows first, and their targets, float32 [rows] in [0, 1].

    The training rows do not know from the columns that their categories share how they came out (`unknowing`).
    """
    real = np.float32(TRUTH) * y + np.float32(1 - TRUTH) * teacher.out_of_fold
    shown = unknowing(rows, groupings, teacher.folds)
    if not synthetic_rows:
        return shown, real
    synthetic = recombine(rows, synthetic_rows, seed)
    together = Encoded.joined([shown, synthetic])
    return together, np.concatenate([real, teacher.score(synthetic)])


def recombine(rows: Encoded, count: int, seed: int) -> Encoded:
    """Return `count` rows, each a copy of one of `rows` in which some features come from others of them.

    The rate of replacement is drawn for each row, evenly from 0 to 0.4. Every value comes from the same feature.
    """
    rng = np.random.default_rng(seed)
    rate = rng.uniform(0, MOST_REPLACED, count)
    copies = rows[rng.integers(0, len(rows), count)]
    for table, source in ((copies.numbers, rows.numbers), (copies.categories, rows.categories)):
        for j in range(table.shape[1]):
            replaced = np.flatnonzero(rng.random(count) < rate)
            table[replaced, j] = source[rng.integers(0, len(rows), len(replaced)), j]
    return copies
