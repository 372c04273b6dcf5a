"""`handloom eval policy`: load, predict, score, play through, imagine, write.

    OUT/scores.json                                      written last
    OUT/actions.svg                                      paths of a few episodes, see policy_chart
    OUT/pictures.png, OUT/<clip_id>-<view>.mp4, .gif     see policy_pictures

Shapes as in policy_scores.py; B windows of a batch.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from handloom.files import write_text
from handloom.tokenize.vqgan import VQGAN
from handloom.train.evaluate import policy_chart, policy_motion, policy_pictures
from handloom.train.evaluate.policy_config import PolicyEval
from handloom.train.evaluate.policy_open import open_tokenizer, open_windows
from handloom.train.evaluate.policy_scores import Outputs, scores_by_group
from handloom.train.evaluate.policy_tables import table
from handloom.train.finetune import export
from handloom.train.finetune.inputs import DeviceWindows, windows_of
from handloom.train.finetune.windows.windows import WindowBatch, Windows
from handloom.train.generate import quality
from handloom.train.model import text
from handloom.train.policy.policy import Execution, actions_to_execute


class Evaluation:
    """A policy's parts, and the windows that it is measured on.

    Args:
        config: of the evaluation.

    Raises:
        UserError: see `policy_config.evaluate`.
    """

    def __init__(self, config: PolicyEval) -> None:
        self.config, self.device = config, torch.device(config.device)
        self.model, self.space, self.facts = export.load(config.checkpoint, config.device)
        self.stride = int(self.facts["stride"])
        self.execution = _execution(config)
        self.execute_n = actions_to_execute(self.execution, self.stride, self.model.shape.chunk)
        self.windows = open_windows(config, self.model, self.space, self.facts)
        self.encoder = text.load_again(
            self.facts["text_encoder"], config.text_encoder, config.device
        )

    def on_device(self, batch: WindowBatch) -> DeviceWindows:
        """Windows as the model takes them."""
        return windows_of(batch, self.space, self.encoder, self.device)

    def episodes(self) -> Iterator[WindowBatch]:
        """All windows of each of a few episodes, spread evenly."""
        clips, count = self.config.clips, len(self.windows)
        done: set[str] = set()
        for number in ((np.arange(clips) + 0.5) / max(1, clips) * count).astype(int).tolist():
            batch = _episode(self.windows, number)
            if batch.clip_id[0] not in done:
                done.add(batch.clip_id[0])
                yield batch


def run(config: PolicyEval) -> dict[str, Any]:
    """Evaluate as the configuration says; returns what scores.json holds."""
    torch.set_num_threads(config.threads)
    job = Evaluation(config)
    tokenizer = open_tokenizer(config, job.facts["tokenizer"])
    views, smoothing = job.model.shape.views, job.execution.smoothing
    scores: dict[str, Any] = {
        "checkpoint": str(config.checkpoint),
        "step": job.facts["step"],
        "split": config.split,
        "execution": {"execute_n": job.execute_n, "smoothing": smoothing}
        | {"ensemble": job.execution.ensemble},
        **scores_by_group(outputs_of(job), job.space, views, smoothing),
    }
    print("\n".join(table(scores)), flush=True)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "scores.json").unlink(missing_ok=True)  # of other pictures than those to come
    episodes = list(job.episodes())
    if episodes:
        scores["played"] = _play(job, episodes)
    if episodes and tokenizer is not None:
        scores["pictures"] = _imagine(job, episodes, tokenizer)
    write_text(config.out / "scores.json", json.dumps(scores, indent=2) + "\n")
    print(f"wrote {config.out / 'scores.json'}")
    return scores


@torch.no_grad()
def outputs_of(job: Evaluation) -> Outputs:
    """The model's outputs for windows spread evenly over the split."""
    config = job.config
    count = min(len(job.windows), config.windows)
    numbers = np.linspace(0, len(job.windows) - 1, count).astype(np.int64)
    # All draws at once on the CPU: they do not depend on the size of a batch or on the device.
    random = torch.Generator().manual_seed(config.seed)
    shape = job.model.head.noise_shape
    noise_nM = torch.randn(config.samples if shape else 0, count, *shape, generator=random)
    parts: list[dict[str, Any]] = []
    for start in range(0, count, config.batch_size):
        span = slice(start, start + config.batch_size)
        parts.append(_batch_outputs(job, job.windows.read(numbers[span]), noise_nM[:, span]))
    return Outputs(
        **{name: _concatenated(name, [part[name] for part in parts]) for name in parts[0]}
    )


def _batch_outputs(job: Evaluation, batch: WindowBatch, noise_nB: Tensor) -> dict[str, Any]:
    model, inputs = job.model, job.on_device(batch).inputs
    context_BQW = model.context(model.features(inputs), inputs)
    prior_BkA = model.act(context_BQW)
    samples = [model.act(context_BQW, noise_B.to(job.device)) for noise_B in noise_nB]
    before, known = _before(job.windows, batch)
    measured = model.measure(context_BQW, inputs)
    nothing = prior_BkA.new_zeros(len(prior_BkA), 0)
    found = {
        "true": inputs.action_BkA,
        "before": job.space.normalise(torch.from_numpy(before)),
        "prior_mean": prior_BkA,
        "samples": torch.stack(samples) if samples else prior_BkA.new_zeros(0, *prior_BkA.shape),
        "posterior": measured.get("posterior", prior_BkA[:, :0]),
        "latent_mean": measured.get("latent_mean", nothing),
        "kl": measured.get("kl", nothing.sum(1)),
        "video": model.video_nats(inputs),
    }
    arrays: dict[str, Any] = {name: value.float().cpu().numpy() for name, value in found.items()}
    masks = {"counts": batch.action_valid, "before_known": known}
    if (phrases := job.facts.get("phrases")) is not None:
        masks["known"] = np.isin(batch.caption, phrases)
    return arrays | masks | {"dataset": batch.dataset, "task": batch.task}


def _concatenated(name: str, parts: list[Any]) -> Any:
    if isinstance(parts[0], list):
        return [value for part in parts for value in part]
    return np.concatenate(parts, axis=1 if name == "samples" else 0)


def _before(windows: Windows, batch: WindowBatch) -> tuple[Any, Any]:
    """The two actions before each window, physical float32 [B, 2, A], and which are known."""
    actions, known = [], []
    for back in (2, 1):
        earlier = windows.read((batch.number - back).clip(0))
        same = np.array([a == b for a, b in zip(earlier.clip_id, batch.clip_id, strict=True)])
        actions.append(earlier.action[:, 0])
        known.append(same & (earlier.step == batch.step - back))
    return np.stack(actions, axis=1), np.stack(known, axis=1)


def _episode(windows: Windows, number: int) -> WindowBatch:
    """All windows of the episode that a window is of."""

    def clip_id(i: int) -> str:
        return windows.read(np.array([i])).clip_id[0]

    low, high = number, number + 1
    while low > 0 and clip_id(low - 1) == clip_id(number):
        low -= 1
    while high < len(windows) and clip_id(high) == clip_id(number):
        high += 1
    return windows.read(np.arange(low, high))


@torch.no_grad()
def _play(job: Evaluation, episodes: list[WindowBatch]) -> dict[str, Any]:
    """Chunk after chunk through whole episodes, as the policy would execute them."""
    played = []
    for batch in episodes:
        chunks = np.concatenate([_chunks(job, part) for part in _parts(job, batch)])
        played.append(policy_motion.play(batch, chunks, job.space, job.execution, job.execute_n))
    found = policy_motion.scores(played, job.space)
    print("\n".join(policy_motion.table(found)))
    path = job.config.out / "actions.svg"
    write_text(path, policy_chart.draw(played, job.space))
    print(f"wrote {path}", flush=True)
    return found


def _parts(job: Evaluation, batch: WindowBatch) -> Iterator[WindowBatch]:
    """The windows of an episode, so many at a time as fit."""
    size = job.config.batch_size
    for start in range(0, len(batch.number), size):
        yield job.windows.read(batch.number[start : start + size])


def _chunks(job: Evaluation, batch: WindowBatch) -> npt.NDArray[np.float32]:
    """Chunks that the policy executes, without noise, in physical units: [B, k, A]."""
    inputs = job.on_device(batch).inputs
    acted_BkA = job.model.act(job.model.context(job.model.features(inputs), inputs))
    chunks: npt.NDArray[np.float32] = job.space.denormalise(acted_BkA).cpu().numpy()
    return chunks


def _imagine(job: Evaluation, episodes: list[WindowBatch], tokenizer: VQGAN) -> dict[str, Any]:
    """Pictures of the same episodes, and how near they come to the true ones."""
    imagined = [
        view
        for batch in episodes
        for view in policy_pictures.imagine(
            job.model, batch, job.on_device(batch), tokenizer, job.stride, job.config.frames
        )
    ]
    if not imagined:
        print("no pictures: the episodes are shorter than one stride")
        return {}
    policy_pictures.write(imagined, job.space.hz / job.stride, job.config.out)
    found = {}
    for name, shown in policy_pictures.predicted_views(imagined).items():
        found[name] = quality.scores(shown)
        print("\n".join([f"pictures, {name}, by view:", *quality.table(found[name])]))
    return found


def _execution(config: PolicyEval) -> Execution:
    """The options given, those left open as `Policy` has them."""
    asked = {name: getattr(config, name) for name in ("execute_n", "ensemble", "smoothing")}
    return Execution(**{name: value for name, value in asked.items() if value is not None})
