"""Episodes: robot trajectories at one rate, and which of them are kept. Nothing is decoded here."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from handloom.stages.episodes.rows import EpisodeRow
from handloom.stages.episodes.trajectories import (
    Smoothness,
    Trajectory,
    resample,
    smoothness,
)
from handloom.stages.stage import Stage
from handloom.stages.tables.rows import Clip, EpisodeArrays, Row


@dataclass(frozen=True)
class Episodes(Stage):
    """Options of `episodes`."""

    name: ClassVar[str] = "episodes"
    row_type: ClassVar[type[Row]] = EpisodeRow
    reads: ClassVar[dict[str, type[Row]]] = {"ingest": EpisodeArrays}
    light: ClassVar[bool] = True
    filters: ClassVar[bool] = True

    hz: float = 10.0
    """Common control frequency (GR-2 acts at about this rate). Actions whose meaning is not told
    (as_stored) keep their own."""
    keep_failed: bool = False
    """Keep episodes that did not reach their goal."""
    require_text: bool = True
    """Reject episodes without an instruction."""
    min_steps: int = 4
    """Shorter episodes are rejected, counted at the common rate."""
    max_speed_m_s: float = 3.0
    """An end effector that moves faster from one state to the next has jumped."""
    max_turn_rad_s: float = 15.0
    """The same for its rotation, or for a joint."""
    max_jerk_m_s3: float = 500.0
    """Root mean square of the jerk; arms at work stay below 100, tracking noise does not."""
    max_still_share: float = 0.5
    """Reject an episode whose state stays the same at more than this share of moving actions."""

    def __call__(self, clip: Clip, arrays: EpisodeArrays) -> Iterator[EpisodeRow]:
        """Resample one episode and decide on it."""
        source = _trajectory(arrays)
        if not (np.isfinite(source.state).all() and np.isfinite(source.action).all()):
            yield _row(clip.clip_id, "not_finite", source)
            return
        trajectory, shown = resample(source, self.hz)
        measured = smoothness(source)
        reason = self._reason(clip, arrays, len(trajectory), measured)
        yield _row(clip.clip_id, reason, trajectory, shown.tolist(), measured)

    def failed(self, error: str, clip: Clip, arrays: EpisodeArrays) -> Iterator[EpisodeRow]:
        """A row without a trajectory."""
        yield EpisodeRow(
            clip_id=clip.clip_id, status="failed", error=error, hz=0.0, steps_taken=[],
            state=[], action=[], idle=[], **asdict(Smoothness()),
        )  # fmt: skip

    def _reason(self, clip: Clip, arrays: EpisodeArrays, steps: int, measured: Smoothness) -> str:
        if arrays.success is False and not self.keep_failed:
            return "unsuccessful"
        if self.require_text and not clip.text.strip():
            return "no_text"
        if steps < self.min_steps:
            return "too_short"
        if measured.max_speed_m_s > self.max_speed_m_s:
            return "jump"
        if measured.max_turn_rad_s > self.max_turn_rad_s:
            return "jump"
        if measured.jerk_m_s3 > self.max_jerk_m_s3:
            return "jerk"
        return "frozen_state" if measured.still_share > self.max_still_share else ""


def _trajectory(arrays: EpisodeArrays) -> Trajectory:
    state = np.asarray(arrays.state, np.float64)
    idle = np.asarray(arrays.idle or [False] * len(state), np.bool_)
    return Trajectory(arrays.hz, arrays.action_kind, state, np.asarray(arrays.action), idle)


def _row(
    clip_id: str,
    reason: str,
    trajectory: Trajectory,
    shown: list[int] | None = None,
    measured: Smoothness | None = None,
) -> EpisodeRow:
    return EpisodeRow(
        clip_id=clip_id,
        status="rejected" if reason else "ok",
        reason=reason,
        hz=trajectory.hz,
        steps_taken=shown or [],
        state=trajectory.state.tolist(),
        action=trajectory.action.tolist(),
        idle=trajectory.idle.tolist(),
        **asdict(measured or Smoothness()),
    )
