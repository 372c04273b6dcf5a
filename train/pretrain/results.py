"""Results of a finished stage-1 run: scores beside baselines, frames, pictures.

Three ways to ask for a code of a frame, from easy to hard:

    teacher-forced               all codes before are true; the loss is of this kind
    temporally teacher-forced    the frames before are true, in the frame the model's own codes
    generated                    frame 0 is true, all else the model's own

Shapes: M clips, V views, F frames, R rows, C columns, N = F*V*R*C codes a clip, K codebook size.
"""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handloom.errors import UserError
from handloom.files import write_text
from handloom.tokenize.shards.facts import spacing_of
from handloom.train.generate import pictures, quality
from handloom.train.model import continuation
from handloom.train.model.sampling import predict_each_frame
from handloom.train.pretrain import true_frames
from handloom.train.pretrain.baselines import (
    Codes,
    CopyLastFrame,
    FrameByFrame,
    Score,
    Unigram,
    datasets_to_print,
)
from handloom.train.pretrain.data import Clips
from handloom.train.pretrain.validate import Pretraining, by_dataset, in_parts

BASELINE_CLIPS = 4_096  # more would not move a table of frequencies
GENERATED_CLIPS = 8  # code after code is slow: one clip costs as much as hundreds teacher-forced
PICTURED_CLIPS = 4
Rows = dict[str, dict[str, Score]]  # scores of predictors by part of the clip


def finish(job: Pretraining, step: int, scores: dict[str, Any]) -> None:
    """Compare with the baselines, draw the picture, write the summary that ends the run.

    Args:
        job: of the model, whole.
        step: of the run.
        scores: of the last validation.
    """
    rows = baseline_scores(job, _samples(job))
    for name, found in scores.items():
        own = {"later": Score(**found["later"]), "first": Score(**found["first"])}
        later = {"model": own["later"], **rows[name]["frames 1 and later"]}
        first = {"model": own["first"], **rows[name]["frame 0"]}
        rows[name] = {"frames 1 and later": later, "frame 0": first}
    for name in datasets_to_print(rows):
        _print_table(name, rows[name], scores[name]["clips"])
        print("\n".join(dynamics_lines(scores[name]["dynamics"])))
    frames = frame_by_frame(job)
    _print_frames(frames)
    pixels = quality.scores(draw_predictions(job))
    lines = [*quality.table(pixels), *pixel_lines(pixels)]
    print("\n".join(["", "as pictures, from the caption and frame 0:", *lines]))
    plain = {
        name: {part: {who: asdict(s) for who, s in row.items()} for part, row in parts.items()}
        for name, parts in rows.items()
    }
    summary = {
        "step": step,
        "val_loss": scores["all"]["loss"],
        "val": plain["all"],
        "val_by_dataset": plain,
        "dynamics": {name: found["dynamics"] for name, found in scores.items()},
        "frame_by_frame": {name: asdict(found) for name, found in frames.items()},
        "pictures": pixels,
        "run": job.identity(),
    }
    write_text(job.config.out / "summary.json", json.dumps(summary, indent=2) + "\n")


def baseline_scores(job: Pretraining, held: list[dict[str, Any]]) -> dict[str, Rows]:
    """Score the baselines on held-out clips.

    Returns:
        By dataset. Each is fitted on training clips of that dataset alone: a stronger rival than
        one that is fitted on all, as long as there are any.
    """
    size = job.shape.codebook_size
    given = [job.train[i] for i in range(min(len(job.train), BASELINE_CLIPS))]
    train_MVFRC, val_MVFRC = _codes(given, job.train, size), _codes(held, job.val, size)
    fit_on = by_dataset(given)
    return {
        name: _baselines(train_MVFRC[fit_on.get(name, fit_on["all"])], val_MVFRC[rows], size)
        for name, rows in by_dataset(held).items()
    }


def _baselines(train_MVFRC: Codes, val_MVFRC: Codes, size: int) -> Rows:
    anywhere, first = Unigram.fit(train_MVFRC, size), Unigram.fit(train_MVFRC[:, :, 0], size)
    later = {
        "copy last frame": CopyLastFrame.fit(train_MVFRC, anywhere).score(val_MVFRC),
        "unigram": anywhere.score(val_MVFRC[:, :, 1:]),
    }
    return {"frames 1 and later": later, "frame 0": {"unigram": first.score(val_MVFRC[:, :, 0])}}


@torch.no_grad()
def frame_by_frame(job: Pretraining, clips: int = GENERATED_CLIPS) -> dict[str, FrameByFrame]:
    """Accuracy where frames are the model's own and what came before them is true, by dataset.

    Args:
        job: of the model.
        clips: the first so many held-out ones are asked.
    """
    samples, each = _samples(job)[:clips], job.shape.codes_per_frame
    own, forced, copied = list[Tensor](), list[Tensor](), list[Tensor]()
    for codes_BN, text_BLE in in_parts(job, samples, clips):
        true_Bm = codes_BN[:, each:]
        own.append(predict_each_frame(job.model, codes_BN, text_BLE) == true_Bm)
        forced.append(job.model(codes_BN, text_BLE)[:, each:].argmax(-1) == true_Bm)
        copied.append(codes_BN[:, :-each] == true_Bm)
    own_Mm, forced_Mm, copied_Mm = (torch.cat(hits).cpu() for hits in (own, forced, copied))
    own_M, forced_M, copied_M = (hits.float().mean(1) for hits in (own_Mm, forced_Mm, copied_Mm))
    baselines = baseline_scores(job, samples)
    return {
        name: FrameByFrame(
            clips=len(rows),
            temporally_teacher_forced=float(own_M[rows].mean()),
            changed=_share(own_Mm[rows], ~copied_Mm[rows]),
            teacher_forced=float(forced_M[rows].mean()),
            copy_last_frame=float(copied_M[rows].mean()),
            unigram=baselines[name]["frames 1 and later"]["unigram"].accuracy,
        )
        for name, rows in by_dataset(samples).items()
    }


def _share(hits: Tensor, where: Tensor) -> float | None:
    return float(hits[where].float().mean()) if where.any() else None


def draw_predictions(job: Pretraining) -> list[quality.PredictedView]:
    """Write predictions.png: a few clips continued from their caption and first frame.

    Returns:
        The predicted frames beside the true ones; nothing where the tokenizer cannot be loaded.
    """
    try:
        tokenizer = pictures.load_tokenizer(
            job.val.manifest["tokenizer"], threads=torch.get_num_threads()
        )
    except UserError as error:  # the training is worth keeping without its picture
        print(f"no predictions.png: {error}")
        return []
    picked = np.linspace(0, len(job.val) - 1, min(PICTURED_CLIPS, len(job.val))).astype(int)
    samples = [job.val[int(i)] for i in picked]
    sources = true_frames.read(job.config.shards, samples, tokenizer)
    comparisons, shown = [], []
    for sample in samples:
        caption = sample["caption"]
        text_1LE = job.text([caption], [spacing_of(sample)])
        given_V1RC, frames = sample["tokens"][:, :1], job.shape.frames
        predicted = continuation.continue_clip(job.model, given_V1RC, text_1LE, frames)
        video, true = (pictures.decode(codes, tokenizer) for codes in (predicted, sample["tokens"]))
        name, source = str(sample.get("dataset", "unnamed")), sources.get(sample["clip_id"])
        copied = np.repeat(true[0][:1], len(video[0]), 0)
        comparisons.append(pictures.Comparison(caption, 1, video[0], true[0], copied, source))
        shown += continuation.predicted_views(name, 1, video, true, source)
    pictures.draw(comparisons, job.config.out / "predictions.png")
    print(f"wrote {job.config.out / 'predictions.png'}")
    return shown


def _samples(job: Pretraining) -> list[dict[str, Any]]:
    return [job.val[i] for i in range(min(len(job.val), job.config.val_clips))]


def _codes(samples: list[dict[str, Any]], data: Clips, codebook_size: int) -> Codes:
    codes_MVFRC: Codes = np.stack([sample["tokens"] for sample in samples])
    if codes_MVFRC.max() >= codebook_size:
        raise UserError(
            f"{data.path}/{data.split} holds code {codes_MVFRC.max()}, its manifest names a "
            f"codebook of {codebook_size}: these shards are damaged, curate them again."
        )
    return codes_MVFRC


def _print_table(dataset: str, rows: Rows, clips: int) -> None:
    title = f"{dataset}: {clips} held-out clips"
    print(f"\n{title:<36}cross entropy   accuracy")
    for part, scores in rows.items():
        for name, score in scores.items():
            print(f"{part:<20}{name:<16}{score.cross_entropy:>11.3f} nats{score.accuracy:>11.1%}")


def dynamics_lines(dynamics: dict[str, Any]) -> list[str]:
    """Scores of what changes, and whether captions matter, in words.

    Args:
        dynamics: `Dynamics` as a dict.
    """
    share, lines = dynamics["changed_share"], []
    for name, part in (("changed", share), ("stayed", 1 - share)):
        if (score := dynamics[name]) is not None:
            lines.append(
                f"codes that {name} ({part:.1%}): {score['cross_entropy']:.3f} nats, "
                f"{score['accuracy']:.1%} right"
            )
    if (swapped := dynamics["swapped"]) is not None:
        preferred = swapped["right_preferred"]
        lines.append(
            f"with the caption of another clip {swapped['nats']:+.4f} nats; {preferred:.1%} of "
            f"{swapped['clips']} clips are likelier with their own"
        )
        # Two standard deviations of a fair coin.
        matters = preferred >= 0.5 + swapped["clips"] ** -0.5 and swapped["nats"] > 0
        lines.append(
            "captions matter: the right one makes a clip likelier"
            if matters
            else "this model ignores captions: another one makes no difference to it"
        )
    return lines


def pixel_lines(pixels: dict[str, dict[str, Any]]) -> list[str]:
    """Whether predicted frames are nearer to the true ones than the last given frame, in words."""
    lines = []
    for name in datasets_to_print(pixels):
        gain = pixels[name]["predicted"]["psnr_db"] - pixels[name]["last given repeated"]["psnr_db"]
        verdict = "beats" if gain > 0 else "does not beat"
        lines.append(f"{name}: it {verdict} repeating the last given frame ({gain:+.2f} dB)")
    return lines


def _print_frames(frames: dict[str, FrameByFrame]) -> None:
    print("\naccuracy on frames 1 and later, of the model in a frame of its own codes after true")
    print("frames; of these the codes that changed; the same model after true codes; copy last")
    print("frame; unigram:")
    for name in datasets_to_print(frames):
        f = frames[name]
        own = (f.temporally_teacher_forced, f.changed)
        shares = (*own, f.teacher_forced, f.copy_last_frame, f.unigram)
        columns = ("" if share is None else f"{share:.1%}" for share in shares)
        print(f"{name + f', {f.clips} clips':<36}" + "".join(f"{text:>9}" for text in columns))
