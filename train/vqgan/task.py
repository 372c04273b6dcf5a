"""Training a VQGAN: crops of frames in, their reconstruction error to lower.

    OUT/reconstructions/    held-out frames above what their codes give back, by step
    OUT/config.json, …      the model, its card and pictures

Shapes: B crops, D code width, I x J codes, H x W pixels.
"""

import copy
import math
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from handloom.tokenize import vqgan
from handloom.train.trainer.distributed import World, distribute
from handloom.train.trainer.feed import prefetch
from handloom.train.trainer.optimizer import begin_state, named_state, set_rate, update
from handloom.train.trainer.task import Batch, Scores, Step, Task, Tensors, share_of
from handloom.train.vqgan.card import save_model
from handloom.train.vqgan.codebook import Codebook
from handloom.train.vqgan.config import VQGANConfig
from handloom.train.vqgan.discriminator import PatchGAN
from handloom.train.vqgan.evaluate import draw_grid, evaluate_sources, tokenizer_of
from handloom.train.vqgan.frames import Frames, Pool
from handloom.train.vqgan.losses import adaptive_weight, gradient_difference
from handloom.train.vqgan.model import Reconstruction, build, pictures, start

WARMUP = 50  # steps
BETAS = (0.9, 0.95)


class VQGANTask(Task):
    """See the module; arguments and errors are those of `Task`. Positions in the data are steps."""

    noun: ClassVar[str] = "crops"
    finished_by: ClassVar[str] = vqgan.CONFIG
    shown: ClassVar[tuple[str, ...]] = (
        "loss", "psnr_db", "logits_real", "logits_fake", "adaptive"
    )  # fmt: skip
    draws_validation: ClassVar[bool] = True

    def __init__(self, config: VQGANConfig, world: World) -> None:
        super().__init__(config, world)
        share_of(config.batch_size, None, world.size)
        self.frames = Frames(config)
        torch.manual_seed(config.seed)
        self.perceptual = _perceptual(config, world.device)
        self._pool_number = -1
        self._pool: Pool | None = None
        self._reader = ThreadPoolExecutor(1)
        self._next: tuple[int, Any] = (0, None)
        self._drawn: Counter[str] = Counter()
        self._began = time.monotonic()
        self._make_networks()
        self._make_optimizers()

    @cached_property
    def held_out(self) -> Pool:
        """The pairs to validate on."""
        return self.frames.held_out()

    def _make_networks(self) -> None:
        config, device = self.config, self.world.device
        self.trained = build(config)
        # A run that goes on loads everything below: what was fitted needs no fitting again.
        shares_k = torch.full((config.codes,), 1 / config.codes)
        if not (config.resume and (config.out / "checkpoints" / "latest").is_file()):
            shares_k = start(self.trained, self.pool_of(0), config)
        self.trained.to(device)
        self.average = copy.deepcopy(self.trained).requires_grad_(False)
        codes_kd = self.trained.quantize.embedding.weight.requires_grad_(False)
        side, batch = side_and_batch(0, config)
        latents = batch * (side // config.downsample) ** 2
        self.codebook = Codebook(
            codes_kd, shares_k, latents, config.codebook_decay, config.dead_after
        )
        side = min(config.crop, config.resolution)
        self.discriminator = PatchGAN(config.discriminator_width, side).to(device)

    def _make_optimizers(self) -> None:
        config, model = self.config, self.trained
        encoder = [*model.encoder.parameters(), *model.quant_conv.parameters()]
        decoder = [*model.post_quant_conv.parameters(), *model.decoder.parameters()]
        # Decay would pull the encoder away from where it starts, which is close to its goal.
        groups: list[dict[str, Any]] = [{"params": decoder, "share": 1.0, "weight_decay": 0.01}]
        if config.encoder_start < config.steps:
            groups.append({"params": encoder, "share": config.encoder_lr, "weight_decay": 0.0})
        else:
            for parameter in encoder:
                parameter.requires_grad_(False)
        # On a GPU the fused kernel skips what is not finite without the host; on a CPU the plain
        # one is the reference.
        fused = self.world.device.type == "cuda"
        self.learning = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=BETAS, fused=fused)
        judge = {"params": list(self.discriminator.parameters()), "share": config.discriminator_lr}
        self.judge_optimizer = torch.optim.Adam(
            [judge], lr=config.lr, betas=(0.5, 0.9), fused=fused
        )
        begin_state(self.optimizer)
        begin_state(self.judge_optimizer)
        self.objective = distribute(
            Reconstruction(model, self.codebook),
            config,
            self.world,
            find_unused_parameters=0 < config.encoder_start < config.steps,
        )
        self.judge = distribute(self.discriminator, config, self.world)

    def identity(self) -> Scores:
        """Options, and which frames there are."""
        perceptual = "gradients" if self.config.perceptual is None else "LPIPS"
        frames = {"frames": self.frames.digest(), "perceptual": perceptual}
        return {**self.config.identity(), **frames}

    def describe(self) -> list[str]:
        """A line for each source of frames."""
        return [self.pool_of(max(0, self._pool_number)).describe()]

    def batches(self, position: int) -> Iterator[Batch]:
        """This process's part of the crops of the steps to come; endless."""
        steps = iter(range(position, self.config.steps + 1))
        return prefetch(lambda: self._batch(next(steps)), self.world.device)

    def _batch(self, step: int) -> Batch:
        """Crops of a step, float [B, 3, H, W] in [-1, 1]."""
        config, world, pool = self.config, self.world, self.pool_of(self.frames.pool_number(step))
        side, count = side_and_batch(step, config)
        count = -(-count // world.size) * world.size
        frames, sources = pool.draw(config.seed, step, count)
        # corners on the grid of codes: the encoder sees the squares that it will see in use
        rng = np.random.default_rng([config.seed, step, 1])
        places = (config.resolution - side) // config.downsample + 1
        corners = rng.integers(places, size=(count, 2)) * config.downsample
        crops = [
            frame[y : y + side, x : x + side]
            for frame, (y, x) in zip(frames, corners.tolist(), strict=True)
        ]
        share = count // world.size
        mine = crops[world.rank * share : (world.rank + 1) * share]
        self._drawn.update(pool.names[source] for source in sources)
        return Batch(pictures(np.stack(mine)).to(world.device), share, [], step + 1)

    def take_step(self, batch: Batch, step: int) -> Step:
        """One step of encoder, codebook, decoder and, once it began, discriminator."""
        config, target_bchw = self.config, batch.inputs
        for optimizer in (self.optimizer, self.judge_optimizer):
            set_rate(optimizer, learning_rate(step, config))
        learned = step >= config.encoder_start
        with self.autocast():
            latents_bdij, ids_bij, commitment, decoded_bchw = self.objective(target_bchw, learned)
        values = self.reconstruction(decoded_bchw.float(), target_bchw)
        loss = values["reconstruction"]
        if learned:
            values["commitment"] = commitment
            loss = loss + config.commitment * commitment
        share = discriminator_share(step, config)
        if share is not None:
            adversarial, facts = self.adversarial(values["reconstruction"], decoded_bchw)
            loss = loss + share * adversarial
            values |= facts
        loss.backward()  # type: ignore[no-untyped-call]
        norm = update(self.learning, self.optimizer, config.clip)
        latents, ids = (self.world.together(t) for t in (latents_bdij.detach(), ids_bij))
        self.codebook.update(latents, ids, step + 1, learn=learned)
        self.follow(step)
        if share is not None:
            values |= self.discriminate(target_bchw, decoded_bchw.detach())
        return Step({name: v.detach() for name, v in {"loss": loss, **values}.items()}, norm)

    def reconstruction(self, decoded_bchw: Tensor, target_bchw: Tensor) -> dict[str, Tensor]:
        """The reconstruction loss, with its parts and the PSNR of the batch."""
        config, difference = self.config, (decoded_bchw - target_bchw) / 2
        l1, l2 = difference.abs().mean(), difference.square().mean()
        perceived = self.perceptual(decoded_bchw, target_bchw)
        total = config.l1 * l1 + config.l2 * l2 + config.perceptual_weight * perceived
        psnr = -10 * torch.log10(l2.detach() + 1e-10)
        return {
            "reconstruction": total, "l1": l1, "l2": l2, "perceptual": perceived, "psnr_db": psnr
        }  # fmt: skip

    def adversarial(
        self, reconstruction: Tensor, decoded_bchw: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's verdict on what was decoded, weighted but for the ramp."""
        self.discriminator.requires_grad_(False)
        with self.autocast():
            loss = -self.discriminator(decoded_bchw).float().mean()
        weight = torch.ones_like(loss)
        if self.config.adaptive:
            last = self.trained.decoder.conv_out.weight
            weight = adaptive_weight(reconstruction, loss, last, self.world.mean)
        weighted = self.config.discriminator_weight * weight * loss
        return weighted, {"adversarial": loss, "adaptive": weight}

    def discriminate(self, real_bchw: Tensor, fake_bchw: Tensor) -> dict[str, Tensor]:
        """A step of the discriminator."""
        self.discriminator.requires_grad_(True)
        with self.autocast():
            loss, real, fake = self.judge(real_bchw, fake_bchw)
        loss.backward()
        self.judge_optimizer.step()
        self.judge_optimizer.zero_grad(set_to_none=True)
        return {"discriminator": loss, "logits_real": real, "logits_fake": fake}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the averaged weights; at first quickly, so that the start is soon forgotten."""
        decay = min(self.config.average_decay, (1 + step) / (10 + step))
        theirs, ours = list(self.average.parameters()), list(self.trained.parameters())
        torch._foreach_lerp_(theirs, ours, 1 - decay)

    def log_facts(self, step: int) -> Scores:
        """The codebook, how often each source was drawn from, and the time so far."""
        book, drawn = self.codebook, dict(self._drawn)
        self._drawn.clear()
        return {
            "usage": round(book.usage(step), 4),
            "perplexity": round(book.perplexity(), 4),
            "restarted": book.restarted,
            "drawn": drawn,
            "lr": learning_rate(step - 1, self.config),
            "seconds": self.seconds,
        }

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before an interruption included."""
        return round(time.monotonic() - self._began, 1)

    def too_large(self) -> tuple[str, str]:
        """So many crops."""
        count = self.config.batch_size
        return f"{count} crops", f"--batch-size {max(1, count // 2)}"

    def validate(self, step: int) -> Scores:
        """Measure the averaged weights on what is held out; the processes share the pairs."""
        tokenizer = tokenizer_of(self.average, self.config)
        return evaluate_sources(tokenizer, self.held_out, self.config.still, self.world)

    def validation_line(self, scores: Scores) -> str:
        """The scores of all sources together."""
        names = ("psnr_db", "codes_used", "perplexity", "flips_still")
        return "   ".join(f"{name} {scores[name]}" for name in names)

    def draw(self, step: int) -> Path | None:
        """Held-out frames above what their codes give back."""
        folder: Path = self.config.out / "reconstructions"
        folder.mkdir(exist_ok=True)
        drawn = folder / f"{step:08d}.png"
        draw_grid(tokenizer_of(self.average, self.config), self.held_out, drawn)
        return drawn

    def tensors(self) -> Tensors:
        """All that the next step depends on; chance depends on the step."""
        return {
            "model": self.trained.state_dict(),
            "average": self.average.state_dict(),
            "codebook": self.codebook.tensors(),
            "discriminator": self.discriminator.state_dict(),
            "optimizer": dict(named_state(self.trained, self.optimizer)),
            "judge_optimizer": dict(named_state(self.discriminator, self.judge_optimizer)),
        }

    def facts(self) -> Scores:
        """Time, and what of the codebook is no tensor."""
        return {"seconds": self.seconds, "codebook": self.codebook.facts()}

    def restore(self, facts: Scores) -> None:
        """Go on with the time and the codebook."""
        self._began = time.monotonic() - facts["seconds"]
        self.codebook.restore(facts["codebook"])
        self._pool_number = self.frames.pool_number(facts["step"])

    def finish(self, step: int, scores: Scores) -> None:
        """Write the model, its card and pictures, config.json last."""
        save_model(self.average, self.config, self.frames, self.held_out, self.seconds)

    def pool_of(self, number: int) -> Pool:
        """The pairs in memory; the next ones are read while these are trained on."""
        if self._pool is None or number != self._pool_number:
            ahead, reading = self._next
            is_read = ahead == number and reading is not None
            self._pool = reading.result() if is_read else self.frames.pool(number)
            self._pool_number = number
        if self.config.refresh and self._next[0] <= number:
            self._next = (number + 1, self._reader.submit(self.frames.pool, number + 1))
        assert self._pool is not None
        return self._pool


def learning_rate(step: int, config: VQGANConfig) -> float:
    """Linear warm-up, then a cosine to a fiftieth."""
    warm = min(1.0, (step + 1) / WARMUP)
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return config.lr * warm * (0.02 + 0.98 * cosine)


def discriminator_share(step: int, config: VQGANConfig) -> float | None:
    """The share of its weight that the discriminator has at a step; None before it begins."""
    since = step - config.discriminator_start
    return None if since < 0 else min(1.0, since / max(1, config.discriminator_ramp))


def side_and_batch(step: int, config: VQGANConfig) -> tuple[int, int]:
    """Random crops at first, then fewer whole frames: about the same pixels a step."""
    side = min(config.crop, config.resolution)
    if step < config.steps * (1 - config.whole_frames):
        return side, config.batch_size
    return config.resolution, max(1, config.batch_size * side**2 // config.resolution**2)


def _perceptual(config: VQGANConfig, device: torch.device) -> Any:
    if config.perceptual is None:
        return gradient_difference
    from handloom.tokenize.measure.lpips import LPIPS

    return LPIPS(config.perceptual).to(device)
