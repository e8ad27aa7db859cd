import struct

import numpy as np
import pytest

from models.training import plots


def size_of(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    return struct.unpack(">II", png[16:24])


@pytest.mark.parametrize("rows", [12, 3000])
def test_every_picture_is_drawn_860_pixels_wide(rows):
    rng = np.random.default_rng(0)
    scores = rng.random(rows).astype(np.float32)
    y = (rng.random(rows) < scores).astype(np.float32)
    y[:2] = 0, 1
    pictures = [
        plots.roc_and_calibration(y, {"network int8": scores, "boosted trees": scores**2}),
        plots.float_against_int8(scores, scores + np.float32(0.001) * y),
        plots.float_against_int8(scores, scores),
        plots.training_curve([0.7, 0.5, 0.45][: rows // 4]),
    ]
    assert {size_of(picture)[0] for picture in pictures} == {860}
