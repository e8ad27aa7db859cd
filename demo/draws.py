"""Reproducible random numbers for the rows of one chunk. Nothing here knows what they are drawn for."""

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int8]
Shares = tuple[float, ...]

LEVELS = 4096  # resolution of a share: 0.024 %


class Draws:
    """Random numbers for `rows` rows, each call from a stream of its own.

    A row's numbers depend on the key and on the row's position alone: not on how many rows follow, nor on other chunks.
    """

    def __init__(self, rows: int, *key: int) -> None:
        self._rows = rows
        self._key = key
        self._streams = 0

    def uniform(self) -> Reals:
        """Return float32 [rows] in [0, 1)."""
        return self._stream().random(self._rows, np.float32)

    def normal(self) -> Reals:
        """Return float32 [rows], standard normal."""
        return self._stream().standard_normal(self._rows, np.float32)

    def exponential(self) -> Reals:
        """Return float32 [rows] with mean 1."""
        return self._stream().standard_exponential(self._rows, np.float32)

    def flag(self, share: Reals | float) -> Flags:
        """Return bool [rows], true with the probability `share`."""
        return self.uniform() < share

    def whole(self, limit: int) -> npt.NDArray[np.int64]:
        """Return int64 [rows] from 0 to `limit` - 1."""
        return (self._stream().random(self._rows) * limit).astype(np.int64)

    def moment(self) -> npt.NDArray[np.float64]:
        """Return float64 [rows] in [0, 1), fine enough to tell microseconds of a day apart."""
        return self._stream().random(self._rows)

    def count(self, mean: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Return int64 [rows], Poisson with the mean of each row."""
        return self._stream().poisson(mean)

    def code(self, shares: tuple[Shares, ...], group: Codes | int = 0) -> Codes:
        """Return int8 [rows]: positions drawn with the shares of each row's group; the last one takes the rest."""
        middles = (np.arange(LEVELS) + 0.5) / LEVELS
        table = np.array([np.searchsorted(np.cumsum(row[:-1]), middles, "right") for row in shares], np.int8)
        codes: Codes = table[group, (self.uniform() * LEVELS).astype(np.int16)]
        return codes

    def _stream(self) -> np.random.Generator:
        self._streams += 1
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence((*self._key, self._streams))))
