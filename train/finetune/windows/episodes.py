"""The robot episodes of one split of a folder: checks, labels, idle steps.

Every episode is checked once, when the folder is opened: an error shall not wait for the step that
happens to draw it. After that a few numbers an episode stay in memory.
Shapes: E episodes, T steps, S and A numbers of a state and an action, V views of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from handloom.errors import UserError
from handloom.tokenize.shards import ShardDataset

if TYPE_CHECKING:  # it needs torch, which reading does not
    from handloom.train.finetune.space import Space

Integers = npt.NDArray[np.int64]
AT_ONCE = 256  # episodes whose metadata are held at a time


class Label(NamedTuple):
    """Sizes and texts that many episodes share."""

    dataset: str
    task: str
    """`facts.task`; empty where the caption is the task."""
    views: tuple[str, ...]


class Recording(NamedTuple):
    """One episode while it is checked."""

    clip_id: str
    steps: int
    label: Label
    idle: list[int]


class Episodes:
    """The episodes of a split.

    Args:
        data: of shards with states and actions.
        space: that they must be of.

    Attributes:
        steps: T of each episode, int64 [E].
        grid: rows and columns of a picture's codes.

    Raises:
        UserError: an episode of another kind, rate or width, with a number that is not finite,
            with pictures of another size, or without a trajectory; names folder, clip and value.
    """

    def __init__(self, data: ShardDataset, space: Space) -> None:
        assert data.slicing.everything  # places of pictures are counted from whole episodes
        self.data, self.where = data, f"{data.path}/{data.split}"
        self.grid = tuple(data[0]["tokens"].shape[2:]) if len(data) else (0, 0)
        labels: dict[Label, int] = {}
        steps, label, idle = list[int](), list[int](), [np.zeros(0, np.int64)]
        for episode in self._scan(space):
            steps.append(episode.steps)
            label.append(labels.setdefault(episode.label, len(labels)))
            idle.append(np.array(episode.idle, np.int64))
        self.steps, self._label = np.array(steps, np.int64), np.array(label, np.int32)
        self._idle = np.concatenate(idle).astype(np.int32)
        self._idle_starts = np.cumsum([len(found) for found in idle])
        self._labels = list(labels)

    def __len__(self) -> int:
        return len(self.steps)

    def commanded(self, episode: int) -> npt.NDArray[np.bool_]:
        """Mask of the steps at which the arm is commanded, not idle: [T]."""
        first, last = self._idle_starts[episode : episode + 2]
        commanded = np.ones(self.steps[episode], bool)
        commanded[self._idle[first:last]] = False
        return commanded

    def labels(self, episodes: Integers) -> list[Label]:
        """Dataset, task and views of some episodes."""
        return [self._labels[number] for number in self._label[episodes].tolist()]

    def view_numbers(self, episodes: Integers, views: Sequence[str]) -> Integers:
        """Index of each view among an episode's own, -1 where it has none: [len(episodes), V]."""
        rows = [[_number(label.views, name) for name in views] for label in self._labels]
        table = np.array(rows, np.int64).reshape(-1, len(views))
        numbers: Integers = table[self._label[episodes]]
        return numbers

    def have_any(self, views: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Mask of the episodes that have one of the views, [E]."""
        numbers = self.view_numbers(np.arange(len(self)), views)
        return np.asarray((numbers >= 0).any(axis=1), bool)

    def tasks(self) -> tuple[list[str], list[str]]:
        """Task and clip id of every episode."""
        found = self.data.find(np.arange(len(self)), ("clip_id", "caption")).columns
        labels = self.labels(np.arange(len(self)))
        tasks = [n.task or caption for n, caption in zip(labels, found["caption"], strict=True)]
        return tasks, found["clip_id"].tolist()

    def _scan(self, space: Space) -> Iterator[Recording]:
        fields = ("clip_id", "meta", "state", "action")
        for first in range(0, len(self.data), AT_ONCE):
            numbers = np.arange(first, min(first + AT_ONCE, len(self.data)))
            found = self.data.find(numbers, fields)
            columns = (found.columns[name] for name in fields)
            for shape, *row in zip(found.shapes.tolist(), *columns, strict=True):
                yield self._recording(space, shape, *row)

    def _recording(
        self, space: Space, shape: list[int], clip_id: str, meta: dict[str, Any], state: Any,
        action: Any,
    ) -> Recording:  # fmt: skip
        where = f"{self.where}, {clip_id}"
        if state is None or action is None:
            raise UserError(
                f"{where} holds no state and action, so it is no robot episode; name a folder that "
                "`handloom curate` made of a robot dataset."
            )
        actual = (meta["action_kind"], meta["fps"], state.shape[1], action.shape[1])
        wanted = (space.kind, space.hz, len(space.state_mean), len(space.action_mean))
        if actual != wanted:
            raise UserError(
                f"{where} has {described(*actual)}, expected {described(*wanted)}: a policy has "
                "one kind of state and action; leave this folder out or curate it likewise."
            )
        views = tuple(meta["views"])
        if shape != [len(views), len(state), *self.grid] or len(state) != len(action):
            raise UserError(
                f"{where} has {len(views)} views, codes {shape}, {len(state)} states and "
                f"{len(action)} actions, expected codes [views, states, {self.grid[0]}, "
                f"{self.grid[1]}] and an action for each state; run `handloom curate` again."
            )
        for name, array in (("state", state), ("action", action)):
            _check_finite(where, name, array)
        facts = dict(fact.split(": ", 1) for fact in meta.get("facts", ()))
        task = facts.get("task", "")
        label = Label(str(meta.get("dataset", "unnamed")), task, views)
        return Recording(clip_id, len(state), label, meta.get("idle_steps", []))


def _check_finite(where: str, name: str, array: npt.NDArray[np.float32]) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        step, column = bad[0].tolist()
        raise UserError(
            f"{where}: {name} {column} of step {step} is {array[step, column]}, expected a finite "
            "number; run `handloom curate` again, which rejects such episodes as not_finite."
        )


def described(kind: str, hz: float, state: int, action: int) -> str:
    """Kind, rate and widths of episodes, for messages."""
    return f"{kind} at {hz:g} Hz with states of {state} and actions of {action} numbers"


def _number(names: tuple[str, ...], name: str) -> int:
    return names.index(name) if name in names else -1
