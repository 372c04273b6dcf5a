"""A fine-tuned model as a policy that a robot can call.

    from handloom.train.policy import Policy

    policy = Policy.from_checkpoint("runs/finetune")
    policy.reset()
    while not done:
        chunk = policy.act("open the drawer", images={"static": …, "wrist": …}, state=…)
        for action in chunk.execute:          # 10 a second: chunk.hz
            robot.move(action)                # metres, radians, gripper 0 closed … 1 open

The policy keeps its own history: it takes `act` to be called each time `execute` is done, and uses
the observation that is `stride` steps old. A robot with more pictures calls `observe` in between.

Shapes: H x W pixels, S numbers a state, A an action, k actions a chunk, n of them executed,
V views, h frames given, R rows, C columns of codes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from handloom.errors import UserError
from handloom.tokenize.frames import center_square
from handloom.tokenize.vqgan import VQGAN
from handloom.train.finetune import export
from handloom.train.finetune.inputs import Inputs, codes_of, joined
from handloom.train.finetune.model import RobotModel
from handloom.train.finetune.space import Space
from handloom.train.generate.pictures import load_tokenizer
from handloom.train.model import text
from handloom.train.policy.imagine import next_frames
from handloom.train.policy.smoothing import blend, smooth

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Execution:
    """Execution of chunks: how many actions, mixed and smoothed."""

    execute_n: int | None = None
    """Actions that are executed of each chunk; by default as many as lie between two frames, so
    that the last call's picture is the earlier frame that the model takes. One at a time reacts
    fastest and costs most."""
    ensemble: float | None = None
    """Mix actions that earlier chunks meant for the same moment, the oldest weighing most: weight
    exp(-ensemble * i) for the i-th oldest (ACT, arXiv 2304.13705, has 0.01). None does not mix."""
    smoothing: float = 0.1
    """Weight of the jerk beside the distance from the predicted path; 0 leaves chunks as they are.
    See smoothing.py."""
    sample: bool = False
    """Draw a trajectory, by the head's noise; else it is the same one each time, of no noise."""
    seed: int = 0
    """Seed of the draws."""


@dataclass(frozen=True)
class Chunk:
    """The next actions."""

    actions: Floats
    """[k, A], physical units, smoothed; `docs/robot-episodes.md` says what each number means."""
    predicted: Floats
    """[k, A], as the model gave them."""
    execute_n: int
    hz: float
    """Actions a second."""

    @property
    def execute(self) -> Floats:
        """The first n actions [n, A]: those to execute before `act` is called again."""
        return self.actions[: self.execute_n]

    @property
    def times_s(self) -> npt.NDArray[np.float64]:
        """When each action starts, seconds from the observation: [k]."""
        return np.arange(len(self.actions)) / self.hz


@dataclass(frozen=True)
class Observation:
    """Images and state of one step; codes are made when they are first needed."""

    step: int
    images: dict[str, Picture]
    state: Floats
    codes_VRC: npt.NDArray[np.uint16] | None = None


class Policy:
    """A fine-tuned model with its tokenizer, its text encoder and a memory of the episode.

    Args:
        model: in evaluation mode.
        space: what its states and actions are.
        stride: steps between the frames that the model takes.
        tokenizer: whose codes it was trained on.
        encoder: of instructions.
        execution: options of executing chunks.
    """

    def __init__(
        self,
        model: RobotModel,
        space: Space,
        stride: int,
        tokenizer: VQGAN,
        encoder: text.TextEncoder,
        execution: Execution | None = None,
    ) -> None:
        self.model, self.space, self.stride = model, space, stride
        self.tokenizer, self.encoder = tokenizer, encoder
        self.execution = execution or Execution()
        self.execute_n = actions_to_execute(self.execution, stride, model.shape.chunk)
        self.device = next(model.parameters()).device
        self.reset()

    @classmethod
    def from_checkpoint(
        cls,
        folder: str | Path,
        device: str = "cpu",
        execution: Execution | None = None,
        *,
        tokenizer: str | None = None,
        text_encoder: str | None = None,
        threads: int = 2,
    ) -> Policy:
        """Load what `handloom train finetune` wrote.

        Args:
            folder: the --out of the run, or its `export` folder.
            device: a torch device.
            execution: options of executing chunks.
            tokenizer: where the VQGAN lies now, if not where it lay in training.
            text_encoder: likewise.
            threads: of the VQGAN, on a CPU.

        Raises:
            UserError: the folder, the tokenizer or the text encoder do not fit.
        """
        model, space, facts = export.load(Path(folder), device)
        encoder = text.load_again(facts["text_encoder"], text_encoder, device)
        vqgan = load_tokenizer(facts["tokenizer"], tokenizer, device, threads)
        return cls(model, space, facts["stride"], vqgan, encoder, execution)

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the images that the model takes."""
        return self.model.shape.views

    def reset(self) -> None:
        """Forget the episode; call it before each one."""
        self._step = 0
        self._observed: deque[Observation] = deque()
        self._chunks: deque[tuple[int, Floats]] = deque()
        self._done: Floats = np.zeros((0, len(self.space.action_mean)), np.float32)
        self._generator = torch.Generator(self.device).manual_seed(self.execution.seed)

    def act(self, instruction: str, images: Mapping[str, Any], state: Any) -> Chunk:
        """Decide what to do.

        Args:
            instruction: what is to happen.
            images: by view, uint8 [H, W, 3], RGB, any size but always the same; views that are
                missing are taken to be blind.
            state: [S], physical units.

        Raises:
            UserError: an unknown view, a picture or a state of another kind.
        """
        self._remember(images, state)
        return self._chunk(self._predict(self._inputs(instruction)))

    def _chunk(self, predicted: Floats) -> Chunk:
        """What is executed of the actions [k, A] that the model predicts now."""
        self._chunks.append((self._step, predicted))
        actions = blend_and_smooth(list(self._chunks), self._done, self.space, self.execution)
        chunk = Chunk(actions, predicted, self.execute_n, self.space.hz)
        self._done = np.concatenate([self._done, chunk.execute])[-2:]
        self._step += self.execute_n
        while self._chunks and self._chunks[0][0] + len(predicted) <= self._step:
            self._chunks.popleft()  # it says nothing about what is still to come
        return chunk

    def observe(self, images: Mapping[str, Any], state: Any, ago: int) -> None:
        """Take in an observation made between two calls of `act`.

        Args:
            images: as for `act`.
            state: as for `act`.
            ago: steps before the next call of `act`, 1 … `execute_n` - 1.

        Raises:
            UserError: as `act`, or a time that is not between two calls.
        """
        if not 1 <= ago < self.execute_n or self._step == 0:
            raise UserError(
                f"observe(ago={ago}) cannot be: between two calls of act() lie {self.execute_n} "
                f"steps, give 1 to {self.execute_n - 1}, after the first call."
            )
        self._remember(images, state, ago)

    @torch.no_grad()
    def imagine(
        self, instruction: str, images: Mapping[str, Any], state: Any, frames: int = 1
    ) -> dict[str, Picture]:
        """Frames that the model expects: by view uint8 [frames, H, W, 3], `stride` steps apart.

        It does not count as a step of the episode.
        """
        before = self._step, self._observed.copy()
        self._remember(images, state)
        inputs = self._inputs(instruction)
        self._step, self._observed = before
        codes_fVRC = next_frames(self.model, inputs, frames)
        pictures = {}
        for v, view in enumerate(self.views):
            if bool(inputs.visible_BFV[0, -2, v]):
                pictures[view] = self.tokenizer.decode(np.ascontiguousarray(codes_fVRC[:, v]))
        return pictures

    def _predict(self, inputs: Inputs) -> Floats:
        """Actions [k, A] of one observation."""
        chunk: Floats = self._predict_batch(inputs)[0]
        return chunk

    @torch.no_grad()
    def _predict_batch(self, inputs: Inputs) -> Floats:
        """Actions [B, k, A], physical units, of B observations."""
        context_BQW = self.model.context(self.model.features(inputs), inputs)
        noise, shape = None, self.model.head.noise_shape
        if self.execution.sample and shape:
            count = len(context_BQW)
            noise = torch.randn(count, *shape, device=self.device, generator=self._generator)
        acted_BkA = self.model.act(context_BQW, noise).float()  # mixed precision may be on
        chunks: Floats = self.space.denormalise(acted_BkA).cpu().numpy()
        return chunks

    def _remember(self, images: Mapping[str, Any], state: Any, ago: int = 0) -> None:
        numbers = np.asarray(state, np.float32)
        if numbers.shape != (len(self.space.state_mean),) or not np.isfinite(numbers).all():
            raise UserError(
                f"the state is {list(numbers.shape)} with {np.isnan(numbers).sum()} NaN and "
                f"{np.isinf(numbers).sum()} infinities, expected "
                f"{len(self.space.state_mean)} finite numbers ({self.space.kind}): see "
                "docs/robot-episodes.md for their meaning."
            )
        checked = {name: self._picture(name, image) for name, image in images.items()}
        if not checked:
            raise UserError(f"no image is given: pass one or more of {', '.join(self.views)}.")
        newest = Observation(self._step - ago, checked, numbers)
        kept = [one for one in self._observed if one.step != newest.step]
        oldest = self._step - self.stride * self.model.shape.history
        self._observed = deque(one for one in [*kept, newest] if one.step >= oldest)

    def _picture(self, name: str, image: Any) -> Picture:
        if name not in self.views:
            raise UserError(
                f"there is no view {name!r}: the policy was trained on {', '.join(self.views)}."
            )
        picture = np.asarray(image)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise UserError(
                f"image {name!r} is {picture.dtype} {list(picture.shape)}, expected uint8 [height, "
                "width, 3] in RGB, 0 to 255."
            )
        before = next((s.images[name] for s in self._observed if name in s.images), None)
        if before is not None and before.shape != picture.shape:
            raise UserError(
                f"image {name!r} is {picture.shape[1]} x {picture.shape[0]} pixels, and was "
                f"{before.shape[1]} x {before.shape[0]} before: keep one size in an episode, and "
                "call reset() before another one."
            )
        return picture

    def _inputs(self, instruction: str) -> Inputs:
        shape = self.model.shape
        trunk, h = shape.trunk, shape.history
        codes = np.zeros((h + 1, trunk.views, trunk.rows, trunk.cols), np.uint16)
        visible = np.zeros((h + 1, trunk.views), np.bool_)
        state = np.zeros((h, len(self.space.state_mean)), np.float32)
        known = np.zeros(h, np.bool_)
        for frame in range(h):
            wanted = self._step - (h - 1 - frame) * self.stride
            near = self._nearest(wanted)
            # A moment before the episode takes the first observation, and is masked.
            shown = near or self._encoded(min(self._observed, key=lambda one: one.step))
            assert shown.codes_VRC is not None
            codes[frame], state[frame] = shown.codes_VRC, shown.state
            known[frame] = near is not None
            visible[frame] = [known[frame] and view in shown.images for view in self.views]
        codes[h] = codes[h - 1]
        visible[h] = visible[h - 1]

        def batch_of_one(array: npt.NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(array)[None].to(self.device)

        zeros = torch.zeros(1, shape.chunk, len(self.space.action_mean), device=self.device)
        return Inputs(
            codes_Bn=codes_of(codes[None], self.device),
            visible_BFV=batch_of_one(visible),
            text_BLE=self.encoder([instruction]),
            state_BhS=self.space.encode_state(batch_of_one(state)),
            state_known_Bh=batch_of_one(known),
            action_BkA=zeros,
            action_valid_Bk=torch.ones(1, shape.chunk, dtype=torch.bool, device=self.device),
            all_visible=bool(visible.all()),
        )

    def _nearest(self, step: int) -> Observation | None:
        """The observation nearest to a step, if it is nearer to it than to the next frame's."""
        nearest = min(self._observed, key=lambda one: abs(one.step - step))
        near = abs(nearest.step - step) <= self.stride // 2
        return self._encoded(nearest) if near else None

    def _encoded(self, observation: Observation) -> Observation:
        if observation.codes_VRC is not None:
            return observation
        trunk, side = self.model.shape.trunk, self.tokenizer.resolution
        codes = np.zeros((trunk.views, trunk.rows, trunk.cols), np.uint16)
        for v, view in enumerate(self.views):
            if view in observation.images:
                # One picture at a time, as in curation: codes do not depend on a batch.
                codes[v] = self.tokenizer.encode(
                    center_square(observation.images[view], side)[None]
                )[0]
        encoded = replace(observation, codes_VRC=codes)
        self._observed = deque(encoded if one is observation else one for one in self._observed)
        return encoded


def act_together(
    policies: Sequence[Policy],
    instructions: Sequence[str],
    images: Sequence[Mapping[str, Any]],
    states: Sequence[Any],
) -> list[Chunk]:
    """`act` of several policies of one model, in one pass of the model.

    Each policy keeps the memory of its own episode. The arguments are those of `act`, for each.
    """
    inputs = []
    for policy, words, pictures, state in zip(policies, instructions, images, states, strict=True):
        policy._remember(pictures, state)
        inputs.append(policy._inputs(words))
    predicted = policies[0]._predict_batch(joined(inputs))
    return [policy._chunk(actions) for policy, actions in zip(policies, predicted, strict=True)]


def blend_and_smooth(
    chunks: Sequence[tuple[int, Floats]], done: Floats, space: Space, execution: Execution
) -> Floats:
    """The newest chunk as it is executed, mixed and smoothed if that is asked for: [k, A].

    Args:
        chunks: the step at which each was predicted, and its actions [k, A]; the last one is new.
        done: the last actions that were executed, at most two, [d, A].
        space: whose arm columns are smoothed, if they are displacements.
        execution: how.
    """
    (now, actions), arms = chunks[-1], list(space.arm_columns)
    if execution.ensemble is not None:
        actions = blend(chunks, now, execution.ensemble)
    if execution.smoothing > 0 and space.kind == "ee_delta":
        actions = actions.copy()
        actions[:, arms] = smooth(actions[:, arms], done[:, arms], execution.smoothing)
    return actions


def actions_to_execute(execution: Execution, stride: int, chunk: int) -> int:
    """Number of actions of a chunk that are executed.

    Raises:
        UserError: more than there are, or a negative smoothing.
    """
    n = execution.execute_n if execution.execute_n is not None else min(stride, chunk)
    if not 1 <= n <= chunk:
        raise UserError(
            f"execute_n {n} cannot be: the policy predicts chunks of {chunk} actions, choose 1 to "
            f"{chunk}."
        )
    if execution.smoothing < 0:
        raise UserError(f"smoothing {execution.smoothing} cannot be: choose 0 or more.")
    return n
