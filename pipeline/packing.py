"""The last tasks of a run: shards from the tables, and the report."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from handloom.files import remove_temporaries
from handloom.listings import forget_listings
from handloom.pipeline import progress
from handloom.pipeline.crew import Crew
from handloom.pipeline.job import Job
from handloom.pipeline.losses import DEATHS, is_loss, is_of_cluster
from handloom.pipeline.progress import Line, Reporter
from handloom.pipeline.recipes import EpisodeConfig
from handloom.places import trust
from handloom.stages.pack.fidelity.measure import measured
from handloom.stages.pack.stage import plan_shards, write_planned
from handloom.stages.pack.statistics import Trajectories, shard_trajectories
from handloom.stages.report import page as report
from handloom.stages.tables.parts import read_marker, write_marker
from handloom.tokenize.shards import SPLITS, ShardInfo, sha256_file, shard_path, write_manifest

POLL_S = 0.1
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
    plans = plan_shards(job.tables, job.config.pack)
    count = sum(plan.count for plan in plans)
    if count > CLIPS_HERE:  # the tasks that write shards take cores
        crew.dismiss()
    measuring = crew.start(measure_tokenizer, job)
    reporter.start(count)
    shards: dict[str, list[ShardInfo]] = {"train": [], "val": []}
    trajectories = Trajectories()
    for plan, (info, of_shard) in zip(plans, _write_all(job, plans), strict=True):
        shards[plan.split].append(info)
        trajectories = trajectories.merged(of_shard)
        reporter.advance({"ok": info.samples})
    facts = {"trajectories": trajectories.facts()} if "episodes" in job.stages else {}
    write_manifest(root, shards, **_manifest_facts(job, measuring()) | facts)
    seconds = round(time.monotonic() - started, 2) if count else 0.0
    effort = {"computed": count, "seconds": seconds, "computed_last": count}
    write_marker(root, {"inputs": inputs, "finished": True} | effort)
    return reporter.finish()


def _write_all(job: Job, plans: list[Any]) -> Iterator[tuple[ShardInfo, Trajectories]]:
    """Write the shards in parallel, each in a task of one core; those already there are kept."""
    root = job.folder("pack")
    if sum(plan.count for plan in plans) <= CLIPS_HERE:
        yield from (_shard(job, plan, root) for plan in plans)
        return
    written: deque[tuple[Any, Any]] = deque()
    for plan in plans:
        written.append((plan, _write_shard.remote(job, plan, root)))
        # Two tasks a core keep all cores busy while results are taken in the order of the shards.
        while len(written) > max(4, 2 * int(ray.cluster_resources().get("CPU", 0))):
            yield _taken(job, *written.popleft())
    while written:
        yield _taken(job, *written.popleft())


def _taken(job: Job, plan: Any, ref: Any) -> tuple[ShardInfo, Trajectories]:
    """A shard's result; one whose task was lost is written again."""
    deaths = 0
    while True:
        try:
            result: tuple[ShardInfo, Trajectories] = ray.get(ref)
            return result
        except Exception as error:
            deaths += not is_of_cluster(error)
            if not is_loss(error) or deaths >= DEATHS:
                raise
            ref = _write_shard.remote(job, plan, job.folder("pack"))


@ray.remote(num_cpus=1, max_retries=0)
def _write_shard(job: Job, plan: Any, root: Path) -> tuple[ShardInfo, Trajectories]:
    forget_listings()
    return _shard(job, plan, root)


def _shard(job: Job, plan: Any, root: Path) -> tuple[ShardInfo, Trajectories]:
    path = shard_path(root, plan.split, plan.number)
    index = path.with_suffix(".index.arrow")
    if path.exists() and index.exists():  # from a killed run with the same inputs
        size = path.stat().st_size
        info = ShardInfo(path.name, plan.count, size, sha256_file(path), sha256_file(index))
    else:
        info = write_planned(job.tables, plan, root)
    robots = "episodes" in job.stages
    return info, shard_trajectories(path, plan.split) if robots else Trajectories()


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


def draw_report(job: Job) -> report.Draft:
    """Draw the report's pictures; checks the node first, which may be any."""
    forget_listings()
    trust(job.data)
    job.expected.check()
    return report.draft(job.tables, job.stages)


def write_report(job: Job, crew: Crew) -> Line:
    """Write report/index.html, unless the one in the folder shows the same rows.

    Its pictures are drawn while `pack` measures the tokenizer, whose numbers it shows.
    """
    forget_listings()
    job.expected.check()
    reporter = Reporter(job.out, "report")
    inputs, root = job.pack_inputs(), job.out / "report"
    if read_marker(root).get("inputs") != inputs or not (root / "index.html").exists():
        draft = crew.start(draw_report, job)()
        while not progress.has_ended(job.out, job.run_id, "pack"):
            time.sleep(POLL_S)
        reporter.start(None)
        crew.start(report.write, job.tables, job.stages, job.out, draft)()
        write_marker(root, {"inputs": inputs})
    return reporter.finish()
