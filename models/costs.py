"""What predictions cost: the CPU time that they took, at a price. The same sums for the night and for the service."""

from dataclasses import dataclass
from typing import Self

MILLION = 1_000_000
HOUR = 3600.0  # seconds


@dataclass(frozen=True)
class Usage:
    """How many predictions were made, and the CPU seconds of everything that was done for them."""

    predictions: int
    cpu_seconds: float

    def since(self, earlier: Self | None) -> "Usage":
        """Return what came after an earlier reading of the same counters; all of it where they began again."""
        if earlier is None or self.predictions < earlier.predictions or self.cpu_seconds < earlier.cpu_seconds:
            return self
        return Usage(self.predictions - earlier.predictions, self.cpu_seconds - earlier.cpu_seconds)

    @property
    def microseconds_each(self) -> float:
        """CPU microseconds of a prediction; `ZeroDivisionError` where there was none."""
        return MILLION * self.cpu_seconds / self.predictions

    def money(self, cpu_hour: float) -> float:
        """Return what it costs when an hour of one core costs `cpu_hour`."""
        return self.cpu_seconds / HOUR * cpu_hour

    def money_per_million(self, cpu_hour: float) -> float:
        """Return what a million such predictions cost; `ZeroDivisionError` where there was none."""
        return MILLION * self.money(cpu_hour) / self.predictions
