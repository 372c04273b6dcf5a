"""What a stage's batches took: seconds of a worker for a clip and for a file, with their error."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass
class Spent:
    """Sums over batches, by which rates and their error follow without keeping each batch.

    Clips of a batch share an open video, so batches, not clips, are taken to be independent.
    """

    batches: int = 0
    clips: float = 0.0
    files: float = 0.0
    """Files that each batch opened, one after the other."""
    seconds: float = 0.0
    """Of one worker."""
    clips_squared: float = 0.0
    files_squared: float = 0.0
    seconds_squared: float = 0.0
    clips_files: float = 0.0
    clips_seconds: float = 0.0
    files_seconds: float = 0.0

    @classmethod
    def of(cls, facts: dict[str, Any] | None) -> Self:
        """As `facts` gave it; nothing yet of None."""
        names = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in (facts or {}).items() if name in names})

    def add(self, clips: int, seconds: float, files: int = 0) -> None:
        """Count a batch."""
        self.batches += 1
        self.clips += clips
        self.files += files
        self.seconds += seconds
        self.clips_squared += clips**2
        self.files_squared += files**2
        self.seconds_squared += seconds**2
        self.clips_files += clips * files
        self.clips_seconds += clips * seconds
        self.files_seconds += files * seconds

    def __add__(self, other: "Spent") -> "Spent":
        """The batches of both."""
        one, two = asdict(self), asdict(other)
        return Spent(**{name: value + two[name] for name, value in one.items()})

    @property
    def rates(self) -> tuple[float, float]:
        """Seconds of a worker for a clip, and for each file that is opened.

        By least squares; all goes to the clips where the batches do not tell the two apart.
        """
        both, apart = self.clips_files, self.clips_squared * self.files_squared
        if apart - both**2 > 1e-6 * apart:
            clip = self.clips_seconds * self.files_squared - self.files_seconds * both
            file = self.files_seconds * self.clips_squared - self.clips_seconds * both
            if clip >= 0 and file >= 0:
                return clip / (apart - both**2), file / (apart - both**2)
        return (self.seconds / self.clips if self.clips else 0.0), 0.0

    @property
    def error(self) -> float:
        """Standard error of the rates, as a share of them; infinite for fewer than two batches.

        That of a ratio of sums (Cochran, Sampling Techniques, 1977, section 2.11): the spread of
        what batches took around what the rates say.
        """
        if self.batches < 2 or not self.seconds:
            return math.inf
        clip, file = self.rates
        squares = (
            self.seconds_squared
            - 2 * (clip * self.clips_seconds + file * self.files_seconds)
            + (clip**2 * self.clips_squared + file**2 * self.files_squared)
            + 2 * clip * file * self.clips_files
        )
        unknown = 2 if file and self.batches > 2 else 1
        return math.sqrt(max(0.0, squares) * self.batches / (self.batches - unknown)) / self.seconds

    def facts(self) -> dict[str, float]:
        """All of it, for a marker."""
        return {name: round(value, 4) for name, value in asdict(self).items()}
