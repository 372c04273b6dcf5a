"""Rows of the `episodes` table."""

from dataclasses import dataclass

from handloom.stages.tables.rows import Row


@dataclass(frozen=True, kw_only=True)
class EpisodeSteps(Row):
    """Which pictures of an episode are wanted."""

    hz: float
    """Steps per second after resampling."""
    steps_taken: list[int]
    """Of each resampled step, the source step whose pictures it shows."""


@dataclass(frozen=True, kw_only=True)
class EpisodeRow(EpisodeSteps):
    """A row of the `episodes` table: the trajectory at the common rate, and how smooth it is."""

    state: list[list[float]]
    action: list[list[float]]
    idle: list[bool]
    max_speed_m_s: float
    """Fastest move from one state to the next; 0 where the state holds no positions."""
    max_turn_rad_s: float
    jerk_m_s3: float
    """Root mean square of the third difference of the positions."""
    still_share: float
    """Steps at which nothing in the state changes although the action says so."""
