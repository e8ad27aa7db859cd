"""The rhythm of a week, as a clock that runs faster when people are awake.

On this clock every day lasts as long as its share of a week's swipes, so that whatever happens at a steady rate on it
has the rhythm of day and week in real time.
"""

from datetime import date

import numpy as np
import numpy.typing as npt

Moments = npt.NDArray[np.int64]  # microseconds since the first day's midnight
Clock = npt.NDArray[np.float64]  # days of the clock since then: seven a week

HOUR, DAY = 3_600_000_000, 86_400_000_000

# How fast life runs, Monday to Thursday alike but for the weekday's own factor.
WORKDAY = (35, 30, 25, 25, 25, 30, 45, 80, 100, 100, 105, 115, 150, 130, 110, 115, 125, 155, 170, 145, 115, 90, 70, 50)
WEEKEND = (60, 50, 40, 32, 28, 28, 34, 50, 80, 120, 150, 165, 160, 150, 150, 150, 145, 140, 140, 130, 115, 100, 85, 70)
WEEKDAYS = (0.94, 0.95, 0.97, 1.02, 1.18, 1.12, 0.8)


class Pace:
    """The clock of a stream that begins at midnight (UTC) of `first_day`."""

    def __init__(self, first_day: date) -> None:
        hours = np.array([WEEKEND if day > 4 else WORKDAY for day in range(7)]) * np.array(WEEKDAYS)[:, None]
        since = np.cumsum(np.roll(hours.ravel(), -24 * first_day.weekday()))
        self._clock = np.concatenate([[0], since / since[-1] * 7])
        self._moment = np.arange(len(self._clock)) * float(HOUR)

    def clock(self, moments: Moments) -> Clock:
        """Return what the clock shows at `moments`."""
        week, rest = np.divmod(moments, 7 * DAY)
        return 7.0 * week + np.interp(rest, self._moment, self._clock)

    def moments(self, clock: Clock) -> Moments:
        """Return when the clock shows `clock`, cut to whole microseconds."""
        week, rest = np.divmod(clock, 7)
        return week.astype(np.int64) * 7 * DAY + np.interp(rest, self._clock, self._moment).astype(np.int64)
