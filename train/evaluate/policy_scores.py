"""Errors of a policy's chunks against the demonstrated ones.

Rows of a table, each beside the truth:

    prior mean           latent zero: what a policy executes
    prior samples        the mean over draws from the prior
    best of n samples    of each window the draw nearest to the truth: whether the prior covers it
    posterior            latent from the true chunk: what the latent could tell at best
    mean action          of training, whatever the input
    hold                 the last action again and again

Padding and idle steps count nowhere. Where several rows say the same (no latent, no window before)
they are left out or fall back to another, as each function says.

Shapes: M windows, n samples, k actions of a chunk, A numbers of an action, Z latent dimensions,
V views, d = 2 actions before the chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from handloom.tokenize.shards.format import ARM
from handloom.train.finetune.heads.cvae import active_dimensions
from handloom.train.finetune.space import Space
from handloom.train.policy.smoothing import jerk_m_s3, smooth

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Scores = dict[str, Any]


@dataclass(frozen=True)
class Outputs:
    """A model's outputs for M windows, and the truth. Actions are normalised, grippers 0 to 1.

    `posterior`, `samples` and `latent_mean` are empty without a latent.
    """

    true: Floats
    """[M, k, A]"""
    counts: Bools
    """[M, k]: the actions that count."""
    before: Floats
    """[M, d, A]: the actions before the chunk, oldest first."""
    before_known: Bools
    """[M, d]"""
    prior_mean: Floats
    """[M, k, A]"""
    samples: Floats
    """[n, M, k, A]"""
    posterior: Floats
    """[M, k, A]"""
    latent_mean: Floats
    """[M, Z], of the posterior."""
    kl: Floats
    """[M], nats a chunk."""
    video: Floats
    """[M, V], nats a code of the next picture; NaN where there is none."""
    dataset: Sequence[str]
    task: Sequence[str]
    known: Bools | None = None
    """[M]: the instruction is word for word one of training; None where those are not known."""

    def __len__(self) -> int:
        return len(self.true)

    def part(self, rows: Sequence[int]) -> Outputs:
        """Some of the windows."""
        at = list(rows)
        arrays = {
            name: value[:, at] if name == "samples" else value[at]
            for name, value in vars(self).items()
            if isinstance(value, np.ndarray)
        }
        names = {name: [vars(self)[name][i] for i in at] for name in ("dataset", "task")}
        return Outputs(**arrays, **names)  # type: ignore[arg-type]


def scores_by_group(
    outputs: Outputs, space: Space, views: Sequence[str], smoothing: float
) -> Scores:
    """Scores of all windows, of each dataset and of each of its tasks.

    Returns:
        {"all": …, "datasets": {name: …}, "tasks": {dataset: {task: …}}}, each … as `scores` has it;
        and "phrases": {"known": …, "unseen": …} by whether training had the instruction, of those
        two that there are.
    """
    datasets: dict[str, list[int]] = {}
    tasks: dict[str, dict[str, list[int]]] = {}
    for i, (dataset, task) in enumerate(zip(outputs.dataset, outputs.task, strict=True)):
        datasets.setdefault(dataset, []).append(i)
        tasks.setdefault(dataset, {}).setdefault(task, []).append(i)

    def of(rows: Sequence[int]) -> Scores:
        return scores(outputs.part(rows), space, views, smoothing)

    phrases = {} if outputs.known is None else {"phrases": _by_phrase(outputs.known, of)}
    return {
        "all": of(range(len(outputs))),
        **phrases,
        "datasets": {name: of(datasets[name]) for name in sorted(datasets)},
        "tasks": {
            name: {task: of(found[task]) for task in sorted(found)}
            for name, found in sorted(tasks.items())
        },
    }


def _by_phrase(known: Bools, of: Callable[[Sequence[int]], Scores]) -> Scores:
    rows = {"known": np.flatnonzero(known), "unseen": np.flatnonzero(~known)}
    return {name: of(found.tolist()) for name, found in rows.items() if len(found)}


def scores(outputs: Outputs, space: Space, views: Sequence[str], smoothing: float) -> Scores:
    """Scores of some windows as plain JSON; None where there is nothing to measure.

    Args:
        outputs: of them.
        space: of the policy.
        views: names of the V views.
        smoothing: weight of the jerk; 0 smooths nothing.
    """
    rows = _chunks(outputs, space)
    found: Scores = {
        "windows": len(outputs),
        "chunks": {name: _errors(chunks, outputs, space) for name, chunks in rows.items()},
        "by_step_ahead": _by_step(rows, outputs, space),
        "jerk_m_s3": _jerks(outputs, space, smoothing),
        "video_nats": _video(outputs, views),
    }
    if len(outputs.samples):
        found["samples"] = _spread(outputs, space)
    if outputs.latent_mean.shape[1]:
        found["latent"] = {**_latent(outputs), **found["samples"]}
    return found


def _chunks(outputs: Outputs, space: Space) -> dict[str, Floats]:
    """Chunks to compare with the truth, [samples, M, k, A] each."""
    rows = {"prior mean": outputs.prior_mean[None]}
    if len(outputs.samples):
        rows["prior samples"] = outputs.samples
        rows[f"best of {len(outputs.samples)} samples"] = _nearest_sample(outputs, space)[None]
    if outputs.posterior.shape[1]:
        rows["posterior"] = outputs.posterior[None]
    rows["mean action"] = _mean_action(outputs, space)[None]
    rows["hold"] = _hold(outputs, space)[None]
    return rows


def _nearest_sample(outputs: Outputs, space: Space) -> Floats:
    arms = list(space.arm_columns)
    distance_nMk = np.abs(outputs.samples - outputs.true)[..., arms].mean(-1)
    best_M = (distance_nMk * outputs.counts).sum(-1).argmin(0)
    nearest: Floats = outputs.samples[best_M, np.arange(len(outputs))]
    return nearest


def _mean_action(outputs: Outputs, space: Space) -> Floats:
    """Zero is the mean of training; a gripper says what these windows say more often."""
    found = np.zeros_like(outputs.true)
    hands = list(space.grippers)
    if hands and outputs.counts.any():
        found[..., hands] = (outputs.true[outputs.counts][:, hands] > 0.5).mean(0)
    return found


def _hold(outputs: Outputs, space: Space) -> Floats:
    """The action before the chunk, at an episode's first step the mean one."""
    known_M11 = outputs.before_known[:, -1, None, None]
    return np.where(known_M11, outputs.before[:, -1:], _mean_action(outputs, space))


def _errors(chunks_nMkA: Floats, outputs: Outputs, space: Space) -> Scores:
    arms, hands = list(space.arm_columns), list(space.grippers)
    counts = np.broadcast_to(outputs.counts, chunks_nMkA.shape[:-1])
    found, true = chunks_nMkA[counts], np.broadcast_to(outputs.true, chunks_nMkA.shape)[counts]
    off_A = np.abs(found - true).mean(0) if len(found) else np.full(true.shape[-1], np.nan)
    physical_A = off_A * _units(space)
    right = (found[:, hands] > 0.5) == (true[:, hands] > 0.5)
    return {
        "arm_l1_std": _number(off_A[arms].mean()),
        "gripper_accuracy": _number(right.mean()) if right.size else None,
        **_in_words(physical_A, space),
        "l1_physical": [_number(value) for value in physical_A],
    }


def _in_words(physical_A: npt.NDArray[np.float64], space: Space) -> Scores:
    """Mean error of a coordinate of the displacement and of the rotation, where they are known."""
    if not space.arms:
        return {}
    arms = physical_A.reshape(-1, ARM)
    return {
        "position_l1_mm": _number(1000 * arms[:, :3].mean()),
        "rotation_l1_deg": _number(math.degrees(arms[:, 3:6].mean())),
    }


def _by_step(rows: Mapping[str, Floats], outputs: Outputs, space: Space) -> Scores:
    """Arm L1 of the 1st … k-th action of the chunk, standard deviations: [k] for each row."""
    arms = list(space.arm_columns)
    weight_k = outputs.counts.sum(0)
    found = {}
    for name, chunks_nMkA in rows.items():
        off_Mk = np.abs(chunks_nMkA - outputs.true)[..., arms].mean((0, -1))
        sums_k = (off_Mk * outputs.counts).sum(0)
        found[name] = [_number(s / w) if w else None for s, w in zip(sums_k, weight_k, strict=True)]
    return found


def _jerks(outputs: Outputs, space: Space, smoothing: float) -> Scores:
    """Root mean square of jerk over whole chunks together with the two true actions before them.

    So a chunk that jumps away from what was done counts as jerky, however smooth it is itself.
    """
    if not space.arms:
        return {"true": None, "predicted": None, "smoothed": None}
    whole = np.flatnonzero(outputs.counts.all(1) & outputs.before_known.all(1))
    arms, done_MdA = list(space.arm_columns), physical(outputs.before, space)
    true, predicted = (physical(a, space) for a in (outputs.true, outputs.prior_mean))
    smoothed = predicted.copy()
    if smoothing > 0:
        for i in whole:
            done = done_MdA[i][:, arms]
            smoothed[i][:, arms] = smooth(predicted[i][:, arms], done, smoothing)
    named = {"true": true, "predicted": predicted, "smoothed": smoothed}
    return {
        name: _number(rms([jerk(np.concatenate([done_MdA[i], chunks[i]]), space) for i in whole]))
        for name, chunks in named.items()
    }


def jerk(action_kA: Floats, space: Space) -> float:
    """Root mean square of the jerk of the arms' positions, m/s^3; physical `ee_delta` actions."""
    starts = range(0, ARM * space.arms, ARM)
    return rms([jerk_m_s3(action_kA[:, first : first + 3], space.hz) for first in starts])


def rms(values: Sequence[float]) -> float:
    """Root mean square; NaN of nothing."""
    return math.sqrt(float(np.mean(np.square(values)))) if len(values) else math.nan


def _video(outputs: Outputs, views: Sequence[str]) -> dict[str, float | None]:
    there_MV = ~np.isnan(outputs.video)
    sums_V, count_V = np.nansum(outputs.video, axis=0), there_MV.sum(0)
    return {
        view: _number(sums_V[v] / count_V[v]) if count_V[v] else None
        for v, view in enumerate(views)
    }


def _spread(outputs: Outputs, space: Space) -> Scores:
    """Standard deviation between draws."""
    arms = list(space.arm_columns)
    spread_A = (outputs.samples.std(0)[outputs.counts]).mean(0)
    words = _in_words(spread_A * _units(space), space)
    return {
        "sample_spread_std": _number(spread_A[arms].mean()),
        **{f"sample_spread_{name.replace('_l1', '')}": value for name, value in words.items()},
    }


def _latent(outputs: Outputs) -> Scores:
    """Active dimensions and divergence of the latent."""
    return {
        "dimensions": outputs.latent_mean.shape[1],
        "active_dimensions": active_dimensions(torch.from_numpy(outputs.latent_mean)),
        "kl_nats": _number(outputs.kl.mean()),
    }


def physical(action: Floats, space: Space) -> Floats:
    """Normalised actions [..., A] in physical units."""
    out: Floats = space.denormalise(torch.from_numpy(np.ascontiguousarray(action))).numpy()
    return out


def _units(space: Space) -> npt.NDArray[np.float64]:
    """Physical units of one unit of each normalised number, [A]."""
    one = torch.ones(len(space.action_mean), dtype=torch.float64)
    found: npt.NDArray[np.float64] = (space.denormalise(one) - space.denormalise(0 * one)).numpy()
    return found


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return round(float(value), 6) if math.isfinite(value) else None
