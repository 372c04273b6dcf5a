"""The steps of `handloom claim`: commands, the folders they write, and what they wait for.

OUT/robot-raw, hands-raw, pictures     drawn: demonstrations, videos of hands, frames of both
OUT/tokenizer                          trained on the pictures
OUT/robot, hands, people               curated; people are those of the sample
OUT/stage1/KIND                        a pre-training on people, hands, both
OUT/cells/KIND-MODE-N-SEED             a fine-tuning on N demonstrations a task, its rollouts
OUT/scripts/NAME                       rollouts of scripts: oracle, blind, deaf, random
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from handloom.claim.config import ClaimConfig

TASKS = ("touch_red_block", "touch_blue_block", "touch_pink_block")
SCRIPTS = ("oracle", "blind", "deaf", "random")
SPACING_S = 0.8  # between the frames of stage 1; a touch takes about 1.1 s
STRIDE = 8  # steps of 0.1 s: the same in stage 2
SIZE = "little"

STAGE1 = {  # shards of each kind of stage 1
    "people": ("people",),
    "hands": ("hands",),
    "both": ("hands", "robot"),
    "robot": ("robot",),
}
KINDS = ("nothing", "people", "hands", "both")
FROZEN = ("nothing", "both", "hands", "robot", "blind", "people")  # in the order of their use
NAMES = {
    "nothing": "nothing",
    "people": "unrelated people",
    "hands": "these hands",
    "both": "these hands and robot video",
    "robot": "robot video alone",
    "blind": "features set to zero",
}
CODES = "--tokens.model {out}/tokenizer"
WINDOWS = f"--frames 2 --spacing-s {SPACING_S} --text-length 12"
MODEL = (
    "--head.pool 1 --head.latent 0 --head.width 96 --head.layers 3 --head.vae-width 64 "
    "--head.vae-blocks 2"
)
ALONE = "--threads 1 --no-tensorboard --keep 1"


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: folder below OUT that it writes, and its name.
        marker: file in there that it writes last.
        after: names of the steps whose results it uses.
        line: the command behind `handloom`, as a shell has it, without its --out.
        whole_machine: True where it uses all cores by itself, so that nothing runs beside it.
    """

    name: str
    marker: str
    after: tuple[str, ...]
    line: str
    whole_machine: bool = False


class Cell(NamedTuple):
    """One fine-tuning.

    Attributes:
        kind: of stage 1, or `blind`.
        mode: `frozen` or `full`.
        demonstrations: of each task.
        seed: of the training, and of the choice of demonstrations.
    """

    kind: str
    mode: str
    demonstrations: int
    seed: int

    @property
    def name(self) -> str:
        """Its folder below OUT."""
        return f"cells/{self.kind}-{self.mode}-{self.demonstrations}-{self.seed}"


def cells(config: ClaimConfig) -> list[Cell]:
    """All fine-tunings, the cheap ones first: each seed alone is a whole experiment."""
    frozen = [
        Cell(kind, "frozen", count, seed)
        for seed in range(config.seeds)
        for kind in FROZEN
        for count in config.demonstrations
    ]
    full = [
        Cell(kind, "full", count, seed)
        for seed in range(min(config.seeds, config.full_seeds))
        for count in config.demonstrations
        for kind in KINDS
    ]
    return [*frozen, *full]


def steps(config: ClaimConfig) -> list[Step]:
    """All steps, those that others wait for before them; pre-trainings right before their use."""
    out = shlex.quote(str(config.out))
    planned, stage1 = list(_data(config, out)), {s.name: s for s in _stage1(config, out)}
    planned += _scripts(config)
    for step in _stage2(config, out):
        planned += [stage1.pop(name) for name in step.after if name in stage1]
        planned.append(step)
    return planned


def _data(config: ClaimConfig, out: str) -> Iterator[Step]:
    codes, tasks = CODES.format(out=out), shlex.join(TASKS)
    # Every fifth demonstration of a task is for validation.
    clips = len(TASKS) * -(-config.demonstrations[-1] * 5 // 4)
    hands = f"sample reaches --clips {config.hand_videos}"
    people = f"sample ego4d --clips {config.people_clips}"
    yield Step(
        "robot-raw", ".complete.json", (), f"sample tabletop --clips {clips} --tasks {tasks}"
    )
    yield Step("hands-raw", ".complete.json", (), hands)
    yield Step("people-raw", ".complete.json", (), people)
    yield Step("pictures", ".complete.json", (), "sample touch-pictures")
    sizes = "--resolution 64 --crop 64 --widths 16 32 64 96 --codes 512 --batch-size 8"
    steps = config.tokenizer_steps
    yield Step(
        "tokenizer", "README.md", ("pictures",),
        f"train vqgan --frames {out}/pictures {sizes} --steps {steps} --discriminator-start "
        f"{steps} --val-every {steps} --save-every {steps} --threads 1 --no-tensorboard",
    )  # fmt: skip
    # Three videos of a scene are near-duplicates that only the caption tells apart.
    options = f"{codes} --tokens.spacing-s 0.1 --select.max-similarity None"
    manifest = "shards/manifest.json"
    for name, recipe, more in (
        ("hands", "ssv2", options), ("people", "sample", f"{codes} --tokens.spacing-s 0.1"),
        ("robot", "calvin", codes),
    ):  # fmt: skip
        line = f"curate {recipe} --data {out}/{name}-raw {more}"
        yield Step(name, manifest, (f"{name}-raw", "tokenizer"), line, whole_machine=True)


def _stage1(config: ClaimConfig, out: str) -> Iterator[Step]:
    steps, save = config.stage1_steps, f"--save-every {config.stage1_steps}"
    for kind, folders in STAGE1.items():
        # Equal weights: as many windows of hands as of the robot.
        shards = " ".join(f"{out}/{folder}/shards=1" for folder in folders)
        views = {"both": "--views main static", "robot": "--views static"}.get(kind, "")
        yield Step(
            f"stage1/{kind}", "summary.json", folders,
            f"train pretrain --shards {shards} {views} {WINDOWS} --size {SIZE} --batch-size 16 "
            f"--steps {steps} --val-every {max(1, steps // 4)} {save} {ALONE}",
        )  # fmt: skip


def _stage2(config: ClaimConfig, out: str) -> Iterator[Step]:
    for cell in cells(config):
        yield _finetuning(config, out, cell)
        yield Step(
            f"{cell.name}/rollout", "rollout.json", (cell.name,),
            f"eval rollout --checkpoint {out}/{cell.name} {_attempts(config)} --at-once 30 "
            "--execute-n 4 --threads 1",
        )  # fmt: skip
    best = Cell("both", "frozen", config.demonstrations[-1], 0).name
    yield Step(
        "imagined", "scores.json", (best,),
        f"eval policy --checkpoint {out}/{best} --shards {out}/robot/shards --windows 100 "
        "--clips 24 --frames 1 --threads 1",
    )  # fmt: skip


def _finetuning(config: ClaimConfig, out: str, cell: Cell) -> Step:
    stage1 = {"nothing": "", "blind": "hands"}.get(cell.kind, cell.kind)
    frozen = cell.mode == "frozen"
    start = f"--stage1 {out}/stage1/{stage1}" if stage1 else f"--size {SIZE} --text-length 12"
    control = {"blind": "--control blind", "nothing": "--control random" * frozen}.get(
        cell.kind, ""
    )
    steps = config.head_steps if frozen else config.full_steps
    mode = f"frozen+cached --features {out}/features" if frozen else "full"
    return Step(
        cell.name, "summary.json", ("robot", *([f"stage1/{stage1}"] if stage1 else [])),
        f"train finetune --shards {out}/robot/shards --views static {start} {control} --mode "
        f"{mode} --history 1 --stride {STRIDE} --episodes-per-task "
        f"{cell.demonstrations} --seed {cell.seed} --subset-seed {cell.seed} --batch-size 32 "
        f"--steps {steps} --val-every {steps} --save-every {steps} --val-windows 200 {MODEL} "
        f"{ALONE}",
    )  # fmt: skip


def _attempts(config: ClaimConfig) -> str:
    names = shlex.join(TASKS)
    return (
        f"--single --tasks {names} --chains {config.tries} --words trained --steps-per-task 120 "
        "--videos 0"
    )


def _scripts(config: ClaimConfig) -> Iterator[Step]:
    for actor in SCRIPTS:
        line = f"eval rollout --actor {actor} {_attempts(config)}"
        yield Step(f"scripts/{actor}", "rollout.json", (), line)
