"""The commands on datasets and runs: `curate`, `plan`, `status` and `report`."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from handloom.errors import RunError, UserError
from handloom.files import whole
from handloom.flags import choice
from handloom.listings import forget_listings
from handloom.pipeline import costs, estimate, output, watching
from handloom.pipeline.batches import count_remaining
from handloom.pipeline.configuration import check_options, read_command, read_options, recorded_job
from handloom.pipeline.counting import Counting
from handloom.pipeline.display import closing_table
from handloom.pipeline.estimate import PlanOptions
from handloom.pipeline.failures import FAILURES, FailedClip, failed_clips, sentences, write_failures
from handloom.pipeline.forecast import lost_to_inputs, lost_to_settings
from handloom.pipeline.job import Job
from handloom.pipeline.probe import probe
from handloom.pipeline.recipes import CurateConfig
from handloom.places import check_bucket, is_remote, place, trust
from handloom.stages.caption.stage import Caption
from handloom.stages.datasets.catalog import ROBOT_FORMATS, VIDEO_FORMATS
from handloom.stages.datasets.source import SourceEpisode
from handloom.stages.ingest import card
from handloom.stages.ingest.episodes import EpisodeIngest, guessed_units
from handloom.stages.ingest.uncut import UncutIngest
from handloom.stages.ingest.videos import Ingest
from handloom.stages.miniatures.catalog import MINIATURES, miniature
from handloom.stages.miniatures.folder import MARKER
from handloom.stages.outside import is_outside
from handloom.stages.pack.fidelity import lines as fidelity_lines
from handloom.stages.pack.stage import check_licences
from handloom.stages.select import Select
from handloom.stages.stage import TableStage
from handloom.stages.tables import funnel
from handloom.stages.tables.altered import altered_rows
from handloom.stages.tables.parts import Table, open_tables, read_flow, read_marker


def curate(args: Sequence[str]) -> None:
    """Run the DAG and print the outcome of every clip."""
    about = "From a dataset's videos or robot episodes to token shards; run it again to resume."
    run_job(read_command(args, "curate", about))


def run_job(job: Job) -> None:
    """Run the DAG and print the outcome of every clip; a job that is run again resumes.

    This is `handloom curate` for programs, which make a job of a recipe (`examples/`).

    Args:
        job: its places may be relative to the present folder.

    Raises:
        UserError: an option, the data or the output folder is wrong.
        RunError: the run failed, or kept no clip.
    """
    job = replace(job, data=job.data.absolute(), out=job.out.absolute())
    check_options(job)
    _check_places(job)
    forget_listings()
    output.check(job.out, job.dataset)
    if not _renders_its_data(job):
        _check_inputs(job)
    with output.claimed(job) as is_ours:
        if _renders_its_data(job):
            if not (job.data / MARKER).is_file():
                print(f"rendering a miniature Ego4D into {job.data}", flush=True)
            with whole(job.data) if is_remote(job.data) else nullcontext(job.data) as folder:
                miniature("ego4d")(folder, seed=0)
            _check_inputs(job)
        _print_lines(list(altered_rows(job.tables)))
        for loss in lost_to_settings(job):
            print(
                f"{loss.stage}: computing again, since {loss.why}; {loss.rows:,} rows thrown away"
            )
        from handloom.pipeline import dag  # Ray: not before the arguments are known to be right

        dag.curate(job, is_ours)
        forget_listings()
        result = funnel.count(job.tables)
    closing_table(job.out, result, fidelity_lines.lines(job.tables))
    failed = list(failed_clips(job.tables))
    _print_failures(failed, write_failures(failed, job.out))
    odd_files = card.warnings(card.read(job.tables["ingest"].folder))
    _print_lines(
        [
            *odd_files,
            *costs.spent(job),
            costs.wasted(job),
            _caption_advice(job),
            _guessed_units(job),
        ]
    )
    print(f"shards: {job.out / 'shards'}\nreport: {job.out / 'report' / 'index.html'}")
    if not result.kept:
        raise RunError("no clip was kept, so the shards are empty; the table above says why.")


def _check_places(job: Job) -> None:
    """Refuse an output folder inside the dataset, where the next run would find it."""
    out, data = job.out.absolute(), job.data.absolute()
    if data in out.parents:
        raise UserError(
            f"--out {job.out} lies in the data folder {job.data}; name a folder outside of it."
        )
    _check_places_of_runs(job)


def _check_places_of_runs(job: Job) -> None:
    """Refuse buckets that are not there, and a run that is to be compared with itself."""
    check_bucket(job.data)
    check_bucket(job.out)
    out = job.out.absolute().resolve()
    for other in job.config.duplicates.against if isinstance(job.config, CurateConfig) else ():
        if place(other).absolute().resolve() == out:
            raise UserError(
                f"--duplicates.against {other} is the run's own folder, expected those of other "
                "runs; leave it out, since clips of one run are compared in any case."
            )


def plan(args: Sequence[str]) -> None:
    """Print what `curate` would do with the same arguments; write nothing."""
    about = "Print what `handloom curate` would do with the same arguments; write nothing."
    job, own = read_options(args, "plan", about, {"plan": PlanOptions()})
    _check_places_of_runs(job)
    output.check(job.out, job.dataset)
    if _renders_its_data(job) and not job.data.is_dir():
        print(f"would render a miniature Ego4D into {job.data}, then compute every stage")
        return
    with Counting(f"reading the annotations of {job.data}", _units_of(job)) as counting:
        _check_inputs(job)
        listed, lines = _count_source(job, counting)
    _print_lines(lines)
    stay, is_done = _print_stored(job)
    _print_lines([*costs.planned(job, listed), _caption_advice(job)])
    _print_lines(list(_estimated(job, own["plan"], listed, stay, is_done)))


@dataclass(frozen=True)
class StatusCommand:
    """Print what a run kept, rejected and failed, stage by stage; it need not be finished."""

    out: Annotated[Path, tyro.conf.Positional]
    """The folder given to `handloom curate` as --out."""
    watch: bool = False
    """Show the progress of a run that goes on, until it ends; from any machine that sees OUT."""
    json: bool = False
    """Print that progress as JSON: clips, rates, seconds left, workers and failures by stage; with
    --watch a line every second."""


def status(command: StatusCommand) -> None:
    """Print the closing table of a run, finished or not; or its progress."""
    if command.json:
        watching.print_json(command.out, again=command.watch)
        return
    if command.watch:
        watching.watch(command.out)
    tables, flow = _stored_tables(command.out)
    if missing := [name for name in flow if name not in tables]:
        print(f"not finished: {', '.join(missing)} not begun")
        for name, table in tables.items():
            print(f"{name}: {table.clip_count()} rows")
        return
    altered = list(altered_rows(tables))
    _print_lines(altered)
    folders = {name: table.folder for name, table in tables.items()}
    folders["pack"] = command.out / "shards"
    unfinished = [name for name, at in folders.items() if not read_marker(at).get("finished")]
    if unfinished:
        print(f"not finished: {', '.join(unfinished)}; the counts below are of what is there")
    is_complete = not altered and not unfinished
    result = funnel.count(tables, complete=is_complete)
    closing_table(command.out, result, fidelity_lines.lines(tables))
    _print_failures(failed_clips(tables), command.out / FAILURES)


@dataclass(frozen=True)
class ReportCommand:
    """Write the report of a run again, report/index.html, from its tables and media."""

    out: Annotated[Path, tyro.conf.Positional]
    """The folder given to `handloom curate` as --out."""


def report(command: ReportCommand) -> None:
    """Write report/index.html of a run again."""
    from handloom.stages.report import page as pages

    if not (command.out / "tables").is_dir():
        recorded_job(command.out)  # for its error about a folder that is no run's
    tables, flow = _stored_tables(command.out)
    missing = [f"{name}: its table is missing" for name in flow if name not in tables]
    if incomplete := [*missing, *altered_rows(tables)]:
        raise UserError(
            f"{'; '.join(incomplete)}. The report waits for that: run `handloom curate` again."
        )
    print(pages.write(tables, recorded_job(command.out).stages, command.out))


def _stored_tables(out: Path) -> tuple[dict[str, Table], dict[str, str]]:
    """A run's tables, and the gates of all its stages, also of those without a table yet."""
    open_tables(out)  # first, for its error about a folder that is no run's
    flow = read_flow(out) or recorded_job(out).flow
    return open_tables(out, flow), flow


def _guessed_units(job: Job) -> str:
    ingest = job.stages["ingest"]
    return guessed_units(job.tables["ingest"]) if isinstance(ingest, EpisodeIngest) else ""


def _caption_advice(job: Job) -> str:
    """A sentence on giving a model, where the texts alone describe little."""
    stage = job.stages["caption"]
    return stage.advice(job.config.ingest.adapter.text_kind) if isinstance(stage, Caption) else ""


def _print_lines(lines: Sequence[str]) -> None:
    for line in filter(None, lines):
        print(line)


def _renders_its_data(job: Job) -> bool:
    """True for the sample without --data: its source is rendered into the output folder."""
    return job.dataset == "sample" and job.data == job.out / "source"


def _check_inputs(job: Job) -> None:
    """Check data and models, which the fingerprints need, before anything runs."""
    ingest = job.config.ingest
    if not is_outside(ingest.format):
        formats = VIDEO_FORMATS if isinstance(ingest, Ingest) else ROBOT_FORMATS
        choice(ingest.format, formats, "format")
    if job.data.is_file():
        raise UserError(
            f"--data {job.data} is a file, expected the {job.dataset} folder; name the folder that "
            "holds it."
        )
    if not job.data.is_dir():
        rehearse = (
            f" To rehearse without it: `handloom sample {job.dataset} --out DIR`, then --data DIR."
        )
        raise UserError(
            f"{job.data} is not there; name the {job.dataset} folder with --data (make: DATA=…). "
            f"{ingest.adapter.how_to_get}{rehearse if job.dataset in MINIATURES else ''}"
        )
    trust(job.data)
    check_licences([ingest.licence_class], job.config.pack.licences)
    _check_marks(job)
    if isinstance(placed := job.stages["ingest"], UncutIngest):
        _print_lines(placed.survey())


def _check_marks(job: Job) -> None:
    """Refuse marks of clips that are not there before any row is thrown away for them."""
    select, ingest = job.stages.get("select"), job.tables["ingest"]
    is_known = read_marker(ingest.folder).get("finished") and ingest.parts()
    if is_known and isinstance(select, Select) and select.marks:
        select.marks.check(ingest)


def _count_source(job: Job, counting: Counting) -> tuple[int, list[str]]:
    """Roughly the number of clips, and lines that count the annotated videos and spans."""
    clips = 0
    spans: Counter[str] = Counter()
    units: Counter[str] = Counter()
    ingest = job.stages["ingest"]
    assert isinstance(ingest, Ingest | EpisodeIngest)
    for source in ingest.sources():
        counting.count += 1
        left_out = source.reason or ("unreadable" if getattr(source, "error", "") else "")
        units[left_out or "to read"] += 1
        if not left_out:
            listed = getattr(source, "spans", ())  # speech is cut later, an episode has none
            clips += sum(not span.reason for span in listed) if listed else source.clips
        if not isinstance(source, SourceEpisode):
            spans.update(left_out or span.reason or "to read" for span in source.spans)
    counted = ((_units_of(job), units), ("spans", spans))
    return clips, [f"{name}: {_by_reason(counts)}" for name, counts in counted if counts]


def _units_of(job: Job) -> str:
    return "videos" if isinstance(job.config.ingest, Ingest) else "episodes"


def _by_reason(counts: Counter[str]) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in counts.most_common())


def _estimated(
    job: Job, options: PlanOptions, listed: int, stay: dict[str, int], is_done: bool
) -> Iterator[str]:
    """Lines on what a run over all clips costs, and what is left of it."""
    basis = estimate.measured(*probe(job, options.probe)) if options.probe else estimate.stated(job)
    if basis is None:
        yield "costs: of robot episodes no rates are stated; --plan.probe 50 tries some of these"
        return
    cores = options.cores or job.config.run.workers or job.config.run.num_cpus or os.cpu_count()
    gpus = options.gpus or 0
    found = estimate.costs(basis, listed, cores or 1, gpus)
    yield from estimate.lines(basis, found, cores or 1, gpus)
    if is_done:
        yield "  all of it is done but for the shards and the report, if they are not there"
    elif any(stay.values()):
        left = estimate.costs(basis, listed, cores or 1, gpus, stay)
        yield f"  left to do of it: {estimate.hours(left)} on these"


def _print_stored(job: Job) -> tuple[dict[str, int], bool]:
    """Print what is stored of each stage, what is left to do, and what would be thrown away.

    Returns:
        Rows by stage that would stay, as far as that is known; and whether no stage has any clip
        to do.
    """
    renewed = {loss.stage: loss for loss in lost_to_settings(job)}
    found, renewal = lost_to_inputs(job, {*renewed}, _print_foreseen)
    losses = {loss.stage: loss for loss in found}
    stay, is_done = {}, not renewed and not losses
    is_done &= bool(read_marker(job.folder("ingest")).get("finished"))
    for stage, table in job.tables.items():
        if stage in renewed:
            rows = renewed[stage].rows
            print(
                f"{stage}: everything again, since {renewed[stage].why}; {rows:,} rows thrown away"
            )
        elif not table.parts():
            print(f"{stage}: nothing stored yet")
            is_done = False
        else:
            left = None if "ingest" in renewed else count_remaining(job, stage)
            is_done &= not left
            more = f", {left} clips to do of those ingested" if left is not None else ""
            more = ", new videos only" if stage == "ingest" else more
            if isinstance(job.stages[stage], TableStage) and (renewed or losses):
                more = ", made again where anything that it reads changes"
            print(f"{stage}: {table.clip_count()} rows stored{more}")
            stay[stage] = table.clip_count() - (losses[stage].rows if stage in losses else 0)
        if stage == "ingest" and renewal:
            print(renewal)
        if stage in losses:
            print(losses[stage])
    return stay, is_done


def _print_foreseen(clips: int) -> None:
    print(f"ingest: {clips:,} clips of the annotations compared with the stored ones", flush=True)


def _print_failures(failed: Iterable[FailedClip], where: Path) -> None:
    """Print the errors of failed clips, and how to try them again."""
    lines = sentences(failed)
    print(*lines, sep="\n", end="\n" if lines else "")
    if lines:
        print(f"all failed clips: {where}")
        print("after repairing the files, --retry-failed tries them again")
