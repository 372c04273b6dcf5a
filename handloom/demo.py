"""The whole way on made-up data: from rendered pictures to a policy that acts, and a report.

Each step is a `handloom` command of its own, so that it shows its own lines and can be repeated by
hand; OUT/demo.json records the steps that are done.
"""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from handloom.errors import RunError
from handloom.files import write_text

RECORD = "demo.json"
TASKS = (
    "open_drawer",
    "close_drawer",
    "move_slider_left",
    "move_slider_right",
    "turn_on_lightbulb",
    "turn_off_lightbulb",
)


# CPU seconds of the parts at these sizes, measured on two cores that others used too, so that they
# are high: demonstrations 75, their curation 250 (two workers), stage 1 60, stage 2 410, pictures
# 150, scores 45 each, rollouts 45. With 1,500 and 200 steps a run took 16 minutes beside others.
@dataclass(frozen=True)
class DemoConfig:
    """Go the whole way on made-up data, in a quarter of an hour on two cores: render demonstrations
    on a small table, curate them and the sample's people at work, pre-train on the people,
    fine-tune on the demonstrations, let the policy act, and write OUT/report.html. Run it again to
    go on where it stopped."""

    out: Path = Path("runs/train-sample")
    """Folder for everything that is written."""
    episodes: int = 180
    """Demonstrations to render, over all tasks."""
    stage1_steps: int = 200
    """Optimiser steps of pre-training."""
    stage2_steps: int = 1000
    """Optimiser steps of fine-tuning the policy, with the pre-trained GPT as it is."""
    picture_steps: int = 150
    """Optimiser steps of fine-tuning a second model as a whole, which imagines better pictures."""
    tries: int = 36
    """Attempts in the simulator, over all tasks."""
    tasks: tuple[str, ...] = TASKS
    """Tasks that are demonstrated, learned and tried; docs/rollouts.md lists them."""


@dataclass(frozen=True)
class Step:
    """One command of the demo.

    Attributes:
        name: folder below OUT that it writes; empty for OUT itself.
        marker: the file in there that it writes last.
        after: names of the steps whose results it uses.
        line: the command behind `handloom`, as a shell has it, without its --out.
    """

    name: str
    marker: str
    after: tuple[str, ...]
    line: str


def demo(config: DemoConfig) -> None:
    """Do all steps that are not done yet.

    Raises:
        RunError: a step failed; its own message stands above.
    """
    run(steps(config), config.out)
    print(f"open {config.out / 'report.html'}")


def steps(config: DemoConfig) -> list[Step]:
    """The steps, in order."""
    out, tasks = shlex.quote(str(config.out)), shlex.join(config.tasks)
    small = "--tokens.model bundled-128"  # a quarter of the codes, so that training takes minutes
    tune = f"train finetune --shards {out}/robot/shards --stage1 {out}/stage1 --history 1"
    score = f"eval policy --shards {out}/robot/shards --windows 200 --clips 2 --frames 4"
    roll = f"eval rollout --single --tasks {tasks} --chains {config.tries} --words trained"
    roll = f"{roll} --steps-per-task 180"
    policy, pictures = f"--checkpoint {out}/stage2", f"--checkpoint {out}/stage2-full"
    table = {
        ("robot-raw", ".complete.json", ""): (
            f"sample tabletop --clips {config.episodes} --tasks {tasks}"
        ),
        ("robot", "shards/manifest.json", "robot-raw"): (
            f"curate calvin --data {out}/robot-raw {small}"
        ),
        ("human", "shards/manifest.json", ""): f"curate sample {small}",
        ("stage1", "summary.json", "human"): (
            f"train pretrain --shards {out}/human/shards --steps {config.stage1_steps}"
        ),
        ("stage2", "summary.json", "robot stage1"): (
            f"{tune} --mode frozen+cached --steps {config.stage2_steps} --batch-size 32"
        ),
        ("stage2-full", "summary.json", "robot stage1"): (
            f"{tune} --mode full --steps {config.picture_steps} --batch-size 8 --loss.video 1"
        ),
        ("scores", "scores.json", "robot stage2"): f"{score} {policy}",
        ("scores-full", "scores.json", "robot stage2-full"): f"{score} {pictures}",
        ("rollouts/policy", "rollout.json", "stage2"): f"{roll} {policy} --videos 6",
        ("rollouts/random", "rollout.json", ""): f"{roll} --actor random --videos 0",
        ("rollouts/oracle", "rollout.json", ""): f"{roll} --actor oracle --videos 0",
    }
    made = [
        Step(name, marker, tuple(after.split()), line)
        for (name, marker, after), line in table.items()
    ]
    return [*made, Step("", "report.html", tuple(step.name for step in made), "train report")]


def run(todo: Sequence[Step], out: Path) -> None:
    """Run the steps that are not done; a step that runs makes those undone that use its results.

    Raises:
        RunError: a command failed.
    """
    record = out / RECORD
    done: dict[str, str] = json.loads(record.read_text()) if record.is_file() else {}
    for step in todo:
        words = [*shlex.split(step.line), "--out", str(out / step.name)]
        command = shlex.join(["handloom", *words])
        if done.get(step.name) == command and _is_whole(step, out):
            print(f"done: {command}", flush=True)
            continue
        for name in _dependents(step.name, todo):
            done.pop(name, None)
        write_text(record, json.dumps(done, indent=2) + "\n")  # a killed run must not find it done
        print(f"\n{command}", flush=True)
        _call(words, command)
        done[step.name] = command
        write_text(record, json.dumps(done, indent=2) + "\n")


def _is_whole(step: Step, out: Path) -> bool:
    """A step is whole if what it writes last is there, no older than a model that it measured."""
    last = out / step.name / step.marker
    models = [out / name / "summary.json" for name in step.after if name.startswith("stage")]
    if step.marker == "summary.json":  # a training checks by itself which stage 1 it began with
        models = []
    return last.is_file() and all(
        path.is_file() and path.stat().st_mtime <= last.stat().st_mtime for path in models
    )


def _dependents(name: str, todo: Sequence[Step]) -> set[str]:
    """A step, and all that use its results, directly or not."""
    names = {name}
    for step in todo:  # those that use a result come after those that make it
        if names & set(step.after):
            names.add(step.name)
    return names


def _call(words: Sequence[str], command: str) -> None:
    """Run a command as a process; it is ended with this one, and saves what it has."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    process = subprocess.Popen([sys.executable, "-m", "handloom", *words])
    try:
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if status:
        raise RunError(
            f"`{command}` ended with status {status} and says why above; run the demo again to go "
            "on there."
        )
