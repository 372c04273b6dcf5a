"""What a run would cost: hours, core- and GPU-hours, disk and memory, with a bound of the error.

Rates come from a sample of the dataset's own clips (`probe.py`), or from the table below. Clips of
a stage x seconds of a worker for each, over the workers, plus what a run takes in any case.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from handloom.errors import UserError
from handloom.pipeline.job import Job
from handloom.pipeline.probe import Listed, Measured, Probe
from handloom.stages.duplicates.stage import FRAME_BYTES
from handloom.stages.tables.parts import BUCKETS

CONFIDENCE = 1.645  # standard errors of a two-sided interval of 90 %
MACHINE_ERROR = 0.1  # by which the same run takes longer or shorter on a machine that others use


@dataclass(frozen=True)
class PlanOptions:
    """Options of `plan` alone."""

    probe: int = 0
    """Clips to try first, in a temporary folder: a few minutes, for an estimate from this dataset
    on this machine; 200 is enough. 0 takes stated rates."""
    cores: int | None = None
    """Cores that the run would have; by default those of this machine."""
    gpus: int | None = None
    """GPUs that the run would have; by default those that the sample found, or none."""

    def __post_init__(self) -> None:
        for name in ("probe", "cores", "gpus"):
            value = getattr(self, name)
            if value is not None and value < (1 if name == "cores" else 0):
                least = "at least 1" if name == "cores" else "0 or more"
                raise UserError(f"--plan.{name} is {value}, expected {least}.")


@dataclass(frozen=True)
class Rate:
    """What one stage costs.

    Attributes:
        share: clips that come to it, of all that are ingested, 0 to 1.
        seconds: of a worker for a clip.
        stored_bytes: its table takes for a clip.
        part_bytes: it takes for each of its parts, beside that.
        error: standard error of share x seconds, as a share of it.
        gpus: that each worker has.
        work_bytes: its files take for a clip while it works.
    """

    share: float
    seconds: float
    stored_bytes: float
    error: float
    gpus: float = 0.0
    part_bytes: float = 0.0
    work_bytes: float = 0.0


# Of steps that run over tables, seconds a clip (docs/scale.md).
TABLE_STEPS_S = {"duplicates": 1e-3, "select": 5e-6, "caption": 5e-5, "episodes": 1e-3}
STATED_FRAMES = 10  # that are sampled of a clip
# Core seconds and bytes for a clip of 5 s of 720p, by `plan --plan.probe 200` on one core of an AMD
# EPYC (docs/scale.md). Another dataset's clips may cost twice as much, or half.
STATED_ERROR = 0.6
STATED = {
    "ingest": Rate(1.0, 0.01, 200, STATED_ERROR),
    "hands": Rate(0.95, 0.35, 11_000, STATED_ERROR),
    "duplicates": Rate(
        0.95, TABLE_STEPS_S["duplicates"], 100, STATED_ERROR,
        work_bytes=STATED_FRAMES * FRAME_BYTES,
    ),
    "tokens": Rate(0.6, 0.5, 3_000, STATED_ERROR),
}  # fmt: skip
STATED_FIXED_S, STATED_SHARD_BYTES, STATED_KEPT = 40.0, 4_500.0, 0.6
PACK_S = 2e-4  # a sample
WORKER_BYTES, DRIVER_BYTES = 700e6, 700e6


@dataclass(frozen=True)
class Basis:
    """What an estimate rests on.

    Attributes:
        rates: by stage.
        kept: share of the ingested clips that goes into shards, 0 to 1.
        kept_error: its standard error, as a share of it.
        clips: ingested clips for each that the annotations list.
        fixed_s: seconds that a run takes however few clips it has.
        shard_bytes: for a kept clip.
        memory_bytes: of the run on the machine that it was tried on.
        told: where it comes from.
        parts: of each table, in the end.
    """

    rates: dict[str, Rate]
    kept: float
    kept_error: float
    clips: float
    fixed_s: float
    shard_bytes: float
    memory_bytes: float
    told: str
    parts: int = BUCKETS


def stated(job: Job) -> Basis | None:
    """The table above; None for robot episodes, whose lengths differ by orders of magnitude."""
    if "hands" not in job.stages:
        return None
    rates = {
        name: STATED.get(name) or Rate(STATED_KEPT, TABLE_STEPS_S.get(name, 0.0), 100, STATED_ERROR)
        for name in job.stages
    }
    told = "stated rates for clips of 5 s in 720p; --plan.probe 200 tries clips of this dataset"
    memory = DRIVER_BYTES + WORKER_BYTES * (os.cpu_count() or 1)
    return Basis(
        rates, STATED_KEPT, 0.3, 1.0, STATED_FIXED_S, STATED_SHARD_BYTES, memory, told
    )  # fmt: skip


def measured(found: Probe, listed: Listed) -> Basis:
    """The rates of the samples' runs.

    Args:
        found: what they told.
        listed: what the annotations list.
    """
    ingested = max(1, found.ingested)
    rates = {
        name: _rate(name, stage, listed.files, ingested, found.runs)
        for name, stage in found.stages.items()
    }
    return Basis(
        rates,
        found.kept / ingested,
        _share_error(found.kept / ingested, found.runs),
        found.ingested / max(1, found.listed),
        found.fixed_s,
        found.shard_bytes / max(1, found.kept),
        found.peak_bytes,
        f"{found.tried:,} clips of its own in {found.wall_s:.0f} s on {found.workers} cores",
        round(BUCKETS * (1 - (1 - 1 / BUCKETS) ** listed.units)),  # buckets that are not empty
    )


def _rate(name: str, stage: Measured, files: float, ingested: int, runs: int) -> Rate:
    share = stage.entered / ingested
    by_workers = stage.spent.clips > 0
    if by_workers:
        for_clip, for_file = stage.spent.rates
        seconds, error = for_clip + files * for_file, min(1.0, stage.spent.error)
    else:
        seconds = TABLE_STEPS_S.get(name, stage.seconds / max(1, stage.entered))
        error = 0.5
    error = math.hypot(error, _share_error(share, runs))
    stored_bytes, part_bytes = stage.stored.rates
    work_bytes = stage.work_bytes / max(1, stage.entered)
    return Rate(share, seconds, stored_bytes, error, stage.gpus, part_bytes, work_bytes)


def _share_error(share: float, runs: int) -> float:
    """Standard error of a share of clips, as a share of it; runs, not clips, are independent."""
    return math.sqrt((1 - share) / max(1, runs) / share) if 0 < share < 1 else 0.0


@dataclass(frozen=True)
class Costs:
    """An estimate; errors are half of an interval of 90 %, as a share of the number.

    Attributes:
        clips: that are ingested.
        core_s: seconds of a core by stage; where workers have GPUs, of their workers.
        gpu_s: seconds of a GPU by stage.
        wall_s: from start to end.
        error: of these.
        table_bytes: tables on disk.
        work_bytes: files on disk while a stage works, at most.
        shard_bytes: shards on disk.
        size_error: of the bytes.
    """

    clips: float
    core_s: dict[str, float]
    gpu_s: dict[str, float]
    wall_s: float
    error: float
    table_bytes: float
    work_bytes: float
    shard_bytes: float
    size_error: float


def costs(
    basis: Basis, listed: int, cores: int, gpus: int, done: Mapping[str, float] = {}
) -> Costs:
    """The costs of a run over all clips, or of what is left of it.

    Args:
        basis: the rates.
        listed: clips that the annotations list.
        cores: that it would have.
        gpus: that it would have.
        done: rows by stage that are stored and stay.
    """
    clips = listed * basis.clips
    work_s = {
        name: max(0.0, clips * rate.share - done.get(name, 0)) * rate.seconds
        for name, rate in basis.rates.items()
    }
    work_s["pack"] = clips * basis.kept * PACK_S
    gpu_s = {name: work_s[name] * rate.gpus for name, rate in basis.rates.items() if rate.gpus}
    on_cores = sum(s for name, s in work_s.items() if name not in gpu_s)
    # Stages on GPUs go on while those on cores do; the longer of the two decides.
    wall_s = basis.fixed_s + max(on_cores / cores, sum(gpu_s.values()) / max(1, gpus))
    variance = sum((work_s[name] * rate.error) ** 2 for name, rate in basis.rates.items())
    error = CONFIDENCE * math.sqrt(variance) / max(1e-9, sum(work_s.values()))
    stored = clips * sum(rate.share * rate.stored_bytes for rate in basis.rates.values())
    stored += basis.parts * sum(rate.part_bytes for rate in basis.rates.values())
    work_bytes = clips * max(rate.share * rate.work_bytes for rate in basis.rates.values())
    return Costs(
        clips, work_s, gpu_s, wall_s, math.hypot(error, MACHINE_ERROR), stored, work_bytes,
        clips * basis.kept * basis.shard_bytes, CONFIDENCE * basis.kept_error + MACHINE_ERROR,
    )  # fmt: skip


def lines(basis: Basis, found: Costs, cores: int, gpus: int) -> Iterator[str]:
    """The estimate in words."""
    yield f"costs, from {basis.told} (the whole of a run; intervals of 90 %):"
    for name, seconds in found.core_s.items():
        if seconds >= 1:
            on = f", {_duration(found.gpu_s[name])} of a GPU" if name in found.gpu_s else ""
            yield f"  {name}: {_duration(seconds)} of a core{on}"
    machine = f"{cores:,} cores" + (f" and {gpus:,} GPUs" if gpus else "")
    yield f"  in all {hours(found)} on {machine}, {_duration(basis.fixed_s)} of them in any case"
    if gpus and not found.gpu_s:
        yield "  the GPUs change nothing here: these rates are of cores, and none of a GPU is known"
    working = f", {_size(found.work_bytes)} while `duplicates` works" if found.work_bytes else ""
    yield (
        f"  disk {_size(found.table_bytes)} of tables and {_size(found.shard_bytes)} of shards "
        f"+- {found.size_error:.0%}{working}; memory {_size(basis.memory_bytes)}"
    )


def hours(found: Costs) -> str:
    """Core-hours, GPU-hours and the time from start to end."""
    core_h, gpu_h = sum(found.core_s.values()) / 3600, sum(found.gpu_s.values()) / 3600
    return (
        f"{_hours(core_h)} core-hours, {_hours(gpu_h)} GPU-hours +- {found.error:.0%}: "
        f"{_duration(found.wall_s)}"
    )


def _hours(hours: float) -> str:
    return f"{hours:,.3f}" if 0 < hours < 1 else f"{hours:,.2f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _size(size: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"
