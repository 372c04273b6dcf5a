"""The windows of one folder of robot episodes: their steps, and how they are read.

Shapes as in windows.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from handloom.errors import UserError
from handloom.tokenize.shards.windows import picture_offsets
from handloom.train.finetune.windows.episodes import Episodes, Integers

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class WindowOptions:
    """The extent of a window. GR-2 publishes none of these numbers: all are assumptions."""

    history: int = 2
    """Frames given to the model, the current one included."""
    stride: int = 5
    """Steps from one frame to the next: half a second at 10 Hz, in which an arm visibly moves."""
    chunk: int = 10
    """Actions that are predicted, one a step: a second at 10 Hz."""

    def __post_init__(self) -> None:
        for name in ("history", "stride", "chunk"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}; give 1 or more.")


class FolderWindows:
    """A window for each step after which, within the chunk, the arm is commanded.

    Such steps come in runs; what is kept is each run's episode, first step and number of windows.

    Args:
        episodes: of the folder.
        kept: mask of those that give windows, bool [E].
        options: what a window covers.
        views: of the model.

    Attributes:
        used: number of episodes that give windows.
    """

    def __init__(
        self,
        episodes: Episodes,
        kept: npt.NDArray[np.bool_],
        options: WindowOptions,
        views: Sequence[str],
    ) -> None:
        self.episodes, self.options, self.views = episodes, options, tuple(views)
        runs = (
            (episode, first, stop - first)
            for episode in np.flatnonzero(kept).tolist()
            for first, stop in _runs(episodes.commanded(episode), options.chunk)
        )
        # One number after the other: as a list of tuples they would take twenty times the memory.
        table = np.fromiter((n for run in runs for n in run), np.int32).reshape(-1, 3)
        self._episode, self._first = table[:, 0].copy(), table[:, 1].copy()
        self._starts = np.concatenate([[0], np.cumsum(table[:, 2], dtype=np.int64)])
        self.used = len(np.unique(self._episode))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def shards(self) -> list[str]:
        """The split's shards by hash."""
        data = self.episodes.data
        return [shard["sha256"][:12] for shard in data.manifest["splits"][data.split]["shards"]]

    def captions(self) -> set[str]:
        """Instructions of the episodes that give windows."""
        found = self.episodes.data.find(np.unique(self._episode).astype(np.int64), ("caption",))
        return set(found.columns["caption"])

    def read(self, numbers: Integers) -> Columns:
        """Windows by their numbers, int64 [B]: fields of a `WindowBatch`, text as objects [B]."""
        run = np.searchsorted(self._starts, numbers, side="right") - 1
        episode = self._episode[run].astype(np.int64)
        step = self._first[run] + numbers - self._starts[run]
        found = self.episodes.data.find(episode, ("clip_id", "caption", "state", "action"))
        captions, labels = found.columns["caption"], self.episodes.labels(episode)
        names = [n.task or caption for n, caption in zip(labels, captions, strict=True)]
        return {
            **self._frames(episode, step, found),
            **self._states(step, found.columns["state"]),
            **self._actions(episode, step, found.columns["action"]),
            "caption": captions,
            "dataset": np.array([label.dataset for label in labels], object),
            "task": np.array(names, object),
            "clip_id": found.columns["clip_id"],
            "step": step,
        }

    def _frames(self, episode: Integers, step: Integers, found: Any) -> Columns:
        """`codes` and `visible`. Every picture is a range of bytes; one gather reads them all."""
        options, steps = self.options, self.episodes.steps[episode]
        wanted = step[:, None] + options.stride * np.arange(1 - options.history, 2)
        at = np.clip(wanted, 0, steps[:, None] - 1)
        view = self.episodes.view_numbers(episode, self.views)
        visible = (wanted == at)[:, :, None] & (view >= 0)[:, None, :]
        size = 2 * self.episodes.grid[0] * self.episodes.grid[1]
        pictures = picture_offsets(found.shapes, view.clip(0), at).swapaxes(1, 2)
        places = found.offsets[:, None, None] + pictures
        files = np.broadcast_to(found.files[:, None, None], places.shape)
        read = self.episodes.data.files.gather(files.ravel(), places.ravel(), size)
        codes = read.view("<u2").reshape(*places.shape, *self.episodes.grid)
        codes[np.broadcast_to((view < 0)[:, None, :], visible.shape)] = 0
        return {"codes": codes, "visible": visible}

    def _states(self, step: Integers, states: Any) -> Columns:
        options = self.options
        wanted = step[:, None] + options.stride * np.arange(1 - options.history, 1)
        at = wanted.clip(0)
        rows = [state[here] for state, here in zip(states, at, strict=True)]
        return {"state": np.stack(rows), "state_known": wanted == at}

    def _actions(self, episode: Integers, step: Integers, actions: Any) -> Columns:
        steps = self.episodes.steps[episode]
        wanted = step[:, None] + np.arange(self.options.chunk)
        at = np.minimum(wanted, steps[:, None] - 1)
        rows = [action[here] for action, here in zip(actions, at, strict=True)]
        pairs = zip(episode.tolist(), at, strict=True)
        commanded = np.stack([self.episodes.commanded(n)[here] for n, here in pairs])
        return {"action": np.stack(rows), "action_valid": (wanted == at) & commanded}


def _runs(commanded: npt.NDArray[np.bool_], chunk: int) -> list[tuple[int, int]]:
    """Runs of steps t with a command among t … t + chunk - 1, as (first, stop)."""
    steps = np.arange(len(commanded))
    before = np.concatenate([[0], np.cumsum(commanded)])
    some = before[np.minimum(steps + chunk, len(commanded))] > before[steps]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], some, [False]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
