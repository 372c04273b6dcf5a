"""The report of a whole run of both stages: one HTML page that needs no network.

    python -m handloom.train.report.page --out runs/train-sample

OUT is laid out as `make train-sample` does it; what is not there yet is said in a sentence:

    human/shards, robot/shards     what was learned from
    stage1, stage2                 of `handloom train pretrain` and `finetune`
    stage2-full                    a second, short fine-tuning that also learns pictures
    scores, scores-full            of `handloom eval policy` for both
    rollouts/{policy,random,oracle}
    report.html                    what this writes
"""

import html
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handloom import svg
from handloom.errors import UserError
from handloom.files import write_text
from handloom.svg import Line
from handloom.train.report import charts
from handloom.train.report.verdicts import verdicts

TITLE = "Trained on the sample"
PAGE_WIDTH = 1100  # pixels of the widest picture
STILLS, STRIPS = 6, 6
ACTORS = ("policy", "random", "oracle")


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """Write OUT/report.html: what was trained on what, how it went, and what came of it."""

    out: Path
    """The folder of `make train-sample`, or one of the same layout; it may be unfinished."""


def write(config: TrainReport) -> Path:
    """Write the page; returns where it lies.

    Raises:
        UserError: the folder is not there.
    """
    out = config.out
    if not out.is_dir():
        raise UserError(f"{out} is not a folder, expected that of `make train-sample OUT=…`.")
    sections = (summary, imagined, rollouts, materials, first_stage, second_stage, actions, onward)
    path = out / "report.html"
    write_text(path, svg.page(TITLE, (part for section in sections for part in section(out))))
    print(f"wrote {path}")
    return path


def summary(out: Path) -> Iterator[str]:
    """The result in a few sentences."""
    yield (
        "<p>A small GPT learned to predict the next frames of people at work (stage 1). A head on "
        "top of it then learned from demonstrations on a kinematic tabletop to act (stage 2). The "
        "policy was put back on that table, at starts that no demonstration had. "
    )
    rates = {who: _rates(found) for who in ACTORS if (found := _rollout(out, who))}
    results = []
    for who, tried in rates.items():
        done, all_of = (sum(column) for column in zip(*tried.values(), strict=True))
        low, high = charts.interval(done, all_of)
        results.append(f"{who} {done} of {all_of} ({low:.0%} to {high:.0%})")
    if results:
        yield f"Tasks done: <b>{', '.join(results)}</b>; in brackets the 95 % interval of the rate."
    yield "</p>"
    for name in ("stage1", "stage2", "stage2-full"):
        for said in verdicts(_json(out / name / "summary.json") or {}):
            style = "" if said.better else " class=missing"
            yield f"<p{style}><b>{name}</b> is {html.escape(said.sentence)}.</p>"


def materials(out: Path) -> Iterator[str]:
    """Data, sizes and durations of the trainings."""
    yield "<h2>What was trained on what</h2>"
    rows = []
    for name, words, data, exported in (
        ("stage1", "stage 1: next frames of people", "human", "the GPT"),
        ("stage2", "stage 2: actions", "robot", "GPT and head"),
        ("stage2-full", "stage 2 in full: pictures too", "robot", "GPT and head"),
    ):
        found, manifest = _json(out / name / "summary.json"), _manifest(out / data)
        if found is None or manifest is None:
            if name != "stage2-full":
                yield charts.missing(out / (name if manifest else f"{data}/shards"))
            continue
        run, splits = found["run"], manifest["splits"]
        size = parameters(out / name / "export" / "model.safetensors")
        rows.append(
            (
                words,
                f"{splits['train']['samples']} clips, {splits['val']['samples']} held out",
                f"{exported}, {size / 1e6:.1f} M" if size else exported,
                run.get("mode", "all"),
                f"{found['step']:,} x {run['batch_size']}",
                _seen(run, found["step"]),
                f"{minutes(out / name, run):.1f}",
            )
        )
    heads = ("", "data", "parameters", "trained", "steps x batch", "seen", "minutes")
    yield svg.table(heads, rows)
    yield (
        "<p><small>Minutes are those of the training steps, without starting, validating and "
        "storing features. Frames are codes of the bundled tokenizer, which has seen miniatures "
        "only; people and robot are rendered.</small></p>"
    )


def first_stage(out: Path) -> Iterator[str]:
    """Loss of stage 1 beside its baselines."""
    yield "<h2>Stage 1: loss</h2>"
    log, found = _log(out / "stage1"), _json(out / "stage1" / "summary.json")
    if not log:
        yield charts.missing(out / "stage1")
        return
    lines = [
        Line("training", [(row["step"], row["train"]["loss"]) for row in log if "train" in row]),
        Line(
            "held out",
            [(r["step"], r["val"]["all"]["later"]["cross_entropy"]) for r in log if "val" in r],
        ),
    ]
    words = ""
    if found is None:
        yield charts.missing(out / "stage1" / "summary.json")
    else:
        later = found["val"]["frames 1 and later"]
        copy, unigram = later["copy last frame"], later["unigram"]
        lines.append(_level("copying the last frame", copy["cross_entropy"], found["step"]))
        words = (
            f" Guessing codes by their frequency has {unigram['cross_entropy']:.2f}. Right codes: "
            f"model {later['model']['accuracy']:.1%}, copy {copy['accuracy']:.1%}."
        )
    yield svg.line_chart("nats a code, frames after the first", "steps", lines)
    yield (
        "<p>The training line holds a fiftieth of the first frame's loss too. Where it goes on "
        "falling and the held-out line does not, the few clips are being learned by heart."
        f"{words}</p>"
    )


def second_stage(out: Path) -> Iterator[str]:
    """Losses of stage 2, and errors on held-out windows."""
    yield "<h2>Stage 2: losses and held-out errors</h2>"
    for name in ("stage2", "stage2-full"):
        log = _log(out / name)
        if not log:
            if name == "stage2":
                yield charts.missing(out / name)
            continue
        mode = (_json(out / name / "summary.json") or {"run": {}})["run"].get("mode", "unfinished")
        yield f"<h3>{html.escape(name)} ({html.escape(mode)})</h3><div class=charts>"
        yield from _second_stage_charts(log)
        yield "</div>"
    yield (
        "<p>Arm L1 is in standard deviations of the arm's actions: <i>policy</i> with the latent "
        "at zero, as it acts; <i>posterior</i> with the latent of the true chunk, the best that "
        "it could say; <i>mean action</i> always answers the mean of the demonstrations. Held-out "
        "episodes ask in phrases that training does not have. A text encoder without language "
        "cannot know them, so these errors are partly those of doing another task.</p>"
    )


def _second_stage_charts(log: list[dict[str, Any]]) -> Iterator[str]:
    train = [(row["step"], row["train"]) for row in log if "train" in row]
    val = [(row["step"], row["val"]) for row in log if "val" in row]

    def trained(name: str) -> list[tuple[float, float]]:
        return [(step, row[name]) for step, row in train if row.get(name) is not None]

    def measured(who: str, name: str) -> list[tuple[float, float]]:
        return [(step, row[who][name]) for step, row in val if row.get(who)]

    who = {"policy": "prior_mean", "posterior": "posterior", "mean action": "mean_action"}
    for title, name in (("arm L1, held out", "arm_l1"), ("gripper right", "gripper_accuracy")):
        lines = [
            Line(said, measured(key, name), dashed=said == "mean action")
            for said, key in who.items()
        ]
        yield charts.lines_or_words(f"{title} windows" if "held" in title else title, lines)
    yield charts.lines_or_words(
        "training: smooth L1 of the arm, cross entropy of the gripper",
        [Line("arm", trained("arm")), Line("gripper", trained("gripper"))],
    )
    yield charts.lines_or_words("training: KL of the latent, nats", [Line("KL", trained("kl"))])
    if any(value for _, value in trained("video")):
        yield charts.lines_or_words(
            "training: nats a code", [Line("next pictures", trained("video"))]
        )


def actions(out: Path) -> Iterator[str]:
    """Errors of chunks on held-out episodes."""
    yield "<h2>Actions on held-out episodes</h2>"
    found = _json(out / "scores" / "scores.json")
    if found is None:
        yield charts.missing(out / "scores")
        return
    rows = [(who, *_errors(row)) for who, row in found["all"]["chunks"].items()]
    heads = ("", "arm L1, std", "position, mm", "rotation, °", "gripper right")
    yield f"<p>{found['all']['windows']} windows.</p>{svg.table(heads, rows)}"
    rows = [
        (task.replace("_", " "), *_errors(row["chunks"]["prior mean"]))
        for tasks in found["tasks"].values()
        for task, row in tasks.items()
    ]
    yield f"<p>By task, as the policy acts:</p>{svg.table(heads, rows)}"


def imagined(out: Path) -> Iterator[str]:
    """Imagined beside real frames."""
    from PIL import Image

    yield "<h2>Imagined against real frames</h2>"
    names = [name for name in ("scores", "scores-full") if (out / name / "scores.json").is_file()]
    names.sort(key=lambda name: -_predicted_db(out / name))  # what works comes first
    if not names:
        yield charts.missing(out / "scores")
    for name in names:
        found = _json(out / name / "scores.json") or {}
        stage = _json(out / name.replace("scores", "stage2") / "summary.json") or {"run": {}}
        frozen = str(stage["run"].get("mode", "")).startswith("frozen")
        yield f"<p><b>{html.escape(stage['run'].get('mode', name))}</b>: " + (
            "the GPT is as stage 1 left it and has never seen this robot, so do not expect it to "
            "predict the robot's frames."
            if frozen
            else "the GPT learned these pictures too, for a few minutes."
        )
        yield "</p>"
        rows = [
            (f"{how}: {who}", f"{row['psnr_db']:.2f}", f"{row['ssim']:.3f}")
            for how, views in found.get("pictures", {}).items()
            for who, row in views["all"].items()
            if isinstance(row, dict)
        ]
        yield (
            svg.table(("against the decoded true codes", "PSNR, dB", "SSIM"), rows) if rows else ""
        )
        picture = out / name / "pictures.png"
        if picture.is_file():
            yield svg.inline(Image.open(picture), "true and imagined frames", PAGE_WIDTH)
        else:
            yield charts.missing(picture)


def _predicted_db(scores: Path) -> float:
    """Mean PSNR of the predicted frames, over how they were predicted; 0 where none were."""
    views = (_json(scores / "scores.json") or {}).get("pictures", {}).values()
    found = [view["all"]["predicted"]["psnr_db"] for view in views if "predicted" in view["all"]]
    return sum(found) / len(found) if found else 0.0


def rollouts(out: Path) -> Iterator[str]:
    """Success rates and stills."""
    yield "<h2>Rollouts</h2>"
    found = {who: rollout for who in ACTORS if (rollout := _rollout(out, who))}
    for who in ACTORS:
        if who not in found:
            yield charts.missing(out / "rollouts" / who)
    if not found:
        return
    yield charts.rate_chart({who: _rates(rollout) for who, rollout in found.items()})
    if "policy" in found:
        policy = found["policy"]
        words = {
            "trained": "The instructions are those of the demonstrations: the small text encoder "
            "is random and frozen, it tells sentences apart and knows no language, so that a new "
            "sentence for the same task would mean nothing to it.",
            "new": "The instructions are phrases that no demonstration had.",
        }
        yield f"<p>{words.get(policy['words'], '')}"
        if "act_ms" in policy:
            yield f" A call of the policy takes {policy['act_ms']['p50']:g} ms (median)."
        yield "</p>"
        yield from _strips(out / "rollouts" / "policy", policy["lengths"])


def _strips(folder: Path, lengths: list[int]) -> Iterator[str]:
    from handloom.train.evaluate.rollout import CAPTION

    films = sorted(folder.glob("chain-*.mp4"))[:STRIPS]
    if not films:
        yield charts.missing(folder / "chain-000.mp4")
    for film in films:
        number = int(film.stem.removeprefix("chain-"))
        came = "done" if number < len(lengths) and lengths[number] else "not done"
        try:
            strip = charts.film_strip(film, STILLS, CAPTION)
        except OSError as error:
            yield f"<p class=missing>{html.escape(str(error))}.</p>"
            continue
        shown = svg.inline(strip, f"a rollout, {came}", PAGE_WIDTH)
        yield f"<p><b>{came}</b></p>{shown}{svg.film(film)}"


def onward(out: Path) -> Iterator[str]:
    """Commands to go on with."""
    place = html.escape(str(out))
    yield (
        "<h2>How to go on</h2><p>Longer training: name another folder and more steps, "
        f"<code>make train-sample OUT=… STAGE2_STEPS=6000 EPISODES=600</code>. With real data:</p>"
        "<pre>make curate DATASET=ego4d DATA=…            make curate DATASET=calvin DATA=…\n"
        "make pretrain SHARDS=runs/ego4d/shards SIZE=b OUT=runs/stage1\n"
        "make finetune SHARDS=runs/calvin/shards STAGE1=runs/stage1 OUT=runs/stage2\n"
        "make eval CHECKPOINT=runs/stage2 SHARDS=runs/calvin/shards</pre>"
        f"<p>All rollouts of the policy as videos: <code>{place}/rollouts/policy</code>; curves of "
        f"every step: <code>tensorboard --logdir {place}</code>.</p>"
    )


def _rollout(out: Path, who: str) -> Any:
    return _json(out / "rollouts" / who / "rollout.json")


def _rates(rollout: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {task: (row["done"], row["tried"]) for task, row in rollout["tasks"].items()}


def _errors(row: dict[str, float | None]) -> list[str]:
    forms = {
        "arm_l1_std": ".3f",
        "position_l1_mm": ".2f",
        "rotation_l1_deg": ".2f",
        "gripper_accuracy": ".1%",
    }
    values = {name: row.get(name) for name in forms}
    return ["-" if value is None else f"{value:{forms[name]}}" for name, value in values.items()]


def _seen(run: dict[str, Any], steps: int) -> str:
    """Stage 1 counts tokens, stage 2 windows of an episode."""
    count = steps * _each(run)
    return f"{count:,} windows" if "mode" in run else f"{count / 1e6:.2f} M tokens"


def _each(run: dict[str, Any]) -> int:
    """Windows or tokens of a step."""
    of_batch: int = run["batch_size"]
    if "mode" in run:
        return of_batch
    return of_batch * int(run["frames"] * run["views"] * run["rows"] * run["cols"])


def minutes(folder: Path, run: dict[str, Any]) -> float:
    """Minutes of all steps, from the rates in the log."""
    rate = "windows_per_s" if "mode" in run else "tokens_per_s"
    seconds, last = 0.0, 0
    for row in _log(folder):
        if "train" in row:
            seconds += (row["step"] - last) * _each(run) / row["train"][rate]
            last = row["step"]
    return seconds / 60


def parameters(weights: Path) -> int:
    """Number of parameters in a safetensors file; 0 without a file. Reads its header alone."""
    if not weights.is_file():
        return 0
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(math.prod(one["shape"]) for name, one in header.items() if name != "__metadata__")


def _level(name: str, value: float, last: int) -> Line:
    return Line(name, [(0, value), (last, value)], dashed=True)


def _manifest(run: Path) -> Any:
    return _json(run / "shards" / "manifest.json")


def _json(path: Path) -> Any:
    """Content of a file, None where there is none; all of them are written whole."""
    return json.loads(path.read_text()) if path.is_file() else None


def _log(folder: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl; the last may be half a line where a run was killed."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]
