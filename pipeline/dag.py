"""The curation DAG on Ray: one task for each stage, which waits for the stages before it.

    ingest -> hands -> duplicates -> select -> (caption, tokens) -> pack -> report     videos
    ingest -> episodes -> (caption, tokens) -> pack -> report                  robot episodes

The edges come from the stages (`stages/graph.py`). A stage's task takes no core: it hands batches
to its pool of workers, which take one each.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError

from handloom.files import remove_temporaries
from handloom.pipeline.batches import (
    count_remaining,
    forget_failed,
    readmit_missing,
    reject_duplicates,
    remaining,
)
from handloom.pipeline.display import Display
from handloom.pipeline.job import Job
from handloom.pipeline.pool import Counts, Pool, work
from handloom.pipeline.progress import Progress
from handloom.pipeline.recipes import EpisodeConfig, Run
from handloom.pipeline.session import import_path, session
from handloom.stages.ingest import card
from handloom.stages.pack.fidelity.measure import measured
from handloom.stages.pack.stage import plan_shards, write_planned
from handloom.stages.pack.statistics import Trajectories, shard_trajectories
from handloom.stages.report import page as report
from handloom.stages.stage import TableStage
from handloom.stages.tables.merging import complete_merges, merge_parts
from handloom.stages.tables.parts import effort, read_marker, write_marker
from handloom.tokenize.shards import SPLITS, ShardInfo, sha256_file, shard_path, write_manifest

CLIPS_HERE = 512  # up to so many are packed by the task itself, before a worker would have started
NO_EFFORT = {"computed": 0, "seconds": 0.0}


def curate(job: Job) -> None:
    """Run the whole DAG; rows that are already stored are not computed again."""
    with session(job) as is_shared, Display(job) as display:
        path = import_path(job)
        own = {"runtime_env": {"env_vars": path}} if is_shared and path else {}
        progress = ray.remote(num_cpus=0)(Progress).remote([*job.flow, "pack", "report"])
        tasks: dict[str, Any] = {}
        for name, gate in job.flow.items():
            before = [tasks[other] for other in sorted({gate, *job.stages[name].reads} - {""})]
            tasks[name] = run_stage.options(**own).remote(name, job, progress, *before)
        tasks["pack"] = pack.options(**own).remote(job, progress, *tasks.values())
        tasks["report"] = write_report.options(**own).remote(job, progress, tasks["pack"])
        try:
            display.follow(progress, list(tasks.values()))
        except RayTaskError as error:
            raise error.cause from None
        finally:
            if is_shared:  # a stage beside the one that failed would go on after the run
                ray.wait(list(tasks.values()), num_returns=len(tasks))


@ray.remote(num_cpus=0, max_retries=0)
def run_stage(name: str, job: Job, progress: Any, *before: None) -> None:
    """Compute the missing rows of one stage, then write its marker."""
    table = job.tables[name]
    complete_merges(table)
    table.clear_stale()
    attempts = forget_failed(job, name) if job.retry_failed else {}
    if name == "ingest":
        readmit_missing(job)
    marker = {"fingerprint": table.fingerprint, "settings": job.settings[name]}
    if isinstance(job.stages[name], TableStage):
        marker["inputs"] = job.inputs(name)
    spent = _effort_so_far(table.folder, table.fingerprint)
    left = count_remaining(job, name)
    write_marker(table.folder, marker | spent | {"finished": False})
    started = time.monotonic()
    progress.start.remote(name, left)
    computed = 0
    for counts in _work(job, name, attempts) if left != 0 else ():
        computed += sum(counts.values())
        progress.advance.remote(name, dict(counts))
    if name == "ingest":
        reject_duplicates(job)
        card.write(table, job.config.ingest, job.cache)
    merge_parts(table)
    write_marker(table.folder, marker | _add(spent, computed, started) | {"finished": True})
    ray.get(progress.finish.remote(name))  # before the task ends, or the last line misses it


def _work(job: Job, name: str, attempts: dict[str, int]) -> Iterator[Counts]:
    """Compute the missing rows in a pool of workers; those of light stages in this task."""
    stage, table, run = job.stages[name], job.tables[name], job.config.run
    if isinstance(stage, TableStage):
        table.clear()  # a decision may depend on other clips: all are made again
        return stage.write(job.tables, table)
    if stage.light:
        return (work(stage, table, batch, attempts) for batch in remaining(job, name))
    size = pool_size(run, stage.wants_gpu, ray.cluster_resources())
    return Pool(stage, table, attempts, clip_timeout_s=run.clip_timeout_s, **size).run(
        remaining(job, name)
    )


def pool_size(run: Run, wants_gpu: bool, resources: dict[str, float]) -> dict[str, Any]:
    """Number of workers of a stage, and the GPUs and cores that each takes.

    A worker on a GPU reads pictures on cores of its own, or the GPU would wait for them.
    """
    all_cores = int(resources["CPU"])
    on_gpus = int(resources.get("GPU", 0) / run.gpu_share + 1e-6) if run.gpu_share else 0
    if not (wants_gpu and on_gpus):
        return {"workers": min(run.workers or all_cores, all_cores)}
    workers = min(run.workers or on_gpus, on_gpus, all_cores)
    cores = max(1, min(run.gpu_cores, all_cores // workers))
    return {"workers": workers, "gpus": run.gpu_share, "cores": cores}


def _effort_so_far(folder: Path, fingerprint: str) -> dict[str, Any]:
    """Clips and seconds of earlier runs under the same fingerprint."""
    if read_marker(folder).get("fingerprint") != fingerprint:
        return NO_EFFORT
    computed, seconds, _ = effort(folder)
    return {"computed": computed, "seconds": seconds}


def _add(spent: dict[str, Any], computed: int, started: float) -> dict[str, Any]:
    seconds = spent["seconds"] + (time.monotonic() - started if computed else 0.0)
    return {
        "computed": spent["computed"] + computed,
        "seconds": round(seconds, 2),
        "computed_last": computed,
    }


@ray.remote(num_cpus=0, max_retries=0)
def pack(job: Job, progress: Any, *before: None) -> None:
    """Write the shards, unless those in the folder were made from the same rows."""
    inputs, root = job.pack_inputs(), job.folder("pack")
    marker = read_marker(root)
    if marker.get("finished") and marker.get("inputs") == inputs:
        write_marker(root, marker | {"computed_last": 0})
        ray.get(progress.finish.remote("pack"))
        return
    started = time.monotonic()
    (root / "manifest.json").unlink(missing_ok=True)  # it is written last: without it, unfinished
    if marker.get("inputs") != inputs:
        for path in root.glob("*/*.*"):
            path.unlink()
        write_marker(root, {"inputs": inputs, "finished": False})
    for split in SPLITS:
        remove_temporaries(root / split)
    plans = plan_shards(job.tables, job.config.pack)
    measuring = _measure_tokenizer.remote(job)
    progress.start.remote("pack", sum(plan.count for plan in plans))
    shards: dict[str, list[ShardInfo]] = {"train": [], "val": []}
    trajectories = Trajectories()
    for plan, (info, of_shard) in zip(plans, _write_all(job, plans), strict=True):
        shards[plan.split].append(info)
        trajectories = trajectories.merged(of_shard)
        progress.advance.remote("pack", {"ok": info.samples})
    facts = {"trajectories": trajectories.facts()} if "episodes" in job.stages else {}
    write_manifest(root, shards, **_manifest_facts(job, ray.get(measuring)) | facts)
    spent = _add(NO_EFFORT, sum(plan.count for plan in plans), started)
    write_marker(root, {"inputs": inputs, "finished": True} | spent)
    ray.get(progress.finish.remote("pack"))


def _write_all(job: Job, plans: list[Any]) -> Iterator[tuple[ShardInfo, Trajectories]]:
    """Write the shards in parallel, each in a task of one core; those already there are kept."""
    root = job.folder("pack")
    if sum(plan.count for plan in plans) <= CLIPS_HERE:
        yield from (_shard(job, plan, root) for plan in plans)
        return
    # Two tasks a core keep all cores busy while results are taken in the order of the shards.
    window = 2 * int(ray.cluster_resources()["CPU"])
    refs: list[Any] = []
    for plan in plans:
        refs.append(_write_shard.remote(job, plan, root))
        if len(refs) > window:
            yield ray.get(refs.pop(0))
    yield from (ray.get(ref) for ref in refs)


@ray.remote(num_cpus=1, max_retries=0)
def _write_shard(job: Job, plan: Any, root: Path) -> tuple[ShardInfo, Trajectories]:
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


@ray.remote(num_cpus=1, max_retries=0)
def _measure_tokenizer(job: Job) -> dict[str, Any]:
    """PSNR and the like of a sample of the kept clips, for the manifest; {} where there is none."""
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


@ray.remote(num_cpus=1, max_retries=0)
def write_report(job: Job, progress: Any, *before: None) -> None:
    """Write report/index.html, unless the one in the folder shows the same rows."""
    inputs, root = job.pack_inputs(), job.out / "report"
    if read_marker(root).get("inputs") != inputs or not (root / "index.html").exists():
        progress.start.remote("report", None)
        report.write(job.tables, job.stages, job.out)
        write_marker(root, {"inputs": inputs})
    ray.get(progress.finish.remote("report"))
