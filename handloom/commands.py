"""Commands that join folders: shards are inspected, miniatures written, jobs submitted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import tyro

from handloom.errors import UserError
from handloom.flags import choice
from handloom.stages.miniatures.catalog import MINIATURES, miniature

TABLETOP, REACHES, PICTURES = "tabletop", "reaches", "touch-pictures"
OTHERS = {  # modules that write samples of no published dataset
    TABLETOP: "handloom.train.tabletop.record",
    REACHES: "handloom.stages.miniatures.reaches",
    PICTURES: "handloom.claim.pictures",
}
LAYOUTS = {TABLETOP: "calvin", REACHES: "ssv2"}
SAMPLES = f"""{", ".join(MINIATURES)}; or {TABLETOP}, demonstrations for `handloom eval \
rollout` in CALVIN's layout; or {REACHES}, hands that touch blocks as the tabletop's robot does, \
in the layout of ssv2; or {PICTURES}, frames of both for `handloom train vqgan`."""


@dataclass(frozen=True)
class InspectCommand:
    """Say what is in a folder of shards, or in one shard."""

    shards: Annotated[Path, tyro.conf.Positional]
    """A folder with manifest.json, or a .tar."""
    verify: bool = False
    """Compare every byte with the checksums."""


def inspect(command: InspectCommand) -> None:
    """Print the contents of a folder of shards, or of one shard."""
    from handloom.tokenize.shards.inspect import inspect as show

    show(command.shards, verify_all=command.verify)


@dataclass(frozen=True)
class EditCommand:
    """Drop, relabel and move clips of finished shards, and join folders of shards into one.

    A new folder is written; shards that do not change are linked into it.
    """

    shards: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders with manifest.json; of several one folder is made."""
    out: Path
    """The new folder."""
    edits: Path | None = None
    """CSV, JSONL or Parquet with the column clip_id and any of drop (true or false), caption, split
    (train or val)."""
    licences: tuple[str, ...] = ()
    """Licence classes that may go together; by default any single one."""


def edit(command: EditCommand) -> None:
    """Write the edited folder and say what was done."""
    from handloom.stages.pack.edit import edit_by_file

    if not command.shards:
        raise UserError("name one or more folders of shards.")
    done = edit_by_file([*command.shards], command.out, command.edits, command.licences)
    counts = ", ".join(
        f"{done.clips[name]:,} {name}" for name in ("dropped", "relabelled", "moved")
    )
    print(f"clips: {counts}\nshards: {done.same:,} as they were, {done.written:,} written\n"
          f"{command.out}")  # fmt: skip


@dataclass(frozen=True)
class SampleCommand:
    """Write a miniature of a dataset, rendered, in its official layout."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=SAMPLES, metavar="DATASET")]
    out: Path
    """The folder to write."""
    clips: int | None = None
    """About how many hand actions or episodes; each dataset has its own default."""
    seed: int = 0
    """Seed of everything that is drawn at random; the same one gives the same bytes."""
    tasks: tuple[str, ...] = ()
    """Tasks of the tabletop's demonstrations, see docs/rollouts.md; by default all."""


def sample(command: SampleCommand) -> None:
    """Write a miniature and say how it is curated."""
    dataset = choice(command.dataset, (*MINIATURES, *OTHERS), "miniature")
    for option, value, least in (("clips", command.clips, 1), ("seed", command.seed, 0)):
        if value is not None and value < least:
            raise UserError(f"--{option} is {value}, expected at least {least}.")
    options: dict[str, Any] = {} if command.clips is None else {"clips": command.clips}
    if dataset == TABLETOP:
        options["names"] = command.tasks or None
    write: Callable[..., None] = (
        import_module(OTHERS[dataset]).write if dataset in OTHERS else miniature(dataset)
    )
    write(command.out, seed=command.seed, **options)
    if dataset == PICTURES:
        print(f"{command.out} holds frames: `handloom train vqgan --frames {command.out}`")
        return
    layout = LAYOUTS.get(dataset, dataset)
    print(f"{command.out} holds a miniature {dataset}: curate it with `handloom curate {layout} "
          f"--data {command.out} --out OUT`")  # fmt: skip


def submit(args: Sequence[str]) -> None:
    """Hand a command to a cluster."""
    from handloom.pipeline import submit as submission

    submission.submit(args)
