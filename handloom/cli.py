"""The command line: a table of commands, and errors turned into one sentence.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from handloom.errors import JobFailed, MediaError, RunError, Terminated, UserError


class Command(NamedTuple):
    """A row of the help, and the function behind it.

    Attributes:
        says: what the command does.
        target: `module:function`; see `flags.call`.
        operand: what it works on, for the help.
        options: `module:Class` of its options, where the function's module imports torch.
        stores: whether it works on folders in an object store as they are; see `flags.call`.
    """

    says: str
    target: str
    operand: str = ""
    options: str = ""
    stores: bool = False


PIPELINE, TRAIN = "handloom.pipeline.commands", "handloom.train"
EXPORT = "handloom.export"
START, EVALUATE = f"{TRAIN}.trainer.start:train", f"{TRAIN}.evaluate"

COMMANDS = {
    "curate": Command(
        "from videos to token shards; run again to resume", f"{PIPELINE}:curate", "DATASET"
    ),
    "plan": Command("what curate would do; writes nothing", f"{PIPELINE}:plan", "DATASET"),
    "submit": Command(
        "run one of these on a Ray cluster, as a Ray job", "handloom.commands:submit", "COMMAND"
    ),
    "status": Command(
        "what a run kept, rejected and failed", f"{PIPELINE}:status", "OUT", stores=True
    ),
    "report": Command(
        "write report/index.html of a run again", f"{PIPELINE}:report", "OUT", stores=True
    ),
    "view": Command(
        "look at a run in a browser: filter, move thresholds, mark clips",
        "handloom.view.command:view",
        "OUT",
        stores=True,
    ),
    "inspect": Command(
        "what is in a folder of shards, or in one shard",
        "handloom.commands:inspect",
        "SHARDS",
        stores=True,
    ),
    "edit": Command(
        "drop, relabel, move clips of shards; join folders", "handloom.commands:edit", "SHARDS"
    ),
    "sample": Command(
        "write a miniature of a dataset in its official layout",
        "handloom.commands:sample",
        "DATASET",
    ),
    "export lerobot": Command(
        "robot episodes of a run as a LeRobot dataset",
        f"{EXPORT}.run:lerobot",
        "OUT DEST",
        f"{EXPORT}.options:LeRobotExport",
        stores=True,
    ),
    "export rlds": Command(
        "robot episodes of a run as RLDS",
        f"{EXPORT}.run:rlds",
        "OUT DEST",
        f"{EXPORT}.options:RldsExport",
        stores=True,
    ),
    "export webdataset": Command(
        "clips or episodes of a run as WebDataset tars",
        f"{EXPORT}.run:webdataset",
        "OUT DEST",
        f"{EXPORT}.options:WebDatasetExport",
        stores=True,
    ),
    "export parquet": Command(
        "clips or episodes of a run as Parquet",
        f"{EXPORT}.run:parquet",
        "OUT DEST",
        f"{EXPORT}.options:ParquetExport",
        stores=True,
    ),
    "demo": Command(
        "the whole way on made-up data, from pictures to a policy", "handloom.demo:demo"
    ),
    "claim": Command(
        "what videos of hands are worth to a robot: an experiment, on made-up data",
        "handloom.claim.run:claim",
        options="handloom.claim.config:ClaimConfig",
    ),
    "train pretrain": Command(
        "stage 1: a GPT on clips of people", START, "", f"{TRAIN}.pretrain.config:PretrainConfig"
    ),
    "train finetune": Command(
        "stage 2: a policy on robot episodes", START, "", f"{TRAIN}.finetune.config:FinetuneConfig"
    ),
    "train vqgan": Command(
        "a tokenizer for curate", START, "", f"{TRAIN}.vqgan.config:VQGANConfig"
    ),
    "train scaling": Command(
        "stage 1 in several sizes, and how its loss falls", f"{TRAIN}.pretrain.scaling:study"
    ),
    "train export": Command(
        "export the newest checkpoint of stage 1", f"{TRAIN}.pretrain.config:export"
    ),
    "train report": Command(
        "a page about the training of both stages", f"{TRAIN}.report.page:write"
    ),
    "generate": Command(
        "continue a clip or a picture with a trained model",
        f"{TRAIN}.generate.run:run",
        options=f"{TRAIN}.generate.config:GenerateConfig",
    ),
    "eval tokenizer": Command("a tokenizer on held-out frames", f"{EVALUATE}.tokenizer:evaluate"),
    "eval policy": Command(
        "a policy on held-out episodes",
        f"{EVALUATE}.policy:run",
        options=f"{EVALUATE}.policy_config:PolicyEval",
    ),
    "eval rollout": Command(
        "a policy in a simulator",
        f"{EVALUATE}.rollout:run",
        options=f"{EVALUATE}.rollout_config:RolloutEval",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 done, 1 the run failed, 2 the command line or data is wrong; 130 interrupted, 143 ended by
        SIGTERM.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else 2
    try:
        return _run(args)
    except UserError as error:
        return _say(error, 2)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or Python complains at exit
        return _say("nobody reads the output any more", 1)
    except JobFailed as error:
        return _say(error, error.status)
    except (RunError, MediaError, OSError) as error:
        return _say(error, 1)
    except Terminated:
        return _say("ended by SIGTERM; the same command goes on where this one stopped", 143)
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on where this one stopped", 130)


def usage(first: str = "") -> str:
    """The help: all commands, or those that begin with a word."""
    shown = {
        f"{name} {command.operand}".strip(): command.says
        for name, command in COMMANDS.items()
        if name.split()[0] == first or not first
    }
    width = max(map(len, shown))
    lines = [f"  {name:{width}}  {says}" for name, says in shown.items()]
    what = f"{first} WHAT" if first else "COMMAND"
    head = f"usage: handloom {what} …        (handloom {what} --help says more)\n"
    return "\n".join([head, *lines])


def _run(args: list[str]) -> int:
    from handloom.flags import call, choice

    first = choice(args[0], list(dict.fromkeys(name.split()[0] for name in COMMANDS)), "command")
    name, rest = first, args[1:]
    if first not in COMMANDS:
        if not rest or rest[0] in ("-h", "--help"):
            print(usage(first))
            return 0
        seconds = [name.split()[1] for name in COMMANDS if name.startswith(f"{first} ")]
        name = f"{first} {choice(rest[0], seconds, f'{first} command')}"
        rest = rest[1:]
    command = COMMANDS[name]
    call(command.target, rest, name, command.options, command.stores)
    return 0


def _say(message: object, status: int) -> int:
    print(f"handloom: {message}", file=sys.stderr)
    return status
