"""A policy's chunks played through whole demonstrated episodes: the motion that would be commanded.

At every n-th step a chunk is predicted from what was truly seen there, n actions of it are taken,
then comes the next one. Nothing moves, so this shows how smooth and how near the motion is, and
not whether the task would be done.

Shapes: T steps that are played, W windows of the episode, k actions of a chunk, A numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from handloom.tokenize.shards.format import ARM
from handloom.train.evaluate.policy_scores import jerk, rms
from handloom.train.finetune.space import Space
from handloom.train.finetune.windows.windows import WindowBatch
from handloom.train.policy.policy import Execution, blend_and_smooth

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PlayedEpisode:
    """One episode; actions in physical units."""

    clip_id: str
    caption: str
    true: Floats
    """[T, A], demonstrated."""
    predicted: Floats
    """[T, A], the executed parts of the chunks, end to end."""
    executed: Floats
    """[T, A], the same mixed and smoothed, as `Policy` does it."""
    chunks: list[tuple[int, Floats]]
    """First step of each chunk, and its actions [k, A] as they are executed."""


def play(
    batch: WindowBatch, chunk_WkA: Floats, space: Space, execution: Execution, execute_n: int
) -> PlayedEpisode:
    """Play an episode through.

    Args:
        batch: all windows of it, in the order of their steps.
        chunk_WkA: predicted at each of them, physical units.
        space: of the policy.
        execution: how chunks become motion.
        execute_n: actions that are executed of each.
    """
    rows = _longest_run(batch.step)
    true = batch.action[rows, 0]
    plain, moved, chunks = [], [], list[tuple[int, Floats]]()
    done = np.zeros((0, true.shape[1]), np.float32)
    for start in range(0, len(rows), execute_n):
        earlier = range(0, start + 1, execute_n)
        valid = [(s, chunk_WkA[rows[s]]) for s in earlier if s + chunk_WkA.shape[1] > start]
        actions = blend_and_smooth(valid, done, space, execution)
        count = min(execute_n, len(rows) - start)
        plain.append(valid[-1][1][:count])
        moved.append(actions[:count])
        chunks.append((start, actions))
        done = np.concatenate([done, moved[-1]])[-2:]
    name, caption = batch.clip_id[0], batch.caption[0]
    return PlayedEpisode(name, caption, true, np.concatenate(plain), np.concatenate(moved), chunks)


def _longest_run(step: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Rows of the longest run of consecutive steps; long idle parts have no windows."""
    cuts = np.flatnonzero(np.diff(step) != 1) + 1
    return max(np.split(np.arange(len(step)), cuts), key=len)


def scores(played: Sequence[PlayedEpisode], space: Space) -> dict[str, Any]:
    """Scores of some episodes as plain JSON, by episode and of all."""
    rows = {one.clip_id: _scores(one, space) for one in played}
    every = {
        name: _pooled([row[name] for row in rows.values()], squares=name.startswith("jerk"))
        for name in next(iter(rows.values()))
    }
    return {"episodes": len(rows), "all": every, "by_episode": rows}


def _scores(one: PlayedEpisode, space: Space) -> dict[str, float]:
    if not space.arms:
        return {"steps": len(one.true)}
    drift = (one.executed - one.true).reshape(len(one.true), -1, ARM)[..., :3].sum(0)
    moved = np.abs(one.executed - one.true).reshape(-1, ARM)[:, :3].mean()
    return {
        "steps": len(one.true),
        "jerk_true_m_s3": jerk(one.true, space),
        "jerk_predicted_m_s3": jerk(one.predicted, space),
        "jerk_executed_m_s3": jerk(one.executed, space),
        "position_l1_mm": 1000 * float(moved),
        "drift_mm": 1000 * float(np.linalg.norm(drift, axis=-1).mean()),
    }


def _pooled(values: Sequence[float], squares: bool) -> float:
    return rms(values) if squares else float(np.mean(values))


def table(found: dict[str, Any]) -> Iterator[str]:
    """Scores as lines to print."""
    row = found["all"]
    yield f"\nchunks played through {found['episodes']} episodes of {row['steps']:.0f} steps"
    if "drift_mm" in row:
        yield (
            f"jerk, m/s³                        true {row['jerk_true_m_s3']:.1f}   predicted "
            f"{row['jerk_predicted_m_s3']:.1f}   executed {row['jerk_executed_m_s3']:.1f}"
        )
        yield (
            f"position error of an action       {row['position_l1_mm']:.2f} mm, all of them "
            f"together {row['drift_mm']:.0f} mm"
        )
