"""What a stage's batches took: seconds of a worker for a clip, with the error of that number."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass
class Spent:
    """Sums over batches, by which a rate and its error follow without keeping each batch.

    Clips of a batch share an open video, so batches, not clips, are taken to be independent.
    """

    batches: int = 0
    clips: float = 0.0
    seconds: float = 0.0
    """Of one worker."""
    clips_squared: float = 0.0
    seconds_squared: float = 0.0
    clips_seconds: float = 0.0

    @classmethod
    def of(cls, facts: dict[str, Any] | None) -> Self:
        """As `facts` gave it; nothing yet of None."""
        names = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in (facts or {}).items() if name in names})

    def add(self, clips: int, seconds: float) -> None:
        """Count a batch."""
        self.batches += 1
        self.clips += clips
        self.seconds += seconds
        self.clips_squared += clips**2
        self.seconds_squared += seconds**2
        self.clips_seconds += clips * seconds

    @property
    def rate(self) -> float:
        """Seconds of a worker for a clip; 0 before the first."""
        return self.seconds / self.clips if self.clips else 0.0

    @property
    def error(self) -> float:
        """Standard error of the rate, as a share of it; infinite for fewer than two batches.

        That of a ratio of sums (Cochran, Sampling Techniques, 1977, section 2.11): the spread of
        what batches took around rate x clips.
        """
        if self.batches < 2 or not self.seconds:
            return math.inf
        rate = self.rate
        squares = (
            self.seconds_squared - 2 * rate * self.clips_seconds + rate**2 * self.clips_squared
        )
        return math.sqrt(max(0.0, squares) * self.batches / (self.batches - 1)) / self.seconds

    def facts(self) -> dict[str, float]:
        """All of it, for a marker."""
        return {name: round(value, 4) for name, value in asdict(self).items()}
