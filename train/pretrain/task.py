"""A run of stage 1 in memory: data, text encoder, model, optimiser, and how far it has come."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor

from handloom.errors import UserError
from handloom.train.model import export, text
from handloom.train.model.gpt import GPT, SIZES, Shape
from handloom.train.pretrain import data
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.pretrain.data import Clips, make_inputs
from handloom.train.trainer import flops
from handloom.train.trainer.checkpoints import ShardedCheckpoints
from handloom.train.trainer.distributed import World, spread, whole
from handloom.train.trainer.log import Log
from handloom.train.trainer.optimizer import make_optimizer, named_state


class Machine(Protocol):
    """What a configuration says about the work of one process."""

    @property
    def batch_size(self) -> int:
        """Over all processes."""

    @property
    def micro_batch(self) -> int | None:
        """At a time."""

    @property
    def threads(self) -> int:
        """0 leaves the choice to torch."""

    @property
    def device(self) -> str:
        """A torch device."""

    @property
    def deterministic(self) -> bool:
        """On a GPU too."""


class Job:
    """A run, in one of the processes that share it.

    Args:
        config: of the run.
        world: the processes; this one alone by default.

    Raises:
        UserError: shards, text encoder, processes or the checkpoint do not fit the configuration.
    """

    def __init__(self, config: PretrainConfig, world: World | None = None) -> None:
        self.config, self.world = config, world or World(torch.device(config.device))
        self.micro_batch = micro_batch_of(config, self.world.size)
        set_up_torch(config)
        self.train = data.open_split(config.shards, "train", need=config.batch_size)
        self.val = data.open_split(config.shards, "val", need=1)
        self.text = text.load(config.text_encoder, config.text_length, str(self.world.device))
        self.shape = shape_of(config, self.train, self.text)
        torch.manual_seed(config.seed)
        self.trained = GPT(self.shape).to(self.world.device)
        self.trained.activation_checkpointing = config.activation_checkpointing
        self.model = self.trained  # whole; see gather_model
        self.objective = spread(self.trained, self.world, config.parallel, config.compile)
        self.optimizer = make_optimizer(self.trained, config)
        self.step = self.position = skipped = 0
        self.checkpoints = ShardedCheckpoints(config.out, self.identity(), config.keep, self.world)
        facts = self.resume()
        if facts is not None:
            self.step, self.position = facts["step"], facts["position"]
            skipped = facts["skipped"]
        self.log = Log(config, self.world, self.step, skipped, self)

    def identity(self) -> dict[str, Any]:
        """All that decides the loss trace, as a flat dict."""
        tokenizer = self.train.manifest["tokenizer"]
        return {
            **self.config.identity(),
            **asdict(self.shape),
            "tokenizer": f"{tokenizer['name']} ({tokenizer['weights_sha256'][:12]})",
            "text encoder": self.text.weights_sha256[:12],
            "train shards": data.fingerprint(self.train),
        }

    def inputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Codes int64 [B, N] and text features [B, L, E] of a batch."""
        return data.codes_of(batch["tokens"], self.world.device), self.text(batch["caption"])

    def batches(self) -> Any:
        """This process's part of the batches that are still to come, as tensors; endless."""
        world, config = self.world, self.config
        order = (config.batch_size, config.seed, world.rank, world.size, self.position)
        return make_inputs(self.train.batches(*order, fields=data.FIELDS), world.device, self.text)

    def clip_ids(self, position: int) -> list[str]:
        """The clips of the batch that ends at a position, those of all processes."""
        size = self.config.batch_size
        order = (size, self.config.seed, 0, 1, position - size)
        ids: list[str] = next(self.train.batches(*order, fields=("clip_id",)))["clip_id"]
        return ids

    def autocast(self) -> torch.autocast:
        """Mixed precision, where asked for."""
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.config.bf16)

    def per_clip(self, loss_BN: Tensor) -> Tensor:
        """The mean over the frames to predict, plus a little of the first, which is given: [B]."""
        n = self.shape.codes_per_frame
        return loss_BN[:, n:].mean(1) + self.config.first_frame_weight * loss_BN[:, :n].mean(1)

    def save(self) -> None:
        """Start to write a checkpoint of all that the next step depends on."""
        facts = {
            "position": self.position,
            "skipped": self.log.skipped,
            "shape": asdict(self.shape),
            "export": self.export_facts(),
        }
        self.checkpoints.save(self.step, self._tensors(), facts)

    def resume(self) -> dict[str, Any] | None:
        """Continue from the newest checkpoint in `out`, if there is one; returns its facts."""
        if not self.config.resume:
            self.checkpoints.delete()
            for name in ("summary.json", "metrics.jsonl"):
                (self.config.out / name).unlink(missing_ok=True)
            shutil.rmtree(self.config.out / "tensorboard", ignore_errors=True)
        return self.checkpoints.load(self._tensors())

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        return {
            "model": dict(self.trained.named_parameters()),
            "optimizer": dict(named_state(self.trained, self.optimizer)),
        }

    def gather_model(self) -> None:
        """Make `model` whole in rank 0, where processes hold parts; all of them must call this."""
        if self.config.parallel == "fsdp":
            weights = {name: whole(p.detach()) for name, p in self.trained.named_parameters()}
            if self.world.is_first:
                self.model = export.whole_copy(self.shape, weights)

    def export(self) -> None:
        """Write `model` for others to load."""
        facts = {"step": self.step, **self.export_facts()}
        export.save(self.config.out / "export", self.model, self.shape, facts)

    def export_facts(self) -> dict[str, Any]:
        """What has to be known to use the model: tokenizer, frames, text encoder."""
        manifest = self.train.manifest
        facts: dict[str, Any] = {
            name: manifest[name] for name in ("tokenizer", "frames") if name in manifest
        }
        return {**facts, "text_encoder": self.text.facts, "size": self.config.size}

    def is_finished(self) -> bool:
        """Whether `out` holds the end of this run."""
        return self.step == self.config.steps and (self.config.out / "summary.json").is_file()

    def share_of_peak(self) -> float | None:
        """The share of the device's peak that one code a second is; None if it is not known."""
        dtype = torch.bfloat16 if self.config.bf16 else torch.float32
        peak = flops.peak_flops(device_name(self.world.device), dtype)
        return None if peak is None else flops.flops_per_clip(self.shape) / self.shape.codes / peak

    def describe(self) -> None:
        """Print what is about to be trained on what."""
        if not self.world.is_first:
            return
        shape, start = self.shape, f", resumed after step {self.step}" if self.step else ""
        weights = sum(p.numel() for p in self.trained.parameters())
        frozen = sum(p.numel() for p in self.text.network.parameters())
        world, config = self.world, self.config
        accumulated = config.batch_size // (world.size * self.micro_batch)
        print(
            f"{config.size}: {weights / 1e6:.1f} M trainable parameters, text encoder "
            f"{frozen / 1e6:.1f} M frozen{start}\n{len(self.train)} train and {len(self.val)} val "
            f"clips of {shape.frames} frames x {shape.codes_per_frame} codes, codebook "
            f"{shape.codebook_size:,}\na step is {config.batch_size} clips: {world.size} "
            f"process{'es' * (world.size > 1)} on {device_name(world.device)} x {accumulated} x "
            f"{self.micro_batch}\n{self._describe_flops()}",
            flush=True,
        )

    def _describe_flops(self) -> str:
        share, each = self.share_of_peak(), flops.flops_per_clip(self.shape)
        formula = f"{flops.FORMULA}\nhere {each / 1e9:,.1f} GFLOP a clip"
        if share is None:
            return f"{formula}; no MFU, for the peak of this device is not known"
        peak = each / self.shape.codes / share
        return f"{formula}; MFU = that x clips/s of one device / {peak / 1e12:,.0f} TFLOP/s"


def device_name(device: torch.device) -> str:
    """What the device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def micro_batch_of(config: Machine, processes: int) -> int:
    """Clips that one process takes through the model at a time."""
    here, rest = divmod(config.batch_size, processes)
    if rest or not here:
        lower = here * processes or processes
        raise UserError(
            f"--batch-size {config.batch_size} cannot be split evenly over {processes} processes: "
            f"choose a multiple of {processes}, such as {lower} or {(here + 1) * processes}."
        )
    micro = config.micro_batch or here
    if micro < 1 or here % micro:
        raise UserError(
            f"--micro-batch {micro} does not divide the {here} clips that each of {processes} "
            f"processes gets of --batch-size {config.batch_size}: choose a divisor of {here}."
        )
    return micro


def shape_of(config: PretrainConfig, clips: Clips, encoder: text.TextEncoder) -> Shape:
    """The model's shape: its size by name, its grid and codebook from the shards."""
    if config.size not in SIZES:
        raise UserError(f"unknown size {config.size!r}: choose one of {', '.join(SIZES)}.")
    views, frames, rows, cols = clips[0]["tokens"].shape
    if frames < 2:
        raise UserError(
            f"the clips of {' + '.join(config.shards)} have {frames} frame, pre-training predicts "
            "the frames after the first: curate again with at least 2 frames a clip."
        )
    return Shape(
        **SIZES[config.size]._asdict(),
        codebook_size=clips.manifest["tokenizer"]["codebook_size"],
        views=views,
        frames=frames,
        rows=rows,
        cols=cols,
        text_length=encoder.length,
        text_width=encoder.width,
    )


def set_up_torch(config: Machine) -> None:
    """Threads, and whether only operations are used that give the same bits each time."""
    if config.threads:
        torch.set_num_threads(config.threads)
    deterministic = config.deterministic or config.device == "cpu"
    if deterministic:
        # cuBLAS wants this before its first call, and is not deterministic without
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
