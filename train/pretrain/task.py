"""Stage-1 pre-training: clips in, the mean cross entropy of their later frames' codes to lower.

    OUT/predictions.png     predicted frames below true ones; OUT/samples/ has earlier ones
    OUT/export/             the model for `handloom generate`, see model/export.py
    OUT/summary.json        the closing numbers

Shapes: B clips of this process, N codes a clip in the order of the model.
"""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from handloom.errors import UserError
from handloom.tokenize.shards.pace import SPACING_S
from handloom.train.model import export, text
from handloom.train.model.gpt import GPT
from handloom.train.model.shape import Shape, named_shape
from handloom.train.pretrain import data, init, refusals, results, validate
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.trainer import flops
from handloom.train.trainer.distributed import World, distribute, whole
from handloom.train.trainer.optimizer import accumulate, make_optimizer, schedule, set_rate, update
from handloom.train.trainer.task import Batch, Scores, Step, Task, device_name, share_of


class PretrainTask(Task):
    """See the module; arguments and errors are those of `Task`."""

    noun: ClassVar[str] = "clips"
    unit: ClassVar[str] = "tokens"

    def __init__(self, config: PretrainConfig, world: World) -> None:
        super().__init__(config, world)
        self.here, self.micro_batch = share_of(config.batch_size, config.micro_batch, world.size)
        wanted = data.Wanted(config.frames, config.spacing_s, config.views, config.joint_views)
        self.train = data.open_split(config.shards, "train", config.batch_size, wanted)
        self.wanted = replace(wanted, frames=self.train.sources[0].cut.frames)
        self.val = data.open_split(config.shards, "val", 1, self.wanted)
        spacing_s = (config.spacing_s or SPACING_S) if config.spacing_input else None
        place, length = config.text_encoder, config.text_length
        if world.is_first and (said := data.without_captions(self.train)):
            print(said, flush=True)
        self.text = text.load(place, length, str(world.device), spacing_s)
        self.shape = shape_of(config, self.train, self.text)
        torch.manual_seed(config.seed)
        self.trained = GPT(self.shape).to(world.device)
        self.init_sha256 = ""
        if config.init is not None:
            tokenizer = self.train.manifest["tokenizer"]
            found = init.load(config.init, self.shape, tokenizer, self.text)
            weights, self.init_sha256 = found
            self.trained.load_state_dict(weights)
        self.trained.activation_checkpointing = config.activation_checkpointing
        self.model = self.trained  # whole; see gather
        self.objective = distribute(self.trained, config, world)
        self.optimizer = make_optimizer(self.trained, config)
        self._said_cut = False

    def identity(self) -> Scores:
        """Options, shape, tokenizer, text encoder, shards."""
        tokenizer = self.train.manifest["tokenizer"]
        return {
            **self.config.identity(),
            **asdict(self.shape),
            "tokenizer": f"{tokenizer['name']} ({tokenizer['weights_sha256'][:12]})",
            "text encoder": self.text.weights_sha256[:12],
            "train shards": data.fingerprint(self.train),
            **({"init": self.init_sha256[:12]} if self.init_sha256 else {}),
        }

    def batches(self, position: int) -> Iterator[Batch]:
        """This process's part of the batches that are still to come; endless."""
        world, config = self.world, self.config
        order = (config.batch_size, config.seed, world.rank, world.size, position)
        fields = data.FIELDS + ("spacing_s",) * (self.text.spacing_s is not None)
        samples = self.train.batches(*order, fields=fields)
        return data.make_batches(samples, world.device, self.text)

    def sample_ids(self, position: int) -> list[str]:
        """The clips of the batch that ends at a position, those of all processes."""
        size = self.config.batch_size
        order = (size, self.config.seed, 0, 1, position - size)
        ids: list[str] = next(self.train.batches(*order, fields=("clip_id",)))["clip_id"]
        return ids

    def take_step(self, batch: Batch, step: int) -> Step:
        """Accumulate the gradient of a batch and update the model."""
        codes_BN, text_BLE = batch.inputs

        def loss_of(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
            with self.autocast():
                loss_BN = self.objective(codes_BN[part], text_BLE[part])
            loss_B = self.per_clip(loss_BN)
            return loss_B.mean(), {"loss": loss_B.detach()}

        parts = accumulate(self.objective, batch.size, self.micro_batch, loss_of)
        set_rate(self.optimizer, self.config.lr, schedule(step, self.config))
        norm = update(list(self.trained.parameters()), self.optimizer, self.config.clip)
        return Step({"loss": torch.cat([part["loss"] for part in parts])}, norm)

    def per_clip(self, loss_BN: Tensor) -> Tensor:
        """Loss of each clip: the mean over later frames, plus a little of the first one's: [B]."""
        n = self.shape.codes_per_frame
        weight: float = self.config.first_frame_weight
        return loss_BN[:, n:].mean(1) + weight * loss_BN[:, :n].mean(1)

    def inputs(self, samples: list[dict[str, Any]]) -> data.ClipInputs:
        """Codes and text features of some clips."""
        return data.inputs_of(samples, self.world.device, self.text)

    def validate(self, step: int) -> Scores:
        """Teacher-forced cross entropy and accuracy on held-out clips, by dataset and of `all`."""
        return {name: asdict(found) for name, found in validate.evaluate(self).items()}

    def validation_line(self, scores: Scores) -> str:
        """The loss over all clips."""
        loss, later = scores["all"]["loss"], scores["all"]["later"]
        words = f"{later['cross_entropy']:.3f}, accuracy {later['accuracy']:.1%}"
        return f"loss {loss:.3f}   frames 1 and later: {words}"

    def draw(self, step: int) -> Path | None:
        """Draw predictions.png, and keep it as the sample of this step."""
        results.draw_predictions(self)
        self.model = self.trained  # a whole copy of a model in parts need not stay
        drawn = self.config.out / "predictions.png"
        if not drawn.is_file():
            return None
        kept: Path = self.config.out / "samples" / f"{step:08d}.png"
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(drawn, kept)
        return kept

    def facts(self) -> Scores:
        """Shape and export facts, which `handloom train export` reads."""
        return {"shape": asdict(self.shape), "export": self.export_facts()}

    def log_facts(self, step: int) -> Scores:
        """The learning rate, and captions that were too long."""
        read, cut = self.text.read, self.text.cut
        if cut and not self._said_cut:
            self._said_cut = True
            print(
                f"{cut:,} of the first {read:,} captions are longer than {self.config.text_length} "
                "tokens and were cut; --text-length takes more of them. metrics.jsonl goes on "
                "counting (captions_cut).",
                flush=True,
            )
        return {"lr": self.config.lr * schedule(step - 1, self.config), "captions_cut": cut}

    def units_of(self, batch: Batch) -> int:
        """Codes."""
        return batch.size * self.shape.codes

    def flops_per_unit(self) -> float:
        """FLOPs of one code."""
        return flops.flops_per_clip(self.shape) / self.shape.codes

    def too_large(self) -> tuple[str, str]:
        """So many clips."""
        return clips_too_large(self.micro_batch, f"clip{{s}} of {self.shape.codes:,} codes")

    def gather(self) -> None:
        """Make `model` whole in rank 0."""
        if self.config.parallel == "fsdp":
            weights = {name: whole(p.detach()) for name, p in self.trained.named_parameters()}
            if self.world.is_first:
                self.model = export.whole_copy(self.shape, weights)

    def finish(self, step: int, scores: Scores) -> None:
        """Write export/, predictions.png and summary.json."""
        facts = {"step": step, **self.export_facts()}
        export.save(self.config.out / "export", self.model, self.shape, facts)
        results.finish(self, step, scores)

    def export_facts(self) -> dict[str, Any]:
        """Facts that users of the model need: tokenizer, frames, text encoder."""
        manifest = self.train.manifest
        facts: dict[str, Any] = {
            name: manifest[name] for name in ("tokenizer", "frames") if name in manifest
        }
        if not all(source.whole for source in self.train.sources):
            facts["windows"] = asdict(self.wanted)
        return {**facts, "text_encoder": self.text.facts, "size": self.config.size}

    def describe(self) -> list[str]:
        """Sizes of model, data and step."""
        shape, config, world = self.shape, self.config, self.world
        weights = sum(p.numel() for p in self.trained.parameters())
        frozen = sum(p.numel() for p in self.text.network.parameters())
        return [
            f"{config.size}: {weights / 1e6:.1f} M trainable parameters, text encoder "
            f"{frozen / 1e6:.1f} M frozen",
            f"{len(self.train)} train and {len(self.val)} val clips of {shape.frames} frames x "
            f"{shape.codes_per_frame} codes, codebook {shape.codebook_size:,}",
            *self._describe_windows(),
            f"a step is {config.batch_size} clips: {world.size} process{'es' * (world.size > 1)} "
            f"on {device_name(world.device)} x {self.here // self.micro_batch} x "
            f"{self.micro_batch}",
            *self._describe_flops(),
        ]

    def _describe_windows(self) -> list[str]:
        """A line for each folder and split, where clips are not simply windows."""
        sources = [*self.train.sources, *self.val.sources]
        if all(source.whole for source in sources):
            return []
        lines = [refusals.described(source) for source in sources]
        held = {str(source.path) for source in self.val.sources}
        missing = [str(s.path) for s in self.train.sources if str(s.path) not in held]
        if missing:
            lines.append(
                f"no held-out window in {', '.join(missing)}: no validation of it (a larger "
                "--ingest.val-percent of `handloom curate` holds more out)"
            )
        return lines

    def _describe_flops(self) -> list[str]:
        share, each = self.share_of_peak(), flops.flops_per_clip(self.shape)
        here = f"here {each / 1e9:,.1f} GFLOP a clip"
        if share is None:
            return [flops.FORMULA, f"{here}; no MFU, for the peak of this device is not known"]
        peak = each / self.shape.codes / share
        mfu = f"MFU = that x clips/s of one device / {peak / 1e12:,.0f} TFLOP/s"
        return [flops.FORMULA, f"{here}; {mfu}"]


def clips_too_large(micro: int, what: str) -> tuple[str, str]:
    """For `Task.too_large`: so many samples of `what`, and options that take less memory."""
    half = max(1, micro // 2)
    while micro % half:
        half -= 1
    smaller = f"--micro-batch {half} (the result is the same)"
    lower = smaller if micro > 1 else "a smaller --size"
    return f"{micro} {what.format(s='s' * (micro > 1))}", f"{lower}, --activation-checkpointing"


def shape_of(config: PretrainConfig, clips: data.Clips, encoder: text.TextEncoder) -> Shape:
    """The model's shape: its size by name, its grid and codebook from the shards."""
    views, frames, rows, cols = clips[0]["tokens"].shape
    if frames < 2:
        raise UserError(
            f"the clips of {' + '.join(config.shards)} have {frames} frame, pre-training predicts "
            "the frames after the first: curate again with at least 2 frames a clip."
        )
    return named_shape(
        config.size,
        codebook_size=clips.manifest["tokenizer"]["codebook_size"],
        views=views,
        frames=frames,
        rows=rows,
        cols=cols,
        text_length=encoder.length,
        text_width=encoder.width,
    )
