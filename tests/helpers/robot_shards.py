"""Small shards of robot episodes, as `pack` writes them, for whatever trains on trajectories.

An episode is a gripper that wanders over a table. Every view shows it as one cell that differs from
its background, so that pictures, states and actions belong together and can be learnt.
V views, T steps, R rows, C columns of codes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.stages.pack.statistics import Trajectories, shard_trajectories
from handloom.tokenize.shards import Layout, Sample, shard_path, write_manifest, write_shards

TOKENIZER = {"name": "vqgan-f16-64", "weights_sha256": "ab" * 32, "codebook_size": 64}
TASKS = ("push the block left", "push the block right", "lift the block")
TWO_VIEWS = ("static", "gripper")


@dataclass(frozen=True)
class Recorded:
    """One episode: codes uint16 [V, T, R, C], state and action float32 [T, 7 an arm]."""

    clip_id: str
    codes_vtrc: NDArray[np.uint16]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    views: tuple[str, ...] = TWO_VIEWS
    caption: str = TASKS[0]
    task: str = ""
    """Written as `facts.task`; without one the caption is the task."""
    idle: tuple[int, ...] = ()


def wander(
    number: int,
    steps: int = 20,
    views: tuple[str, ...] = TWO_VIEWS,
    rows: int = 4,
    cols: int = 4,
    codebook: int = 64,
    arms: int = 1,
    idle: tuple[int, ...] = (),
    name: str = "robot",
) -> Recorded:
    """Episode `number`, always the same one: positions add up, the hand turns about z alone."""
    random = np.random.default_rng(number)
    action = np.zeros((steps, arms, 7))
    action[..., :3] = random.normal(0, 0.02, (steps, arms, 3))
    action[..., 5] = random.normal(0, 0.1, (steps, arms))
    action[..., 6] = np.arange(steps)[:, None] < steps // 2
    state = np.zeros_like(action)
    state[0, :, :3] = random.uniform(-0.2, 0.2, (arms, 3))
    state[1:, :, :3] = state[0, :, :3] + np.cumsum(action[:-1, :, :3], axis=0)
    yaw = random.uniform(-np.pi, np.pi, arms) + np.cumsum(action[..., 5], axis=0) - action[..., 5]
    state[..., 5] = (yaw + np.pi) % (2 * np.pi) - np.pi
    state[..., 6] = np.roll(action[..., 6], 1, axis=0)
    codes = np.zeros((len(views), steps, rows, cols), np.uint16)
    row, col = (
        np.clip((at + 0.3) / 0.6 * size, 0, size - 1).astype(int)
        for at, size in ((state[:, 0, 1], rows), (state[:, 0, 0], cols))
    )
    for view in range(len(views)):
        codes[view] = view + 1
        codes[view, np.arange(steps), row, col] = codebook - 1 - view
    flat = (array.reshape(steps, 7 * arms).astype(np.float32) for array in (state, action))
    caption = TASKS[number % len(TASKS)]
    return Recorded(
        f"{name}-{number:04d}", codes, *flat, views=views, caption=caption, idle=idle,
        task=caption.replace(" ", "_"),
    )  # fmt: skip


def write_robot_shards(
    folder: Path,
    episodes: Mapping[str, Sequence[Recorded]] | tuple[int, int] = (12, 4),
    *,
    kind: str = "ee_delta",
    hz: float = 10.0,
    dataset: str = "robot",
    tokenizer: dict[str, Any] = TOKENIZER,
    per_shard: int = 10_000,
    layout: Layout = "samples",
    statistics: bool = True,
    **options: Any,
) -> Path:
    """Write episodes as a finished folder of shards.

    Args:
        folder: where to.
        episodes: per split; or how many of `wander` in train and in val.
        kind: of the actions.
        hz: steps a second.
        dataset: name in the metadata.
        tokenizer: entry of the manifest.
        per_shard: episodes a shard.
        layout: `packed` needs episodes of one shape.
        statistics: whether the manifest holds `trajectories`; runs of old lack it.
        options: of `wander`: steps, views, rows, cols, codebook, arms, idle, name.

    Returns:
        The folder.
    """
    if isinstance(episodes, tuple):
        train, val = episodes
        every = [wander(i, **options) for i in range(train + val)]
        episodes = {"train": every[:train], "val": every[train:]}
    infos, found = {}, Trajectories()
    for split, recorded in episodes.items():
        samples = [_sample(e, split, kind, hz, dataset) for e in recorded]
        infos[split] = write_shards(folder, split, samples, per_shard, layout)
        for number in range(len(infos[split])):
            path = shard_path(folder, split, number)
            found = found.merged(shard_trajectories(path, split))
    facts = {"trajectories": found.facts()} if statistics else {}
    write_manifest(folder, infos, {**tokenizer, "model": str(folder / "no-decoder-here")}, **facts)
    return folder


def _sample(episode: Recorded, split: str, kind: str, hz: float, dataset: str) -> Sample:
    meta = {
        "caption": episode.caption,
        "split": split,
        "dataset": dataset,
        "views": list(episode.views),
        "fps": hz,
        "action_kind": kind,
        "idle_steps": list(episode.idle),
        "facts": [f"task: {episode.task}"] if episode.task else [],
    }
    arrays = {"state": episode.state, "action": episode.action}
    return Sample(episode.clip_id, episode.codes_vtrc, meta, arrays)
