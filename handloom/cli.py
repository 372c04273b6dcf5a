"""The command line: picks a recipe, overrides fields, and turns errors into one sentence.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

import difflib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from handloom.errors import RunError, UserError

T = TypeVar("T")

USAGE = """\
usage: handloom COMMAND …        (handloom COMMAND --help says more)

  curate DATASET    from videos to token shards; run again to resume
  plan DATASET      what curate would do; writes nothing
  submit DATASET    curate on a running Ray cluster, as a Ray job; or `submit pretrain`
  status OUT        what a run kept, rejected and failed
  report OUT        write report/index.html of a run again
  inspect SHARDS    what is in a folder of shards, or in one shard
  sample DATASET    write a miniature of a dataset in its official layout
  train WHAT        pretrain, finetune, scaling, export, vqgan, report
  generate          continue a clip or a picture with a trained model
  eval WHAT         tokenizer, policy (held-out episodes), rollout (in a simulator)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns 0 done, 1 the run failed, 2 the command line or data is wrong."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if args else 2
    try:
        COMMANDS[choice(args[0], COMMANDS, "command")](args[1:])
    except UserError as error:
        return _say(error, 2)
    except (RunError, OSError) as error:
        return _say(error, 1)
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on where this one stopped", 130)
    return 0


def choice(name: str, known: Sequence[str] | dict[str, Any], what: str) -> str:
    """The name, if it is known; else a UserError that suggests what may have been meant."""
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(f"unknown {what} {name!r}: {hint}handloom knows {', '.join(known)}.")


def parse(kind: type[T] | Callable[..., T], args: Sequence[str], command: str, **more: Any) -> T:
    """Parse flags into a dataclass; unknown ones become a UserError with a suggestion."""
    parsed, unknown = tyro.cli(
        kind, args=args, prog=f"handloom {command}", return_unknown_args=True, **more
    )
    if unknown:
        asked = unknown[0].split("=")[0].replace("_", "-")
        close = difflib.get_close_matches(asked, list(_flags(kind)), n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(
            f"unknown option {unknown[0]!r}: {hint}`handloom {command} --help` lists them all."
        )
    return parsed


def _say(message: object, status: int) -> int:
    print(f"handloom: {message}", file=sys.stderr)
    return status


def _flags(kind: Any, prefix: str = "--") -> Iterator[str]:
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield from _flags(hint, f"{prefix}{name}.")
        else:
            yield prefix + name.replace("_", "-")


def curate(args: Sequence[str]) -> None:
    """`handloom curate`."""
    from handloom.pipeline import commands

    commands.curate(args)


def plan(args: Sequence[str]) -> None:
    """`handloom plan`."""
    from handloom.pipeline import commands

    commands.plan(args)


def submit(args: Sequence[str]) -> None:
    """`handloom submit`."""
    from handloom.pipeline import submit as submission
    from handloom.train.pretrain.config import PretrainConfig

    submission.submit(args, pretrain_out=PretrainConfig.out)


@dataclass(frozen=True)
class OutCommand:
    """A command on the output folder of a run."""

    out: Annotated[Path, tyro.conf.Positional] = field()
    """The folder given to `handloom curate` as --out."""


def status(args: Sequence[str]) -> None:
    """`handloom status`."""
    from handloom.pipeline import commands

    commands.status(parse(OutCommand, args, "status").out)


def report(args: Sequence[str]) -> None:
    """`handloom report`."""
    from handloom.pipeline import commands

    commands.report(parse(OutCommand, args, "report").out)


@dataclass(frozen=True)
class InspectCommand:
    """Say what is in a folder of shards, or in one shard."""

    shards: Annotated[Path, tyro.conf.Positional] = field()
    """A folder with manifest.json, or a .tar."""
    verify: bool = False
    """Compare every byte with the checksums."""


def inspect(args: Sequence[str]) -> None:
    """`handloom inspect`."""
    from handloom.tokenize.shards.inspect import inspect as show

    command = parse(InspectCommand, args, "inspect")
    show(command.shards, verify_all=command.verify)


@dataclass(frozen=True)
class SampleCommand:
    """Write a miniature of a dataset, rendered, in its official layout."""

    dataset: Annotated[str, tyro.conf.Positional] = field()
    """ego4d, howto100m, ssv2, epic_kitchens, kinetics700, rt1, bridge, calvin, rlds, hdf5, lerobot,
    or tabletop: demonstrations for `handloom eval rollout`, in CALVIN's layout"""
    out: Path = field()
    """The folder to write."""
    clips: int | None = None
    """About how many hand actions or episodes; each dataset has its own default."""
    seed: int = 0
    tasks: tuple[str, ...] = ()
    """Of the tabletop, only these; by default all. See docs/rollouts.md."""


def sample(args: Sequence[str]) -> None:
    """`handloom sample`."""
    from handloom.stages.miniatures.catalog import MINIATURES, miniature

    command = parse(SampleCommand, args, "sample")
    dataset = choice(command.dataset, (*MINIATURES, "tabletop"), "miniature")
    options: dict[str, Any] = {} if command.clips is None else {"clips": command.clips}
    if dataset == "tabletop":
        from handloom.train.tabletop.record import write

        options["names"] = command.tasks or None
        layout = "calvin"
    else:
        write, layout = miniature(dataset), dataset
    write(command.out, seed=command.seed, **options)
    print(f"{command.out} holds a miniature {dataset}: curate it with `handloom curate {layout} "
          f"--data {command.out} --out OUT`")  # fmt: skip


def train(args: Sequence[str]) -> None:
    """`handloom train`."""
    if not args or args[0] in ("-h", "--help"):
        print("usage: handloom train {pretrain,finetune,scaling,export,vqgan,report} …")
        return
    known = ("pretrain", "finetune", "scaling", "export", "vqgan", "report")
    what = choice(args[0], known, "training")
    if what == "pretrain":
        from handloom.train.pretrain import config as pretrain

        pretrain.train(parse(pretrain.PretrainConfig, args[1:], "train pretrain"))
    elif what == "finetune":
        from handloom.train.finetune import config as finetune

        finetune.finetune(parse(finetune.FinetuneConfig, args[1:], "train finetune"))
    elif what == "scaling":
        from handloom.train.pretrain import scaling

        scaling.study(parse(scaling.ScalingConfig, args[1:], "train scaling"))
    elif what == "export":
        from handloom.train.pretrain import config as pretrain

        pretrain.export(parse(pretrain.ExportConfig, args[1:], "train export"))
    elif what == "report":
        from handloom.train.report import page as report

        report.write(parse(report.TrainReport, args[1:], "train report"))
    else:
        from handloom.pipeline import commands
        from handloom.train.vqgan import config as vqgan

        config = parse(vqgan.VQGANConfig, args[1:], "train vqgan")
        vqgan.train(config, reopen=commands.reopen_episode)


def generate(args: Sequence[str]) -> None:
    """`handloom generate`."""
    from handloom.train.generate import config as generation

    generation.generate(parse(generation.GenerateConfig, args, "generate"))


def evaluate(args: Sequence[str]) -> None:
    """`handloom eval`."""
    if not args or args[0] in ("-h", "--help"):
        print("usage: handloom eval {tokenizer,policy,rollout} …")
        return
    what = choice(args[0], ("tokenizer", "policy", "rollout"), "evaluation")
    if what == "policy":
        from handloom.train.evaluate import policy_config as eval_policy

        eval_policy.evaluate(parse(eval_policy.PolicyEval, args[1:], "eval policy"))
    elif what == "rollout":
        from handloom.train.evaluate import rollout_config as eval_rollout

        eval_rollout.evaluate(parse(eval_rollout.RolloutEval, args[1:], "eval rollout"))
    else:
        from handloom.pipeline import commands
        from handloom.train.evaluate import tokenizer as eval_tokenizer

        config = parse(eval_tokenizer.TokenizerEval, args[1:], "eval tokenizer")
        eval_tokenizer.evaluate(config, reopen=commands.reopen_episode)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "curate": curate,
    "plan": plan,
    "submit": submit,
    "status": status,
    "report": report,
    "inspect": inspect,
    "sample": sample,
    "train": train,
    "generate": generate,
    "eval": evaluate,
}
