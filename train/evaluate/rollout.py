"""`handloom eval rollout`: a policy acts in a simulator.

OUT/rollout.json        rates, and what was rolled out
OUT/chain-000.mp4       both cameras side by side, the instruction below
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from handloom.errors import UserError
from handloom.files import write_text
from handloom.train.evaluate.rollout_config import RolloutEval
from handloom.train.generate import pictures
from handloom.train.policy.policy import Execution, Policy
from handloom.train.tabletop import chains, protocol, tasks
from handloom.train.tabletop.controls import Blind, Deaf
from handloom.train.tabletop.oracle import Oracle, RandomPolicy
from handloom.train.tabletop.spread import SpreadOut, state_of

STATE = 7  # of an ee_delta policy with one arm, as CALVIN's robot has
SIDE, CAPTION = 200, 24  # pixels of the films
FILMED_EVERY = 3  # steps: 10 pictures a second
Observation = Mapping[str, Any]
Frame = npt.NDArray[np.uint8]


class CalvinAdapter:
    """A policy behind CALVIN's interface: its observations in, its actions out.

    Args:
        policy: trained on CALVIN data as `handloom curate calvin` reads them.

    Raises:
        UserError: it was trained on something else.
    """

    def __init__(self, policy: Policy) -> None:
        space, views = policy.space, ("static", "gripper")
        strange = [view for view in policy.views if view not in views]
        if space.kind != "ee_delta" or len(space.state_mean) != STATE or strange:
            raise UserError(
                f"the policy was trained on {space.kind} with states of {len(space.state_mean)} "
                f"numbers and the views {', '.join(policy.views)}, and CALVIN's robot has ee_delta "
                f"with {STATE} and {', '.join(views)}: fine-tune on `handloom curate calvin`."
            )
        self.policy, self.times_s = policy, list[float]()

    def reset(self) -> None:
        """Begin a task."""
        self.policy.reset()

    def act(self, obs: Observation, instruction: str) -> npt.NDArray[np.float32]:
        """The actions to carry out before the next call [n, 7]."""
        images = {view: obs["rgb_obs"][f"rgb_{view}"] for view in self.policy.views}
        began = time.perf_counter()
        chunk = self.policy.act(instruction, images, state_of(obs["robot_obs"]))
        self.times_s.append(time.perf_counter() - began)
        return chunk.execute


def run(config: RolloutEval) -> dict[str, Any]:
    """Roll the policy out, film the first chains, write rollout.json; returns what that holds."""
    if config.at_once > 1:
        return _run_together(config)
    model, adapter = _model(config)
    # The simulator is opened before minutes are spent.
    setup, tried = _setup(config), _chains(config)
    sha256 = chains.digest(tried)
    official = " (CALVIN's list)" if sha256 == chains.SHA256 else ""
    print(f"{len(tried)} chains of SHA-256 {sha256}{official}", flush=True)
    config.out.mkdir(parents=True, exist_ok=True)
    film = Film(config)
    began = time.monotonic()

    def report(number: int, length: int) -> None:
        film.cut(number)
        each_s = (time.monotonic() - began) / (number + 1)
        print(f"chain {number + 1} / {len(tried)}: {length} done, {each_s:.1f} s each", flush=True)

    result = protocol.evaluate(setup, model, tried, config.steps_per_task, film.shoot, report)
    print(result.table())
    scores = {**_facts(config, tried), **result.to_dict()}
    if adapter is not None:
        ms = 1000 * np.array(adapter.times_s)
        scores["act_ms"] = {f"p{p}": round(float(np.percentile(ms, p)), 1) for p in (50, 99)}
        print(f"policy: {len(ms)} calls, p50 {scores['act_ms']['p50']} ms, p99 "
              f"{scores['act_ms']['p99']} ms")  # fmt: skip
    write_text(config.out / "rollout.json", json.dumps(scores, indent=2) + "\n")
    print(f"wrote {config.out / 'rollout.json'}")
    return scores


def _facts(config: RolloutEval, tried: Sequence[chains.Chain]) -> dict[str, Any]:
    return {
        "who": config.actor if config.checkpoint is None else str(config.checkpoint),
        "where": "tabletop" if config.calvin is None else str(config.calvin),
        "words": config.words if config.calvin is None else "CALVIN's",
        "chains_sha256": chains.digest(tried),
    }


def _run_together(config: RolloutEval) -> dict[str, Any]:
    """`run` with attempts side by side."""
    from handloom.train.evaluate import side_by_side

    first, setup, tried = _policy(config), _setup(config), _chains(config)

    def another() -> Policy:
        parts = first.model, first.space, first.stride, first.tokenizer, first.encoder
        return Policy(*parts, first.execution)

    attempts = side_by_side.evaluate(
        another, tried, setup.instructions, config.steps_per_task, config.at_once
    )
    result = side_by_side.result_of(attempts)
    print(result.table())
    other = side_by_side.touched_another(attempts)
    scores = {**_facts(config, tried), **result.to_dict(), "touched_another": other}
    config.out.mkdir(parents=True, exist_ok=True)
    write_text(config.out / "rollout.json", json.dumps(scores, indent=2) + "\n")
    print(f"wrote {config.out / 'rollout.json'}")
    return scores


class Film:
    """Films the first chains of a rollout."""

    def __init__(self, config: RolloutEval) -> None:
        self.config, self._frames = config, list[Frame]()

    def shoot(self, step: protocol.RolloutStep) -> None:
        """Take a picture, if it is the turn of this moment."""
        if step.chain < self.config.videos and step.step % FILMED_EVERY == 0:
            self._frames.append(_picture(step))

    def cut(self, number: int) -> None:
        """Write what was filmed of a chain."""
        if self._frames:
            pictures.write_mp4(
                np.stack(self._frames),
                30 / FILMED_EVERY,
                self.config.out / f"chain-{number:03d}.mp4",
            )
        self._frames = []


def _picture(step: protocol.RolloutStep) -> Frame:
    canvas = Image.new("RGB", (2 * SIDE, SIDE + CAPTION), "white")
    for i, view in enumerate(("rgb_static", "rgb_gripper")):
        shown = Image.fromarray(np.asarray(step.obs["rgb_obs"][view]))
        canvas.paste(shown.resize((SIDE, SIDE)), (i * SIDE, 0))
    words = f"{step.position + 1}. {step.instruction}"
    pen = ImageDraw.Draw(canvas)
    pen.text((4, SIDE + 4), words, fill="black", font=ImageFont.load_default(size=13))
    return np.asarray(canvas)


def _model(config: RolloutEval) -> tuple[Any, CalvinAdapter | None]:
    if config.actor == "oracle":
        return Oracle(config.seed), None
    if config.actor == "random":
        return RandomPolicy(config.seed), None
    if config.actor == "blind":
        return Blind(config.seed), None
    if config.actor == "deaf":
        return Deaf(config.tasks or tasks.TASKS, config.seed), None
    adapter = CalvinAdapter(_policy(config))
    return SpreadOut(adapter), adapter


def _policy(config: RolloutEval) -> Policy:
    assert config.checkpoint is not None
    execution = Execution(
        config.execute_n, config.ensemble, config.smoothing, config.sample, config.seed
    )
    return Policy.from_checkpoint(
        config.checkpoint, config.device, execution,
        tokenizer=config.tokenizer, text_encoder=config.text_encoder, threads=config.threads,
    )  # fmt: skip


def _setup(config: RolloutEval) -> protocol.Setup:
    if config.calvin is not None:
        return protocol.official(config.calvin)
    unknown = [name for name in config.tasks if name not in tasks.VALIDATION]
    if unknown:
        raise UserError(
            f"the tabletop has no task {unknown[0]!r}: --tasks takes some of "
            f"{', '.join(tasks.VALIDATION)}."
        )
    words = None
    if config.words == "trained":
        words = {task: texts[0] for task, texts in tasks.TRAINING.items()}
    renders = config.actor == "policy" or config.videos > 0
    scenes = {tasks.scene_of(task) for task in config.tasks} or {"play"}
    if len(scenes) > 1:
        raise UserError(
            f"--tasks {' '.join(config.tasks)} need {len(scenes)} different tables "
            f"({', '.join(sorted(scenes))}): try the tasks of each in a run of its own."
        )
    return protocol.tabletop(renders, words, scenes.pop())


def _chains(config: RolloutEval) -> Sequence[chains.Chain]:
    if config.calvin is not None:
        return chains.calvin_chains()[: config.chains]
    only = config.tasks or tasks.TASKS
    if config.single:
        return chains.single_tasks(config.chains, config.seed, only)
    try:
        return chains.tabletop_chains(config.chains, config.seed, only)
    except ValueError as error:
        raise UserError(f"{error}: name more --tasks, or pass --single.") from error
