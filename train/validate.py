"""Validation: the model on held-out clips, beside what knows nothing, and as a picture.

Shapes: M clips, V views, F frames, R rows, C columns, N = F*V*R*C codes a clip, K codebook size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from handloom.errors import UserError
from handloom.tokenize import vqgan
from handloom.tokenize.shards import ShardDataset
from handloom.train import pictures
from handloom.train.baselines import Codes, CopyLastFrame, Score, Unigram, Validation
from handloom.train.checkpoint import write_atomically
from handloom.train.model import to_sequence

if TYPE_CHECKING:
    from handloom.train.loop import Job

BASELINE_CLIPS = 4_096  # more would not move a table of frequencies
PICTURED_CLIPS = 4


@torch.no_grad()
def evaluate(job: Job) -> Validation:
    """Score the model on the validation clips, each code predicted from the true ones before it."""
    losses, hits = [], []
    for batch in _batches(job):
        codes_BN, text_BLE = job.inputs(batch)
        with job.autocast():
            logits_BNK = job.model(codes_BN, text_BLE).float()
        losses.append(F.cross_entropy(logits_BNK.mT, codes_BN, reduction="none"))
        hits.append((logits_BNK.argmax(-1) == codes_BN).float())
    loss_MN, hit_MN, n = torch.cat(losses), torch.cat(hits), job.shape.codes_per_frame
    first, later = (
        Score(float(loss_MN[:, span].mean()), float(hit_MN[:, span].mean()))
        for span in (slice(n), slice(n, None))
    )
    return Validation(float(loss_MN.mean()), first, later)


def finish(job: Job) -> None:
    """Compare with the baselines, draw the picture, write the summary that ends the run."""
    scores = evaluate(job)
    rows = {"frames 1 and later": {"model": scores.later}, "frame 0": {"model": scores.first}}
    for part, baselines in baseline_scores(job).items():
        rows[part].update(baselines)
    _print_table(rows, clips=_val_clips(job))
    draw_predictions(job)
    summary = {
        "step": job.step,
        "val_loss": scores.loss,
        "tokens_per_s": round(job.log.tokens_per_s),
        "val": {part: {name: asdict(s) for name, s in row.items()} for part, row in rows.items()},
        "run": job.checkpoints.identity,
    }
    write_atomically(job.config.out / "summary.json", json.dumps(summary, indent=2) + "\n")


def baseline_scores(job: Job) -> dict[str, dict[str, Score]]:
    """Fit the baselines on training clips, score them on the clips that `evaluate` scores."""
    size = job.shape.codebook_size
    train_MVFRC = _codes(job.train, min(len(job.train), BASELINE_CLIPS), size)
    val_MVFRC = _codes(job.val, _val_clips(job), size)
    anywhere = Unigram.fit(train_MVFRC, size)
    first = Unigram.fit(train_MVFRC[:, :, 0], size)
    copy = CopyLastFrame.fit(train_MVFRC, anywhere)
    later = {
        "copy last frame": copy.score(val_MVFRC),
        "unigram": anywhere.score(val_MVFRC[:, :, 1:]),
    }
    return {"frames 1 and later": later, "frame 0": {"unigram": first.score(val_MVFRC[:, :, 0])}}


def draw_predictions(job: Job) -> None:
    """Write predictions.png: a few clips continued from their caption and first frame."""
    tokenizer = job.val.manifest["tokenizer"]
    try:
        decoder = vqgan.load(
            tokenizer.get("model", "bundled"),
            threads=torch.get_num_threads(),
            input_range=tokenizer.get("input_range"),
            resolution=tokenizer.get("resolution"),
        )
    except UserError as error:  # the training is worth keeping without its picture
        print(f"no predictions.png: {error}")
        return
    comparisons = []
    for i in np.linspace(0, len(job.val) - 1, min(PICTURED_CLIPS, len(job.val))).astype(int):
        sample = job.val[int(i)]
        predicted_VFRC = _continue(job, sample)
        comparisons.append(
            pictures.Comparison(sample["caption"], sample["tokens"][0], predicted_VFRC[0])
        )
    pictures.draw(comparisons, decoder, job.config.out / "predictions.png")
    print(f"wrote {job.config.out / 'predictions.png'}")


def _continue(job: Job, sample: dict[str, Any]) -> Codes:
    tokens_1VFRC = torch.from_numpy(sample["tokens"].astype(np.int32))[None]
    given_1n = to_sequence(tokens_1VFRC[:, :, :1]).to(job.config.device)
    codes_1N = job.model.generate(given_1n, job.text([sample["caption"]]))
    views, frames, rows, cols = sample["tokens"].shape
    codes_FVRC = codes_1N.view(frames, views, rows, cols).cpu().numpy().astype(np.uint16)
    return codes_FVRC.swapaxes(0, 1)


def _val_clips(job: Job) -> int:
    return min(len(job.val), job.config.val_clips)


def _batches(job: Job) -> Iterator[dict[str, Any]]:
    size, clips = job.config.batch_size, _val_clips(job)
    for start in range(0, clips, size):
        samples = [job.val[i] for i in range(start, min(start + size, clips))]
        yield {
            "tokens": np.stack([sample["tokens"] for sample in samples]),
            "caption": [sample["caption"] for sample in samples],
        }


def _codes(data: ShardDataset, clips: int, codebook_size: int) -> Codes:
    codes_MVFRC: Codes = np.stack([data[i]["tokens"] for i in range(clips)])
    if codes_MVFRC.max() >= codebook_size:
        raise UserError(
            f"{data.path}/{data.split} holds code {codes_MVFRC.max()}, its manifest names a "
            f"codebook of {codebook_size}: these shards are damaged, curate them again."
        )
    return codes_MVFRC


def _print_table(rows: dict[str, dict[str, Score]], clips: int) -> None:
    print(f"\nvalidation on {clips} held-out clips     cross entropy   accuracy")
    for part, scores in rows.items():
        for name, score in scores.items():
            print(f"{part:<20}{name:<16}{score.cross_entropy:>11.3f} nats{score.accuracy:>11.1%}")
