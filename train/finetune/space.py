"""States and actions between physical units and what the model takes and gives.

Conventions are those of docs/robot-episodes.md. S numbers a state, A an action.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from handloom.errors import UserError
from handloom.tokenize.shards.format import ARM

LEAST_STD = 1e-6  # a number that never moves is not to be blown up: its std counts as 1
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Space:
    """Meaning of a policy's numbers, and their mean and standard deviation over training steps.

    Args:
        kind: `ee_delta`, `joints` or `as_stored`.
        hz: steps a second.
        state_mean: of each of the S numbers, physical units, as the next three.
        state_std: population standard deviation.
        action_mean: of each of the A numbers, idle steps left out.
        action_std: likewise.

    Raises:
        UserError: `ee_delta` with numbers that are not seven for each arm.
    """

    kind: str
    hz: float
    state_mean: Numbers
    state_std: Numbers
    action_mean: Numbers
    action_std: Numbers

    def __post_init__(self) -> None:
        widths = len(self.state_mean), len(self.action_mean)
        if self.kind == "ee_delta" and (widths[0] % ARM or widths[1] % ARM or not all(widths)):
            raise UserError(
                f"the trajectories are ee_delta with states of {widths[0]} and actions of "
                f"{widths[1]} numbers, expected seven for each arm; say what they are with "
                "--ingest.action-kind and run `handloom curate` again."
            )

    @classmethod
    def of(cls, manifests: Mapping[str, Mapping[str, Any]]) -> Space:
        """The space that several folders of shards share, their statistics pooled by steps.

        Args:
            manifests: by folder, as `read_manifest` gives them.

        Raises:
            UserError: a folder holds no statistics, holds several kinds of episodes, or the folders
                differ in kind, rate or widths.
        """
        found = {str(folder): _entry(str(folder), m) for folder, m in manifests.items()}
        described = {folder: _describe(entry) for folder, entry in found.items()}
        if len(set(described.values())) != 1:
            listed = "; ".join(f"{folder}: {text}" for folder, text in described.items())
            raise UserError(
                f"the folders hold episodes of different kinds ({listed}), and one policy has one "
                "kind of state and action: name folders that agree, or curate them with the same "
                "--episodes.hz and --ingest.action-kind."
            )
        entries = list(found.values())
        state = _pooled([entry["state"] for entry in entries])
        action = _pooled([entry["action"] for entry in entries])
        return cls(entries[0]["action_kind"], float(entries[0]["hz"]), *state, *action)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON."""
        return {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Space:
        """The inverse of `to_dict`."""
        plain: dict[str, Any] = {
            n: tuple(v) if isinstance(v, list) else v for n, v in values.items()
        }
        return cls(**plain)

    @property
    def arms(self) -> int:
        """Arms whose poses are known; 0 unless the kind is `ee_delta`."""
        return len(self.state_mean) // ARM if self.kind == "ee_delta" else 0

    @cached_property
    def grippers(self) -> tuple[int, ...]:
        """Columns of the action that are grippers, 0 closed … 1 open.

        The last of every seven; none where the numbers' meaning is unknown (`as_stored`), or where
        joints do not come in sevens, so that all are regressed.
        """
        width = len(self.action_mean)
        if self.kind == "as_stored" or width % ARM:
            return ()
        return tuple(range(ARM - 1, width, ARM))

    @cached_property
    def arm_columns(self) -> tuple[int, ...]:
        """All other columns of the action."""
        return tuple(i for i in range(len(self.action_mean)) if i not in self.grippers)

    @property
    def state_width(self) -> int:
        """Numbers of an encoded state."""
        return self.arms * (3 + 6 + 1) if self.arms else len(self.state_mean)

    def encode_state(self, state: Tensor) -> Tensor:
        """A state as the model takes it.

        `ee_delta` gives for each arm the position normalised, the first two columns of the rotation
        matrix (continuous, where angles jump from pi to -pi; Zhou et al., "On the continuity of
        rotation representations in neural networks", arXiv 1812.07035), and the gripper as it is.
        In all other kinds every number is normalised.

        Args:
            state: float32 [..., S], physical units.

        Returns:
            float32 [..., state_width].
        """
        scaled = (state - _row(self.state_mean, state)) / _row(_safe(self.state_std), state)
        if not self.arms:
            return scaled
        parts = []
        for first in range(0, len(self.state_mean), ARM):
            position = scaled[..., first : first + 3]
            rotation = rotation_columns(state[..., first + 3 : first + 6])
            parts += [position, rotation, state[..., first + 6 : first + 7]]
        return torch.cat(parts, dim=-1)

    def normalise(self, action: Tensor) -> Tensor:
        """Actions [..., A] in physical units to the model's: all but grippers to mean 0, std 1."""
        mean, std = self._scale(action)
        return (action - mean) / std

    def denormalise(self, action: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        mean, std = self._scale(action)
        return action * std + mean

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean to subtract and deviation to divide by, [A] each; 0 and 1 for grippers."""
        std = _safe(self.action_std)
        grippers = set(self.grippers)
        mean = [0.0 if i in grippers else value for i, value in enumerate(self.action_mean)]
        return _row(mean, like), _row(
            [1.0 if i in grippers else v for i, v in enumerate(std)], like
        )


def rotation_columns(rpy: Tensor) -> Tensor:
    """The first two columns of R = Rz(yaw) Ry(pitch) Rx(roll), one after the other.

    Args:
        rpy: roll, pitch, yaw in radians, [..., 3].

    Returns:
        [..., 6].
    """
    (sr, sp, sy), (cr, cp, cy) = rpy.sin().unbind(-1), rpy.cos().unbind(-1)
    first = [cy * cp, sy * cp, -sp]
    second = [cy * sp * sr - sy * cr, sy * sp * sr + cy * cr, cp * sr]
    return torch.stack([*first, *second], dim=-1)


def _entry(folder: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A folder's statistics, checked to be whole."""
    entry = dict(manifest.get("trajectories") or {})
    if mixed := entry.get("mixed"):
        raise UserError(
            f"{folder} holds episodes of different kinds ({'; '.join(mixed)}), and one policy has "
            "one kind of state and action: curate the parts of the data into folders of their own."
        )
    missing = [n for n in ("state", "action") if not entry.get(n, {}).get("count")]
    if missing:
        raise UserError(
            f"{folder} holds no statistics of {' and '.join(missing)} over its train split: if its "
            "data are robot episodes, run `handloom curate` again with the same --out (only `pack` "
            "is redone), else name a folder of robot episodes."
        )
    for name in ("state", "action"):
        numbers = [*entry[name]["mean"], *entry[name]["std"]]
        if not all(map(math.isfinite, numbers)):
            raise UserError(
                f"{folder}: the statistics of {name} hold NaN or infinity ({numbers}), so some "
                "step does; run `handloom curate` again, which rejects such episodes."
            )
    return entry


def _describe(entry: Mapping[str, Any]) -> str:
    state, action = (len(entry[name]["mean"]) for name in ("state", "action"))
    kind, hz = entry["action_kind"], entry["hz"]
    return f"{kind} at {hz:g} Hz, state of {state}, action of {action}"


def _pooled(entries: Sequence[Mapping[str, Any]]) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation of all steps of several folders."""
    counts = [entry["count"] for entry in entries]
    total = sum(counts)
    mean, std = [], []
    for means, stds in zip(
        zip(*(entry["mean"] for entry in entries), strict=True),
        zip(*(entry["std"] for entry in entries), strict=True),
        strict=True,
    ):
        middle = math.fsum(n * m for n, m in zip(counts, means, strict=True)) / total
        parts = zip(counts, means, stds, strict=True)
        square = math.fsum(n * (s**2 + (m - middle) ** 2) for n, m, s in parts) / total
        mean.append(middle)
        std.append(math.sqrt(square))
    return tuple(mean), tuple(std)


def _safe(stds: Sequence[float]) -> list[float]:
    return [std if std >= LEAST_STD else 1.0 for std in stds]


def _row(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)
