"""The training loop of a VQGAN.

    OUT/checkpoints/            see checkpoint.py
    OUT/metrics.jsonl           see vqgan_log.py
    OUT/reconstructions/        held-out frames above what their codes give back, by step
    OUT/config.json, …          the model, its card and pictures; config.json is written last, so a
                                run that has it is finished

Shapes: B crops, D code width, I x J codes, H x W pixels.
"""

from __future__ import annotations

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handloom.errors import RunError
from handloom.train.trainer.loop import sigterm
from handloom.train.trainer.whole_files import Checkpoints
from handloom.train.vqgan.card import forget_model, is_finished, save_model
from handloom.train.vqgan.codebook import Codebook
from handloom.train.vqgan.config import Reopen, VQGANConfig
from handloom.train.vqgan.discriminator import PatchGAN
from handloom.train.vqgan.evaluate import draw_grid, evaluate_sources, tokenizer_of
from handloom.train.vqgan.frames import Frames, Pool
from handloom.train.vqgan.log import Log
from handloom.train.vqgan.losses import adaptive_weight, gradient_difference, hinge
from handloom.train.vqgan.model import (
    build,
    latents_of,
    paint,
    pictures,
    start,
)

WARMUP = 50  # steps
BETAS = (0.9, 0.95)


def run(config: VQGANConfig, reopen: Reopen | None) -> None:
    """Train from the newest checkpoint, or from the start, to the model and its card."""
    frames, checkpoints, state = _open(config, reopen)
    if state is not None and state["step"] == config.steps and is_finished(config.out):
        print(f"{config.out} holds this run, finished: nothing to do (--no-resume starts again)")
        return
    job = Job(config, frames, checkpoints, state)
    with sigterm() as stop_asked:
        train(job, stop_asked)
    save_model(job.average, config, job.frames, job.held_out, job.log.seconds)


def open_job(config: VQGANConfig, reopen: Reopen | None = None) -> Job:
    """A run in memory, as far as it has come."""
    return Job(config, *_open(config, reopen))


def _open(
    config: VQGANConfig, reopen: Reopen | None
) -> tuple[Frames, Checkpoints, dict[str, Any] | None]:
    """List the frames and read the newest checkpoint: all that can be refused without a decoder."""
    frames = Frames(config, reopen)
    identity = {**config.identity(), "frames": frames.digest()}
    identity["perceptual"] = "gradients" if config.perceptual is None else "LPIPS"
    checkpoints = Checkpoints(config.out, identity)
    if not config.resume:
        checkpoints.delete()
        forget_model(config.out)
    return frames, checkpoints, checkpoints.load()


def train(job: Job, stop_asked: Any) -> None:
    """The loop."""
    config, log = job.config, job.log
    while job.step < config.steps:
        values, sources = take_step(job)
        job.step += 1
        log.add(values, sources)
        last, stop = job.step == config.steps, stop_asked()
        evaluating = last or job.step % config.eval_every == 0
        saving = last or stop or job.step % config.save_every == 0
        if evaluating or saving or job.step % config.log_every == 0:
            log.flush(job.step, job.codebook_facts())
        if evaluating:
            job.evaluate()
        if saving:
            job.save()
        if stop and not last:
            raise RunError(
                f"stopped by SIGTERM after step {job.step} of {config.steps}; the checkpoint is "
                f"in {config.out}, the same command goes on from there."
            )


def take_step(job: Job) -> tuple[dict[str, Tensor], list[str]]:
    """One step of encoder, codebook, decoder and, once it began, discriminator."""
    config, model = job.config, job.model
    for optimizer in job.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(job.step, config)
    target_bchw, sources = job.batch()
    learned = job.step >= config.encoder_start
    with torch.set_grad_enabled(learned):
        latents_bdij = latents_of(model, target_bchw)
        codes_bdij, ids_bij, commitment = job.codebook.quantize(latents_bdij)
    painted_bchw = paint(model, codes_bdij)
    values = job.reconstruction(painted_bchw, target_bchw)
    loss = values["reconstruction"]
    if learned:
        values["commitment"] = commitment
        loss = loss + config.commitment * commitment
    share = discriminator_share(job.step, config)
    if share is not None:
        adversarial, facts = job.adversarial(values["reconstruction"], painted_bchw)
        loss = loss + share * adversarial
        values |= facts
    values["loss"] = loss
    job.generator_optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(job.learning, config.clip)
    job.generator_optimizer.step()
    job.codebook.see(latents_bdij.detach(), ids_bij, job.step + 1, learn=learned)
    job.follow()
    if share is not None:
        values |= job.discriminate(target_bchw, painted_bchw.detach())
    return {name: value.detach() for name, value in values.items()}, sources


def learning_rate(step: int, config: VQGANConfig) -> float:
    """Linear warm-up, then a cosine to a fiftieth."""
    warm = min(1.0, (step + 1) / WARMUP)
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return config.lr * warm * (0.02 + 0.98 * cosine)


def discriminator_share(step: int, config: VQGANConfig) -> float | None:
    """How much of its weight the discriminator has at a step; None before it begins."""
    since = step - config.discriminator_start
    return None if since < 0 else min(1.0, since / max(1, config.discriminator_ramp))


def side_and_batch(step: int, config: VQGANConfig) -> tuple[int, int]:
    """Random crops at first, then fewer whole frames: about the same pixels a step."""
    side = min(config.crop, config.resolution)
    if step < config.steps * (1 - config.whole_frames):
        return side, config.batch
    return config.resolution, max(1, config.batch * side**2 // config.resolution**2)


class Job:
    """A run in memory: frames, networks, optimisers, and how far it has come."""

    def __init__(
        self,
        config: VQGANConfig,
        frames: Frames,
        checkpoints: Checkpoints,
        state: dict[str, Any] | None,
    ) -> None:
        self.config, self.frames, self.checkpoints = config, frames, checkpoints
        torch.set_num_threads(config.threads)
        torch.use_deterministic_algorithms(config.device == "cpu")
        torch.manual_seed(config.seed)
        self.perceptual = _perceptual(config)
        self.step = 0 if state is None else int(state["step"])
        self.held_out = frames.held_out()
        self._pool_number = frames.pool_number(self.step)
        self._pool = frames.pool(self._pool_number)
        print(self._pool.describe(), flush=True)
        self._reader = ThreadPoolExecutor(1)
        self._next: tuple[int, Any] = (0, None)
        self._make_networks(started=state is not None)
        if state is not None:
            self._load(state)
        seconds = 0.0 if state is None else state["seconds"]
        self.log = Log(config.out, config.steps, self.step, seconds)

    def _make_networks(self, started: bool) -> None:
        config = self.config
        self.model = build(config)
        # a run that goes on loads everything below: what was fitted needs no fitting again
        shares_k = torch.full((config.codes,), 1 / config.codes)
        if not started:
            shares_k = start(self.model, self._pool, config)
        self.model.to(config.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        codes_kd = self.model.quantize.embedding.weight.requires_grad_(False)
        side, batch = side_and_batch(0, config)
        latents = batch * (side // config.downsample) ** 2
        self.codebook = Codebook(
            codes_kd, shares_k, latents, config.codebook_decay, config.dead_after
        )
        self.discriminator = PatchGAN(
            config.discriminator_width, min(config.crop, config.resolution)
        ).to(config.device)
        self._make_optimizers()

    def _make_optimizers(self) -> None:
        config, model = self.config, self.model
        encoder = [*model.encoder.parameters(), *model.quant_conv.parameters()]
        decoder = [*model.post_quant_conv.parameters(), *model.decoder.parameters()]
        # Decay would pull the encoder away from where it starts, which is close to its goal.
        groups: list[dict[str, Any]] = [{"params": decoder, "share": 1.0, "weight_decay": 0.01}]
        if config.encoder_start < config.steps:
            groups.append({"params": encoder, "share": config.encoder_lr, "weight_decay": 0.0})
        self.learning = [parameter for group in groups for parameter in group["params"]]
        self.generator_optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=BETAS)
        judge = {"params": list(self.discriminator.parameters()), "share": config.discriminator_lr}
        self.discriminator_optimizer = torch.optim.Adam([judge], lr=config.lr, betas=(0.5, 0.9))
        self.optimizers = (self.generator_optimizer, self.discriminator_optimizer)

    def batch(self) -> tuple[Tensor, list[str]]:
        """Crops of this step, float [B, 3, H, W] in [-1, 1], and their sources' names."""
        config, pool = self.config, self._pool_of_step()
        side, count = side_and_batch(self.step, config)
        frames, sources = pool.draw(config.seed, self.step, count)
        # corners on the grid of codes: the encoder sees the squares that it will see in use
        rng = np.random.default_rng([config.seed, self.step, 1])
        places = (config.resolution - side) // config.downsample + 1
        corners = rng.integers(places, size=(count, 2)) * config.downsample
        crops = [
            frame[y : y + side, x : x + side]
            for frame, (y, x) in zip(frames, corners.tolist(), strict=True)
        ]
        return pictures(np.stack(crops)).to(config.device), [pool.names[s] for s in sources]

    def reconstruction(self, painted_bchw: Tensor, target_bchw: Tensor) -> dict[str, Tensor]:
        """The reconstruction loss, with its parts and the PSNR of the batch."""
        config, difference = self.config, (painted_bchw - target_bchw) / 2
        l1, l2 = difference.abs().mean(), difference.square().mean()
        seen = self.perceptual(painted_bchw, target_bchw)
        total = config.l1 * l1 + config.l2 * l2 + config.perceptual_weight * seen
        psnr = -10 * torch.log10(l2.detach() + 1e-10)
        return {"reconstruction": total, "l1": l1, "l2": l2, "perceptual": seen, "psnr_db": psnr}

    def adversarial(
        self, reconstruction: Tensor, painted_bchw: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the decoder is told by the discriminator, weighted but for the ramp."""
        self.discriminator.requires_grad_(False)
        loss = -self.discriminator(painted_bchw).mean()
        weight = torch.ones_like(loss)
        if self.config.adaptive:
            last = self.model.decoder.conv_out.weight
            weight = adaptive_weight(reconstruction, loss, last)
        weighted = self.config.discriminator_weight * weight * loss
        return weighted, {"adversarial": loss, "adaptive": weight}

    def discriminate(self, real_bchw: Tensor, fake_bchw: Tensor) -> dict[str, Tensor]:
        """A step of the discriminator."""
        self.discriminator.requires_grad_(True)
        real, fake = self.discriminator(real_bchw), self.discriminator(fake_bchw)
        loss = hinge(real, fake)
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.discriminator_optimizer.step()
        return {"discriminator": loss, "logits_real": real.mean(), "logits_fake": fake.mean()}

    @torch.no_grad()
    def follow(self) -> None:
        """Move the averaged weights; at first quickly, so that the start is soon forgotten."""
        decay = min(self.config.average_decay, (1 + self.step) / (10 + self.step))
        theirs, ours = list(self.average.parameters()), list(self.model.parameters())
        torch._foreach_lerp_(theirs, ours, 1 - decay)

    def codebook_facts(self) -> dict[str, float]:
        """What the log says of the codebook."""
        book = self.codebook
        facts = {"usage": book.usage(self.step), "perplexity": book.perplexity()}
        return {**facts, "restarted": book.restarted}

    def evaluate(self) -> None:
        """Measure the averaged weights on what is held out, and draw what they give back."""
        tokenizer = tokenizer_of(self.average, self.config)
        self.log.held_out(self.step, evaluate_sources(tokenizer, self.held_out, self.config.still))
        folder = self.config.out / "reconstructions"
        folder.mkdir(exist_ok=True)
        draw_grid(tokenizer, self.held_out, folder / f"{self.step:08d}.png")

    def save(self) -> None:
        """Write a checkpoint of all that the next step depends on; chance depends on the step."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "codebook": self.codebook.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "seconds": self.log.seconds,
        }
        self.checkpoints.save(self.step, state)

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.codebook.load_state_dict(state["codebook"])
        self.discriminator.load_state_dict(state["discriminator"])
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)

    def _pool_of_step(self) -> Pool:
        """The pairs in memory; the next ones are read while these are trained on."""
        number = self.frames.pool_number(self.step)
        if number != self._pool_number:
            ahead, reading = self._next
            self._pool = reading.result() if ahead == number else self.frames.pool(number)
            self._pool_number = number
        if self.config.refresh and self._next[0] <= number:
            self._next = (number + 1, self._reader.submit(self.frames.pool, number + 1))
        return self._pool


def _perceptual(config: VQGANConfig) -> Any:
    if config.perceptual is None:
        return gradient_difference
    from handloom.train.vqgan.perceptual import LPIPS

    return LPIPS(config.perceptual).to(config.device)
