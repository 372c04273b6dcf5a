"""The training loop of stage 1.

    OUT/checkpoints/        see checkpoint.py
    OUT/metrics.jsonl       a line per step and per validation, see log.py
    OUT/predictions.png     predicted frames below true ones
    OUT/summary.json        the closing numbers; written last, so a run that has it is finished

Shapes: B clips in a batch, L text length, E text width, V views, F frames, R rows, C columns,
N = F*V*R*C codes a clip in the order of the model.
"""

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handloom.errors import RunError, UserError
from handloom.tokenize.shards import ShardDataset
from handloom.train import text, validate
from handloom.train.checkpoint import Checkpoints
from handloom.train.log import Log
from handloom.train.model import GPT, SIZES, Shape, to_sequence
from handloom.train.pretrain import PretrainConfig


def run(config: PretrainConfig) -> None:
    """Train from the newest checkpoint, or from the start, to the summary."""
    job = Job(config)
    if job.is_finished():
        print(f"{config.out} holds this run, finished: nothing to do (--no-resume starts again)")
        return
    job.describe()
    with sigterm() as stop_asked:
        train(job, stop_asked)
    validate.finish(job)


def train(job: "Job", stop_asked: Callable[[], bool]) -> None:
    """The loop. A step never waits for the device: the log reads the losses in bunches."""
    config, model, optimizer, log = job.config, job.model, job.optimizer, job.log
    batches = job.train.batches(config.batch_size, config.seed, start=job.position)
    log.restart_clock()
    while job.step < config.steps:
        batch = next(batches)
        codes_BN, text_BLE = job.inputs(batch)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * schedule(job.step, config)
        with job.autocast():
            loss = job.objective(model.loss(codes_BN, text_BLE))
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        job.step, job.position = job.step + 1, batch["position"]
        log.add(job.step, loss.detach(), norm, codes_BN.numel())

        last, stop = job.step == config.steps, stop_asked()
        validating = last or job.step % config.val_every == 0
        saving = last or stop or job.step % config.save_every == 0
        if validating or saving or job.step % config.log_every == 0:
            log.flush()
            if validating:
                log.validation(job.step, validate.evaluate(job))
            if saving:
                job.save()
            log.restart_clock()
        if stop and not last:
            raise RunError(
                f"stopped by SIGTERM after step {job.step} of {config.steps}; the checkpoint is "
                f"in {config.out}, the same command goes on from there."
            )


def schedule(step: int, config: PretrainConfig) -> float:
    """The share of the peak learning rate at a step: linear warm-up, then a cosine to 5 %."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


class Job:
    """A run in memory: data, model, optimiser, and how far it has come."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.use_deterministic_algorithms(config.device == "cpu")
        self.train, self.val = open_split(config, "train"), open_split(config, "val")
        self.text = text.load(config.text_encoder, config.text_length, config.device)
        self.shape = shape_of(config, self.train, self.text)
        torch.manual_seed(config.seed)
        self.model = GPT(self.shape).to(config.device)
        self.optimizer = make_optimizer(self.model, config)
        self.step = self.position = 0
        self.checkpoints = Checkpoints(config.out, self.identity())
        self.resume()
        self.log = Log(config, self.step)

    def identity(self) -> dict[str, Any]:
        """All that decides the loss trace, as a flat dict."""
        tokenizer, splits = self.train.manifest["tokenizer"], self.train.manifest["splits"]
        return {
            **self.config.identity(),
            **asdict(self.shape),
            "tokenizer": f"{tokenizer['name']} ({tokenizer['weights_sha256'][:12]})",
            "text encoder": self.text.weights_sha256[:12],
            "train shards": [shard["sha256"][:12] for shard in splits["train"]["shards"]],
        }

    def inputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Codes int64 [B, N] and text features [B, L, E] of a batch."""
        tokens_BVFRC = torch.from_numpy(batch["tokens"].astype(np.int32))
        return to_sequence(tokens_BVFRC).to(self.config.device), self.text(batch["caption"])

    def objective(self, loss_BN: Tensor) -> Tensor:
        """The mean over the frames to predict, plus a little of the first, which is given."""
        n = self.shape.codes_per_frame
        return loss_BN[:, n:].mean() + self.config.first_frame_weight * loss_BN[:, :n].mean()

    def autocast(self) -> torch.autocast:
        """Mixed precision, where asked for."""
        device = torch.device(self.config.device).type
        return torch.autocast(device, torch.bfloat16, enabled=self.config.bf16)

    def save(self) -> None:
        """Write a checkpoint of all that the next step depends on."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "position": self.position,
            "random": torch.get_rng_state(),
        }
        self.checkpoints.save(self.step, state)

    def resume(self) -> None:
        """Continue from the newest checkpoint in `out`, if there is one."""
        if not self.config.resume:
            self.checkpoints.delete()
            (self.config.out / "summary.json").unlink(missing_ok=True)
        state = self.checkpoints.load()
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"])
            self.step, self.position = state["step"], state["position"]

    def is_finished(self) -> bool:
        """Whether `out` holds the end of this run."""
        return self.step == self.config.steps and (self.config.out / "summary.json").is_file()

    def describe(self) -> None:
        """Print what is about to be trained on what."""
        shape, start = self.shape, f", resumed after step {self.step}" if self.step else ""
        weights = sum(p.numel() for p in self.model.parameters())
        frozen = sum(p.numel() for p in self.text.network.parameters())
        print(
            f"{self.config.size}: {weights / 1e6:.1f} M trainable parameters, text encoder "
            f"{frozen / 1e6:.1f} M frozen{start}\n{len(self.train)} train and {len(self.val)} val "
            f"clips of {shape.frames} frames x {shape.codes_per_frame} codes, codebook "
            f"{shape.codebook_size:,}",
            flush=True,
        )


def open_split(config: PretrainConfig, split: str) -> ShardDataset:
    """Open a split and check that there is something to train or validate on."""
    data = ShardDataset(config.shards, split=split)
    need = config.batch_size if split == "train" else 1
    if len(data) < need:
        raise UserError(
            f"{config.shards}/{split} holds {len(data)} clips and at least {need} are needed "
            "(a batch never holds a clip twice): lower --batch-size or curate more videos."
        )
    return data


def shape_of(config: PretrainConfig, data: ShardDataset, encoder: text.TextEncoder) -> Shape:
    """The model's shape: its size by name, its grid and codebook from the shards."""
    if config.size not in SIZES:
        raise UserError(f"unknown size {config.size!r}: choose one of {', '.join(SIZES)}.")
    views, frames, rows, cols = data[0]["tokens"].shape
    if frames < 2:
        raise UserError(
            f"the clips of {config.shards} have {frames} frame, pre-training predicts the frames "
            "after the first: curate again with at least 2 frames a clip."
        )
    return Shape(
        **SIZES[config.size]._asdict(),
        codebook_size=data.manifest["tokenizer"]["codebook_size"],
        views=views,
        frames=frames,
        rows=rows,
        cols=cols,
        text_length=encoder.length,
        text_width=encoder.width,
    )


def make_optimizer(model: GPT, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW; only matrices are decayed."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)


@contextmanager
def sigterm() -> Iterator[Callable[[], bool]]:
    """Within it SIGTERM only raises a flag; yields the function that reads the flag."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
