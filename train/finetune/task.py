"""Stage-2 fine-tuning: windows of robot episodes in; next pictures and chunks of actions to learn.

OUT/features/       with --mode frozen+cached, features of the frozen GPT, see features.py
OUT/export/         the model for `Policy`, see export.py
OUT/summary.json    the closing numbers
"""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from handloom.errors import UserError
from handloom.files import write_text
from handloom.tokenize.shards import ShardDataset
from handloom.train.finetune import export, features, stage1, validate
from handloom.train.finetune.config import FinetuneConfig
from handloom.train.finetune.flops import flops_per_window
from handloom.train.finetune.inputs import DeviceWindows, Inputs, windows_of
from handloom.train.finetune.model import RobotModel, RobotShape
from handloom.train.finetune.space import Space
from handloom.train.finetune.windows.episodes import Integers
from handloom.train.finetune.windows.folder import WindowOptions
from handloom.train.finetune.windows.windows import WindowBatch, Windows
from handloom.train.model import text
from handloom.train.model.shape import Shape, named_shape
from handloom.train.pretrain.task import clips_too_large
from handloom.train.trainer.average import Average
from handloom.train.trainer.distributed import World, distribute, whole
from handloom.train.trainer.feed import prefetch
from handloom.train.trainer.optimizer import accumulate, make_optimizer, schedule, set_rate, update
from handloom.train.trainer.options import place_and_weight
from handloom.train.trainer.task import Batch, Scores, Step, Task, Tensors, share_of


class FinetuneTask(Task):
    """See the module; arguments and errors are those of `Task`."""

    noun: ClassVar[str] = "windows"

    def __init__(self, config: FinetuneConfig, world: World) -> None:
        _refuse_contradictions(config)
        super().__init__(config, world)
        self.here, self.micro_batch = share_of(config.batch_size, config.micro_batch, world.size)
        self.train, self.val = open_windows(config, "train"), open_windows(config, "val")
        self.space, self.manifest = self.train.space, self.train.manifest
        self.phrases = self.train.captions()
        self.stage1_facts: dict[str, Any] | None = None
        torch.manual_seed(config.seed)
        self.shape, trunk = self._shape_and_trunk()
        self.trained = RobotModel(self.shape).to(world.device)
        if trunk is not None:
            self.trained.trunk.load_state_dict(stage1.widen(trunk, self.shape.trunk.views))
        self.trained.trunk.activation_checkpointing = config.activation_checkpointing
        self.trained.trunk.requires_grad_(config.mode == "full")
        self.model = self.trained  # whole; see gather
        self.objective = distribute(self.trained, config, world)
        self.optimizer = make_optimizer(self.trained, config, self._share)
        self.average = None if config.ema is None else Average(self.trained, config.ema)
        self.stored: dict[str, features.Stored] = {}  # by split

    @property
    def predicts_video(self) -> bool:
        """True where the next pictures are part of the loss."""
        return bool(self.config.mode == "full")

    def identity(self) -> Scores:
        """Options, shape, tokenizer, text encoder, stage 1, episodes."""
        tokenizer, shape = self.manifest["tokenizer"], asdict(self.shape)
        stage_1 = self.stage1_facts["weights_sha256"][:12] if self.stage1_facts else "none"
        # The configuration has them, option by option.
        del shape["head"], shape["other_head"], shape["blind"]
        return {
            **self.config.identity(),
            **shape.pop("trunk"),
            **shape,
            "tokenizer": f"{tokenizer['name']} ({tokenizer['weights_sha256'][:12]})",
            "text encoder": self.text.weights_sha256[:12],
            "stage 1": stage_1,
            "train shards": self.train.fingerprint(),
        }

    def begin(self) -> None:
        """Compute the frozen GPT's features of windows, once; all processes share the work."""
        config = self.config
        if config.mode != "frozen+cached":
            return
        folder = config.features or config.out / "features"
        size_MX = int(np.prod(self.shape.grid)), self.shape.feature_width
        count = features.within(config.features_gb, len(self.train), size_MX)
        if count < len(self.train) and config.parallel == "fsdp":
            raise UserError(
                f"--features-gb {config.features_gb} holds the features of {count:,} of "
                f"{len(self.train):,} windows, and with --parallel fsdp no process can compute the "
                "others alone: raise it, or leave --parallel out."
            )
        wanted = {"train": np.arange(count), "val": validate.numbers_of(self)}
        for split, numbers in wanted.items():
            windows = self.val if split == "val" else self.train
            depend_on = [*self._features_depend_on(windows), len(numbers)]
            path = features.folder_of(folder, split, depend_on)
            stored = features.Stored(path, numbers, size_MX)
            stored.write(self.world, partial(self._features_of, windows))
            self.stored[split] = stored

    def windows(self, batch: WindowBatch, split: str = "train") -> DeviceWindows:
        """Windows as the model takes them, on the device."""
        stored = self.stored[split].read(batch.number) if split in self.stored else None
        return windows_of(batch, self.space, self.text, self.world.device, stored)

    def batches(self, position: int) -> Iterator[Batch]:
        """This process's part of the batches that are still to come; endless."""
        config, world = self.config, self.world
        read = self.train.batches(config.batch_size, config.seed, world.rank, world.size, position)

        def prepare() -> Batch:
            batch = next(read)
            return Batch(self.windows(batch), len(batch.number), [], batch.position)

        return prefetch(prepare, world.device)

    def sample_ids(self, position: int) -> list[str]:
        """The episodes of the windows of the batch that ends at a position."""
        size = self.config.batch_size
        return next(self.train.batches(size, self.config.seed, start=position - size)).clip_id

    def take_step(self, batch: Batch, step: int) -> Step:
        """Accumulate the gradient of a batch and update the model."""
        config, weights, model = self.config, self.config.loss, self.trained
        set_rate(self.optimizer, config.lr, schedule(step, config))
        # The head's draws depend on the position in the data alone. (Python salts the hash of a
        # string in each process, but not that of integers.)
        before = batch.position - config.batch_size
        torch.manual_seed(hash((config.seed, before, self.world.rank)) & 0xFFFFFFFF)

        windows = batch.inputs.completed(self._computed)

        def loss_of(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            with self.autocast():
                losses = self.objective(windows.part(part), weights, self.predicts_video)
            total = model.total(losses, weights, step)
            shown = {name: losses[name] for name in ("video", *model.head.parts)}
            logged = {name: value.detach().float() for name, value in shown.items()}
            return total, {"loss": total.detach().float(), **logged}

        parts = accumulate(self.objective, batch.size, self.micro_batch, loss_of)
        norm = update(list(model.parameters()), self.optimizer, config.clip)
        if self.average is not None:
            self.average.update(step)
        means = {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}
        return Step(means, norm)

    def validate(self, step: int) -> Scores:
        """Chunks beside the true ones, the head's own numbers, the next pictures."""
        with nullcontext() if self.average is None else self.average.in_use():
            self.last = validate.evaluate(self)
        return {} if self.last is None else self.last.plain()

    def validation_line(self, scores: Scores) -> str:
        """The scores in one line."""
        return "" if self.last is None else self.last.line()

    def log_facts(self, step: int) -> Scores:
        """The learning rate."""
        return {"lr": self.config.lr * schedule(step - 1, self.config)}

    def flops_per_unit(self) -> float:
        """FLOPs of one window."""
        return flops_per_window(self.shape, self.config.mode)

    def too_large(self) -> tuple[str, str]:
        """So many windows."""
        return clips_too_large(self.micro_batch, "window{s}")

    def tensors(self) -> Tensors:
        """The average of the weights too, if there is one."""
        found = super().tensors()
        return found if self.average is None else {**found, "ema": self.average.tensors}

    def gather(self) -> None:
        """Make `model` whole in rank 0: averaged weights if there are, else the last ones."""
        averages = {} if self.average is None else self.average.tensors
        if self.config.parallel == "fsdp" or averages:
            last = {name: p.detach() for name, p in self.trained.named_parameters()}
            weights = {name: whole(tensor) for name, tensor in {**last, **averages}.items()}
            if self.world.is_first:
                self.model = RobotModel(self.shape)
                self.model.load_state_dict(weights, strict=True)

    def finish(self, step: int, scores: Scores) -> None:
        """Write export/, say what was reached, write summary.json."""
        assert self.last is not None
        export.save(self.config.out / "export", self.model, self._export_facts(step))
        print("\n".join(["", *validate.table(self.last)]))
        summary = {"step": step, "val": scores, "run": json.loads(json.dumps(self.identity()))}
        write_text(self.config.out / "summary.json", json.dumps(summary, indent=2) + "\n")

    def describe(self) -> list[str]:
        """Sizes of model and data."""
        config, model = self.config, self.trained
        trunk = sum(p.numel() for p in model.trunk.parameters()) / 1e6
        head = sum(p.numel() for p in model.parameters()) / 1e6 - trunk
        start = f"stage 1 of {config.stage1}" if config.stage1 else "random weights"
        start += " (a blind control: its features are set to zero)" * (config.control == "blind")
        kept = "trained" if config.mode == "full" else "frozen"
        moments = sum(t.nbytes for state in self.optimizer.state.values() for t in state.values())
        return [
            f"GPT {trunk:.1f} M parameters from {start}, {kept}; readout and {config.action_head} "
            f"head {head:.2f} M; optimiser {moments / 1e6:,.1f} MB",
            f"{len(self.train):,} train and {len(self.val):,} val windows of "
            f"{self.train.episodes:,} and {self.val.episodes:,} episodes; views "
            f"{', '.join(self.shape.views)}; {self.shape.history} frames given, "
            f"{self.shape.chunk} actions at {self.space.hz:g} Hz",
        ]

    def _shape_and_trunk(self) -> tuple[RobotShape, dict[str, Tensor] | None]:
        config = self.config
        grid = (len(self.train.views), *self.train.grid)
        weights = None
        if config.stage1 is None:
            self.text = text.load(config.text_encoder, config.text_length, str(self.world.device))
            trunk = named_shape(
                config.size,
                codebook_size=self.manifest["tokenizer"]["codebook_size"],
                views=grid[0],
                frames=config.history + 1,
                rows=grid[1],
                cols=grid[2],
                text_length=self.text.length,
                text_width=self.text.width,
            )
        else:
            gpt, self.stage1_facts = stage1.load(config.stage1, grid, self.manifest)
            moved = None if config.text_encoder == "seeded" else config.text_encoder
            own = self.stage1_facts["text_encoder"]
            self.text = text.load_again(own, moved, str(self.world.device))
            if self.text.spacing_s is not None:
                self.text.spacing_s = config.stride / self.space.hz
            weights, trunk = gpt.state_dict(), replace(gpt.shape, views=grid[0])
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
            other_head=config.other_head(),
            blind=config.control == "blind",
        )
        return shape, weights

    def _share(self, name: str) -> float:
        started = self.config.stage1 is not None
        return self.config.trunk_lr if started and name.startswith("trunk.") else 1.0

    def _features_depend_on(self, windows: Windows) -> list[Any]:
        shape = self.shape
        conditions = [asdict(shape.trunk), shape.history, self.config.stride, shape.head.pool]
        stage_1 = self.identity()["stage 1"]
        if self.stage1_facts is None:
            stage_1 = f"random weights of seed {self.config.seed}"
        return [*conditions, stage_1, windows.fingerprint(), list(shape.views)]

    def _features_of(self, windows: Windows, numbers: Integers) -> Tensor:
        """Features of windows by their numbers."""
        return self._computed(self.windows(windows.read(numbers), "").part(slice(None)))

    @torch.no_grad()
    def _computed(self, inputs: Inputs) -> Tensor:
        with self.autocast():
            found: Tensor = self.trained.features(inputs)
        return found

    def _export_facts(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "mode": self.config.mode,
            "stride": self.config.stride,
            "space": self.space.to_dict(),
            "tokenizer": self.manifest["tokenizer"],
            "text_encoder": self.text.facts,
            "stage1": self.stage1_facts,
            "phrases": sorted(self.phrases),
        }


def open_windows(config: FinetuneConfig, split: str) -> Windows:
    """The windows of a split of all folders; `val` as it is, `train` cut to a subset if asked.

    Raises:
        UserError: no episodes, or folders that do not go together.
    """
    places = dict(place_and_weight(place) for place in config.shards)
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


def _refuse_contradictions(config: FinetuneConfig) -> None:
    if config.mode != "full" and config.stage1 is None and config.control != "random":
        raise UserError(
            f"--mode {config.mode} keeps the GPT as it is, and without --stage1 it is random: name "
            "the --out of `handloom train pretrain`, or use --mode full. A control run says "
            "--control random."
        )
    if config.control == "random" and config.stage1 is not None:
        raise UserError(
            f"--control random is a GPT of random weights, and --stage1 {config.stage1} has "
            "learned: leave one of them out."
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
