"""The `episodes` stage: robot trajectories at a common rate, and which of them are kept.

It decodes no images: states and actions come from the `ingest` table.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from handloom.stages.episodes.rows import EpisodeRow
from handloom.stages.episodes.trajectories import Smoothness, Trajectory, resample, smoothness
from handloom.stages.stage import Stage
from handloom.stages.tables.rows import DescribedFootage, EpisodeArrays, Footage, Row


@dataclass(frozen=True)
class Episodes(Stage):
    """The `episodes` stage and its options."""

    name: ClassVar[str] = "episodes"
    row_type: ClassVar[type[Row]] = EpisodeRow
    code_version: ClassVar[int] = 2
    clip_type: ClassVar[type[Footage]] = DescribedFootage
    reads: ClassVar[dict[str, type[Row]]] = {"ingest": EpisodeArrays}
    light: ClassVar[bool] = True
    filters: ClassVar[bool] = True

    hz: float = 10.0
    """Steps per second after resampling (GR-2 acts at about 10). Episodes whose actions are
    `as_stored` keep their own rate."""
    keep_failed: bool = False
    """Keep episodes that did not reach their goal."""
    require_text: bool = True
    """Reject episodes without an instruction."""
    min_steps: int = 4
    """Reject episodes with fewer steps at the common rate."""
    max_speed_m_s: float = 3.0
    """Reject an episode whose end effector moves faster from one state to the next, m/s."""
    max_turn_rad_s: float = 15.0
    """Reject an episode whose end effector or a joint turns faster, rad/s."""
    max_jerk_m_s3: float = 500.0
    """Reject an episode with a larger root mean square of the jerk, m/s^3. Arms at work stay below
    100, tracking noise does not."""
    max_still_share: float = 0.5
    """Reject an episode whose state does not change at more than this share of its steps, 0 to 1,
    although the actions move the arm."""

    def __call__(self, clip: DescribedFootage, arrays: EpisodeArrays) -> Iterator[EpisodeRow]:
        """The row of one episode: its resampled trajectory, and whether it is kept."""
        source = _to_trajectory(arrays)
        if not (np.isfinite(source.state).all() and np.isfinite(source.action).all()):
            yield _row(clip.clip_id, "not_finite", source)
            return
        trajectory, source_steps = resample(source, self.hz)
        measures = smoothness(source)
        reason = self._reason(clip, arrays, len(trajectory), measures)
        yield _row(clip.clip_id, reason, trajectory, source_steps.tolist(), measures)

    def failed(
        self, error: str, clip: DescribedFootage, arrays: EpisodeArrays
    ) -> Iterator[EpisodeRow]:
        """The row of an episode that could not be processed, without a trajectory."""
        yield EpisodeRow(
            clip_id=clip.clip_id, status="failed", error=error, hz=0.0, steps_taken=[],
            state=[], action=[], idle=[], **asdict(Smoothness()),
        )  # fmt: skip

    def _reason(
        self, clip: DescribedFootage, arrays: EpisodeArrays, steps: int, measures: Smoothness
    ) -> str:
        if arrays.success is False and not self.keep_failed:
            return "unsuccessful"
        if self.require_text and not clip.text.strip():
            return "no_text"
        if steps < self.min_steps:
            return "too_short"
        if (
            measures.max_speed_m_s > self.max_speed_m_s
            or measures.max_turn_rad_s > self.max_turn_rad_s
        ):
            return "jump"
        if measures.jerk_m_s3 > self.max_jerk_m_s3:
            return "jerk"
        return "frozen_state" if measures.still_share > self.max_still_share else ""


def _to_trajectory(arrays: EpisodeArrays) -> Trajectory:
    state = np.asarray(arrays.state, np.float64)
    idle = np.asarray(arrays.idle or [False] * len(state), np.bool_)
    action = np.asarray(arrays.action)
    return Trajectory(arrays.hz, arrays.action_kind, state, action, idle, tuple(arrays.grippers))


def _row(
    clip_id: str,
    reason: str,
    trajectory: Trajectory,
    source_steps: list[int] | None = None,
    measures: Smoothness | None = None,
) -> EpisodeRow:
    return EpisodeRow(
        clip_id=clip_id,
        status="rejected" if reason else "ok",
        reason=reason,
        hz=trajectory.hz,
        steps_taken=source_steps or [],
        state=trajectory.state.tolist(),
        action=trajectory.action.tolist(),
        idle=trajectory.idle.tolist(),
        **asdict(measures or Smoothness()),
    )
