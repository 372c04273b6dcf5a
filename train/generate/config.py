"""Generation as the command line sees it: its options, and the call that starts it.

    handloom generate --checkpoint RUN --shards DIR --clip ID            one clip, beside the truth
    handloom generate --checkpoint RUN --shards DIR --clips 16           held-out clips, with scores
    handloom generate --checkpoint RUN --image FILE --text "…"           a picture, no truth

This file imports no torch, so that `--help` answers at once; `run.py` does the work.
"""

from dataclasses import dataclass
from pathlib import Path

from handloom.errors import UserError
from handloom.train.trainer.options import LoadOptions


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Options of drawing a code from the model's distribution."""

    temperature: float = 0.0
    """0 takes the likeliest code each time; 1 draws as the model says, more is wilder."""
    top_k: int | None = None
    """Number of the likeliest codes to draw among."""
    top_p: float | None = None
    """Draw among the fewest likeliest codes whose probabilities add up to this, above 0, at most 1;
    after --top-k."""
    seed: int = 0
    """Seed of the draws. The same one gives the same codes on the same machine."""

    def __post_init__(self) -> None:
        checks = (
            ("--temperature", self.temperature, 0 <= self.temperature < float("inf"), "0 or more"),
            ("--top-k", self.top_k, self.top_k is None or self.top_k > 0, "1 or more"),
            ("--top-p", self.top_p, self.top_p is None or 0 < self.top_p <= 1, "in (0, 1]"),
        )
        for flag, value, good, wanted in checks:
            if not good:
                raise UserError(f"{flag} {value} cannot be: give a number that is {wanted}.")
        if self.temperature == 0 and (self.top_k, self.top_p) != (None, None):
            raise UserError(
                "--top-k and --top-p choose what is drawn from, and --temperature 0 draws nothing: "
                "pass a --temperature above 0, such as 1, or leave them out."
            )


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(Sampling, LoadOptions):
    """Continue clips or a picture with a trained model: a video, a GIF, and a picture that has the
    truth beside the prediction. Give one of --clip, --clips and --image."""

    checkpoint: Path
    """The --out of `handloom train pretrain`, or its `export` folder."""
    shards: tuple[str, ...] = ()
    """Folders of token shards that --clip or --clips come from."""
    clip: str | None = None
    """Continue this clip; `handloom inspect SHARDS` lists some."""
    clips: int | None = None
    """Continue so many held-out clips, taken from all folders in turn, and measure the frames."""
    image: tuple[Path, ...] = ()
    """Continue a picture; a model of several views wants one of each, in its order."""
    text: str | None = None
    """The instruction. A clip has its own caption, which this replaces."""
    given: int = 1
    """Frames of a clip that the model is given."""
    frames: int | None = None
    """Frames in all, those given included; by default as many as the model was trained on. For more
    the window slides: the model is then given the newest frames only."""
    out: Path = Path("runs/generated")
    """Folder for <name>.mp4, .gif, .png, .tokens.npy, and scores.json where the truth is known."""
    lpips: Path | None = None
    """Folder with the weights of LPIPS, vgg16-397923af.pth and vgg.pth; without it no LPIPS."""
    i3d: Path | None = None
    """i3d_torchscript.pt, for the Frechet video distance over --clips; without it no FVD."""

    def __post_init__(self) -> None:
        super().__post_init__()
        asked = [self.clip is not None, self.clips is not None, bool(self.image)]
        if sum(asked) != 1:
            raise UserError(
                f"{sum(asked)} of --clip, --clips and --image are given: give one of them, to say "
                "what is to be continued."
            )
        if not self.image and not self.shards:
            raise UserError("--clip and --clips need --shards: name the folder that holds them.")
        if self.image and not self.text:
            raise UserError("--image needs --text: say what is to happen in the picture.")
        if self.clips is not None and self.clips < 1:
            raise UserError(f"--clips {self.clips} is nothing to continue: give 1 or more.")
        if self.given < 1 or (self.image and self.given != 1):
            raise UserError(
                f"--given {self.given} cannot be: a clip is continued from 1 frame or more, a "
                "picture from itself."
            )
        if self.frames is not None and self.frames <= self.given:
            raise UserError(
                f"--frames {self.frames} counts the given frames too, and {self.given} "
                f"{'is' if self.given == 1 else 'are'} given: give {self.given + 1} or more."
            )
