"""A run of stage 2 in memory: episodes, text encoder, model, optimiser, and how far it has come."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handloom.errors import UserError
from handloom.tokenize.shards import ShardDataset
from handloom.train.finetune import export, stage1
from handloom.train.finetune.config import FinetuneConfig
from handloom.train.finetune.features import StoredFeatures
from handloom.train.finetune.model import (
    Inputs,
    RobotModel,
    RobotShape,
    codes_of,
)
from handloom.train.finetune.space import Space
from handloom.train.finetune.windows.windows import Batch, WindowOptions, Windows
from handloom.train.model import text
from handloom.train.model.gpt import Shape
from handloom.train.pretrain.data import folder_and_weight
from handloom.train.pretrain.task import micro_batch_of, set_up_torch
from handloom.train.trainer.checkpoints import ShardedCheckpoints
from handloom.train.trainer.distributed import World
from handloom.train.trainer.optimizer import make_optimizer, named_state


class Job:
    """A run, in one of the processes that share it.

    Args:
        config: of the run.
        world: the processes; this one alone by default.

    Raises:
        UserError: shards, stage 1, processes or the checkpoint do not fit the configuration.
    """

    def __init__(self, config: FinetuneConfig, world: World | None = None) -> None:
        _refuse_contradictions(config)
        self.config, self.world = config, world or World(torch.device(config.device))
        self.micro_batch = micro_batch_of(config, self.world.size)
        set_up_torch(config)
        self.train, self.val = open_windows(config, "train"), open_windows(config, "val")
        self.space, self.manifest = self.train.space, self.train.manifest
        self.stage1_facts: dict[str, Any] | None = None
        torch.manual_seed(config.seed)
        self.shape, trunk = self._shape_and_trunk()
        self.trained = RobotModel(self.shape).to(self.world.device)
        if trunk is not None:
            self.trained.trunk.load_state_dict(stage1.widen(trunk, self.shape.trunk.views))
        self.trained.trunk.activation_checkpointing = config.activation_checkpointing
        self.trained.trunk.requires_grad_(config.mode == "full")
        self.objective = _spread(self.trained, self.world)
        self.optimizer = make_optimizer(self.trained, config, self._share)
        self.step = self.position = self.skipped = 0
        self.checkpoints = ShardedCheckpoints(config.out, self.identity(), config.keep, self.world)
        if facts := self.resume():
            self.step, self.position = facts["step"], facts["position"]
            self.skipped = facts["skipped"]
        self.stored: dict[str, StoredFeatures] = {}

    @property
    def predicts_video(self) -> bool:
        """Whether the next pictures are part of what is learned."""
        return self.config.mode == "full"

    def identity(self) -> dict[str, Any]:
        """All that decides the loss trace, as a flat dict."""
        tokenizer, shape = self.manifest["tokenizer"], asdict(self.shape)
        stage_1 = self.stage1_facts["weights_sha256"][:12] if self.stage1_facts else "none"
        config = {**self.config.identity(), **shape.pop("trunk"), **shape}
        for name in ("head", "loss"):
            config |= {f"{name}.{field}": value for field, value in config.pop(name).items()}
        return {
            **config,
            "tokenizer": f"{tokenizer['name']} ({tokenizer['weights_sha256'][:12]})",
            "text encoder": self.text.weights_sha256[:12],
            "stage 1": stage_1,
            "train shards": self.train.fingerprint(),
        }

    def inputs(self, batch: Batch, split: str = "train") -> Inputs:
        """Windows as the model takes them, on the device."""
        device = self.world.device

        def on_device(array: Any) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        features = None
        if split in self.stored:
            features = on_device(self.stored[split].read(batch.number))
        return Inputs(
            codes_Bn=codes_of(batch.codes, device),
            seen_BFV=on_device(batch.seen),
            text_BLE=self.text(batch.caption),
            state_BhS=self.space.encode_state(on_device(batch.state)),
            state_seen_Bh=on_device(batch.state_seen),
            action_BkA=self.space.normalise(on_device(batch.action)),
            action_seen_Bk=on_device(batch.action_seen),
            features_BMX=features,
        )

    def batches(self) -> Iterator[Batch]:
        """This process's part of the batches that are still to come; endless."""
        config, world = self.config, self.world
        return self.train.batches(
            config.batch_size, config.seed, world.rank, world.size, self.position
        )

    def seed_draws(self) -> None:
        """What is drawn from the posterior depends on the position in the data alone."""
        torch.manual_seed(hash((self.config.seed, self.position, self.world.rank)) & 0xFFFFFFFF)

    def autocast(self) -> torch.autocast:
        """Mixed precision, where asked for."""
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.config.bf16)

    def save(self) -> None:
        """Start to write a checkpoint of all that the next step depends on."""
        facts = {"position": self.position, "skipped": self.skipped}
        self.checkpoints.save(self.step, self._tensors(), facts)

    def resume(self) -> dict[str, Any] | None:
        """Continue from the newest checkpoint in `out`, if there is one; returns its facts."""
        if not self.config.resume:
            self.checkpoints.delete()
            for name in ("summary.json", "metrics.jsonl"):
                (self.config.out / name).unlink(missing_ok=True)
            shutil.rmtree(self.config.out / "tensorboard", ignore_errors=True)
        return self.checkpoints.load(self._tensors())

    def export(self) -> None:
        """Write the model for `Policy` and `handloom eval policy`."""
        export.save(self.config.out / "export", self.trained, self._export_facts())

    def is_finished(self) -> bool:
        """Whether `out` holds the end of this run."""
        return self.step == self.config.steps and (self.config.out / "summary.json").is_file()

    def describe(self) -> None:
        """Print what is about to be trained on what."""
        if not self.world.is_first:
            return
        config, model = self.config, self.trained
        trunk = sum(p.numel() for p in model.trunk.parameters()) / 1e6
        head = sum(p.numel() for p in model.parameters()) / 1e6 - trunk
        start = f"stage 1 of {config.stage1}" if config.stage1 else "random weights"
        resumed = f", resumed after step {self.step}" if self.step else ""
        kept = "trained" if config.mode == "full" else "frozen"
        moments = sum(t.nbytes for state in self.optimizer.state.values() for t in state.values())
        print(
            f"GPT {trunk:.1f} M parameters from {start}, {kept}; head {head:.2f} M; optimiser "
            f"{moments / 1e6:,.1f} MB{resumed}\n{len(self.train):,} train and {len(self.val):,} "
            f"val windows of {self.train.episodes:,} and {self.val.episodes:,} episodes; views "
            f"{', '.join(self.shape.views)}; {self.shape.history} frames seen, "
            f"{self.shape.chunk} actions at {self.space.hz:g} Hz",
            flush=True,
        )

    def _shape_and_trunk(self) -> tuple[RobotShape, dict[str, Tensor] | None]:
        config = self.config
        grid = (len(self.train.views), *self.train.grid)
        weights = None
        if config.stage1 is None:
            self.text = text.load(config.text_encoder, config.text_length, str(self.world.device))
            codebook = self.manifest["tokenizer"]["codebook_size"]
            trunk = stage1.from_scratch(config, grid, codebook, self.text)
        else:
            gpt, self.stage1_facts = stage1.load(config.stage1, grid, self.manifest)
            moved = None if config.text_encoder == "seeded" else config.text_encoder
            own = self.stage1_facts["text_encoder"]
            self.text = text.load_again(own, moved, str(self.world.device))
            weights, trunk = gpt.state_dict(), stage1.trunk_shape(gpt.shape, grid[0])
            _refuse_too_many_frames(config, trunk)
        _refuse_odd_pool(config, trunk)
        shape = RobotShape(
            trunk=trunk,
            views=tuple(self.train.views),
            history=config.history,
            chunk=config.chunk,
            state_width=self.space.state_width,
            action_width=len(self.space.action_mean),
            grippers=self.space.grippers,
            head=config.head,
        )
        return shape, weights

    def _share(self, name: str) -> float:
        started = self.config.stage1 is not None
        return self.config.trunk_lr if started and name.startswith("trunk.") else 1.0

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        return {
            "model": dict(self.trained.named_parameters()),
            "optimizer": dict(named_state(self.trained, self.optimizer)),
        }

    def _export_facts(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "mode": self.config.mode,
            "stride": self.config.stride,
            "space": self.space.to_dict(),
            "tokenizer": self.manifest["tokenizer"],
            "text_encoder": self.text.facts,
            "stage1": self.stage1_facts,
        }


def open_windows(config: FinetuneConfig, split: str) -> Windows:
    """The windows of a split of all folders; `val` as it is, `train` cut to a subset if asked.

    Raises:
        UserError: no episodes, or folders that do not go together.
    """
    places = dict(folder_and_weight(place) for place in config.shards)
    datasets = {folder: ShardDataset(folder, split=split) for folder in places}
    weights = [places[folder] for folder in datasets]
    return Windows(
        list(datasets.values()),
        Space.of({folder: data.manifest for folder, data in datasets.items()}),
        WindowOptions(config.history, config.stride, config.chunk),
        config.views,
        weights=weights if any(weights) else None,
        per_task=config.episodes_per_task if split == "train" else None,
        subset_seed=config.subset_seed,
    )


def _spread(model: RobotModel, world: World) -> nn.Module:
    if world.size == 1:
        return model
    ids = [world.device] if world.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)


def _refuse_contradictions(config: FinetuneConfig) -> None:
    if config.mode != "full" and config.stage1 is None:
        raise UserError(
            f"--mode {config.mode} keeps the GPT as it is, and without --stage1 it is random: name "
            "the --out of `handloom train pretrain`, or use --mode full."
        )
    if config.mode != "full" and config.head.state_to_images:
        raise UserError(
            f"--head.state-to-images changes what the GPT reads, and --mode {config.mode} keeps "
            "it: leave one of them out."
        )
    if min(config.history, config.stride, config.chunk) < 1:
        raise UserError(
            f"--history {config.history}, --stride {config.stride} and --chunk {config.chunk} "
            "must each be 1 or more."
        )


def _refuse_too_many_frames(config: FinetuneConfig, trunk: Shape) -> None:
    if config.history + 1 > trunk.frames:
        raise UserError(
            f"--history {config.history} and the frame to predict are {config.history + 1} frames, "
            f"and --stage1 {config.stage1} was trained on {trunk.frames}: lower --history to "
            f"{trunk.frames - 1} or less."
        )


def _refuse_odd_pool(config: FinetuneConfig, trunk: Shape) -> None:
    pool = config.head.pool
    if pool < 1 or trunk.rows % pool or trunk.cols % pool:
        raise UserError(
            f"--head.pool {pool} does not divide frames of {trunk.rows} x {trunk.cols} codes: "
            "choose a common divisor, such as 1."
        )
