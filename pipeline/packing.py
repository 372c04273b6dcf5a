"""The last tasks of a run: shards from the tables, and the report."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from handloom.files import remove_temporaries
from handloom.listings import forget_listings
from handloom.pipeline import progress
from handloom.pipeline.crew import Crew
from handloom.pipeline.job import Job
from handloom.pipeline.progress import Line, Reporter
from handloom.pipeline.recipes import EpisodeConfig
from handloom.pipeline.spread import gathered, spread
from handloom.places import trust
from handloom.stages.pack.fidelity.measure import measured
from handloom.stages.pack.stage import kept_counts, plan_shards
from handloom.stages.pack.statistics import Trajectories, shard_trajectories
from handloom.stages.pack.stretches import (
    Share,
    Stretch,
    clear_pieces,
    is_written,
    plan_stretches,
    seams,
    write_seam,
    write_stretch,
)
from handloom.stages.report import page as report
from handloom.stages.report.gallery import Gallery
from handloom.stages.tables.parts import read_marker, write_marker
from handloom.tokenize.shards import SPLITS, ShardInfo, sha256_file, shard_path, write_manifest

POLL_S = 0.1
Key = tuple[str, int]  # split and number of a shard
Written = tuple[ShardInfo, Trajectories]
Writer = Callable[[Job, Any], dict[Key, Written]]

CLIPS_HERE = 512  # up to so many are packed by the task itself, before a worker would have started


def pack(job: Job, crew: Crew) -> Line:
    """Write the shards, unless those in the folder were made from the same rows."""
    forget_listings()
    trust(job.data)
    job.expected.check()
    reporter = Reporter(job.out, "pack")
    inputs, root = job.pack_inputs(), job.folder("pack")
    marker = read_marker(root)
    if marker.get("finished") and marker.get("inputs") == inputs:
        write_marker(root, marker | {"computed_last": 0})
        return reporter.finish()
    started = time.monotonic()
    (root / "manifest.json").unlink(missing_ok=True)  # it is written last: without it, unfinished
    if marker.get("inputs") != inputs:
        for path in root.glob("*/*.*"):
            path.unlink()
        write_marker(root, {"inputs": inputs, "finished": False})
    for split in SPLITS:
        remove_temporaries(root / split)
    counts = kept_counts(job.tables, job.config.pack)
    plans = plan_shards(counts, job.config.pack)
    stretches = plan_stretches(counts, job.config.pack.samples_per_shard, job.config.pack.layout)
    count = sum(plan.count for plan in plans)
    if count > CLIPS_HERE:  # the tasks that write shards take cores
        crew.dismiss()
    measuring = crew.start(measure_tokenizer, job)
    reporter.start(count)
    written: dict[Key, Written] = {}
    for some in _write_all(job, stretches, here=count <= CLIPS_HERE):
        written |= some
        reporter.advance({"ok": sum(info.samples for info, _ in some.values())})
    shards: dict[str, list[ShardInfo]] = {"train": [], "val": []}
    trajectories = Trajectories()
    for plan in plans:
        info, of_shard = written[plan.split, plan.number]
        shards[plan.split].append(info)
        trajectories = trajectories.merged(of_shard)
    clear_pieces(root)
    facts = {"trajectories": trajectories.facts()} if "episodes" in job.stages else {}
    write_manifest(root, shards, **_manifest_facts(job, measuring()) | facts)
    seconds = round(time.monotonic() - started, 2) if count else 0.0
    effort = {"computed": count, "seconds": seconds, "computed_last": count}
    write_marker(root, {"inputs": inputs, "finished": True} | effort)
    return reporter.finish()


def _write_all(job: Job, stretches: list[Stretch], here: bool) -> Iterator[dict[Key, Written]]:
    """Write the shards; those already there are kept. Each stretch is a task of one core, and then
    each shard that lies across stretches.

    Args:
        job: the run.
        stretches: what to write.
        here: write all in this process.
    """
    yield from _work(job, [(_stretch, stretch) for stretch in stretches], here)
    yield from _work(job, [(_seam, pieces) for pieces in seams(stretches).values()], here)


def _work(job: Job, tasks: list[tuple[Writer, Any]], here: bool) -> Iterator[dict[Key, Written]]:
    return spread(job.data, [partial(write, job, work) for write, work in tasks], here)


def _stretch(job: Job, stretch: Stretch) -> dict[Key, Written]:
    """Write a stretch; returns the shards that are whole by it."""
    root = job.folder("pack")
    infos = write_stretch(job.tables, stretch, root)
    return {
        (one.split, one.shard): _written(job, one, root, infos.get(one))
        for one in stretch.written()
    }


def _seam(job: Job, pieces: list[tuple[Stretch, Share]]) -> dict[Key, Written]:
    """Put a shard together, unless that was done before a kill."""
    root, (_, share) = job.folder("pack"), pieces[0]
    share = replace(share, count=sum(one.count for _, one in pieces))
    info = None if is_written(root, share) else write_seam(pieces, root)
    return {(share.split, share.shard): _written(job, share, root, info)}


def _written(job: Job, share: Share, root: Path, info: ShardInfo | None) -> Written:
    """The manifest's line on a shard, None where a killed run has written it; its trajectories."""
    path = shard_path(root, share.split, share.shard)
    if info is None:
        hashes = sha256_file(path), sha256_file(path.with_suffix(".index.arrow"))
        info = ShardInfo(path.name, share.count, path.stat().st_size, *hashes)
    robots = "episodes" in job.stages
    return info, shard_trajectories(path, share.split) if robots else Trajectories()


def measure_tokenizer(job: Job) -> dict[str, Any]:
    """PSNR and the like of a sample of the kept clips, for the manifest; {} where there is none."""
    forget_listings()
    trust(job.data)
    found: dict[str, Any] = measured(job.tables, job.stages).get("fidelity", {})
    return found


def _manifest_facts(job: Job, fidelity: dict[str, Any]) -> dict[str, Any]:
    tokenizer = job.config.tokens.tokenizer()
    told = {"fidelity": fidelity} if fidelity else {}
    size = {name: tokenizer[name] for name in ("resolution", "resize_rule")}
    settings = {name: job.settings[name] for name in job.stages}
    return {
        "tokenizer": tokenizer | {"model": job.config.tokens.model} | told,
        "frames": _sampling(job) | size,
        "dataset": job.dataset,
        "config": settings | {"pack": asdict(job.config.pack)},
    }


def _sampling(job: Job) -> dict[str, Any]:
    if isinstance(job.config, EpisodeConfig):
        return {"sampling": "every step of the episode", "hz": job.config.episodes.hz}
    if job.config.tokens.spacing_s is not None:
        sampling = "at a fixed spacing"
        return {"spacing_s": job.config.tokens.spacing_s, "sampling": sampling, "views": ["main"]}
    sampling = "middle of equal slices of the clip"
    return {"count": job.config.tokens.frames, "sampling": sampling, "views": ["main"]}


def draw_report(job: Job, gallery: Gallery | None) -> report.Draft:
    """Draw the report's pictures; checks the node first, which may be any."""
    forget_listings()
    trust(job.data)
    job.expected.check()
    return report.draft(job.tables, job.stages, gallery)


def write_report(job: Job, crew: Crew) -> Line:
    """Write report/index.html, unless the one in the folder shows the same rows.

    Its pictures are drawn while `pack` measures the tokenizer, whose numbers it shows.
    """
    forget_listings()
    job.expected.check()
    reporter = Reporter(job.out, "report")
    inputs, root = job.pack_inputs(), job.out / "report"
    if read_marker(root).get("inputs") != inputs or not (root / "index.html").exists():
        draft = crew.start(draw_report, job, gathered(job, crew))()
        while not progress.has_ended(job.out, job.run_id, "pack"):
            time.sleep(POLL_S)
        reporter.start(None)
        crew.start(report.write, job.tables, job.stages, job.out, draft)()
        write_marker(root, {"inputs": inputs})
    return reporter.finish()
