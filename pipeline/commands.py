"""The commands on datasets and runs: `curate`, `plan`, `status` and `report`."""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from handloom.cli import choice, parse
from handloom.errors import RunError, UserError
from handloom.pipeline import costs, output
from handloom.pipeline.batches import count_remaining
from handloom.pipeline.display import closing_table
from handloom.pipeline.job import Job
from handloom.pipeline.recipes import RECIPES, CurateConfig, EpisodeConfig
from handloom.stages.caption.stage import Caption
from handloom.stages.datasets.catalog import ROBOT_FORMATS, VIDEO_FORMATS
from handloom.stages.datasets.source import SourceEpisode
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.ingest.videos import Ingest
from handloom.stages.miniatures.catalog import miniature
from handloom.stages.pack.stage import check_licences
from handloom.stages.tables import funnel
from handloom.stages.tables.parts import open_tables
from handloom.stages.tables.rows import EpisodePlace, Row


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Arguments of `curate` and `plan` beside the options of the stages."""

    dataset: Annotated[str, tyro.conf.Positional]
    """sample, ego4d, howto100m, ssv2, epic_kitchens, kinetics700, rt1, bridge, calvin, rlds, hdf5
    or lerobot"""
    data: Path | None = None
    """Folder of the dataset; by default data/DATASET. `sample` writes its own."""
    out: Path | None = None
    """Folder for everything that is written; by default runs/DATASET."""
    config: Path | None = None
    """YAML file with options by stage; flags override it."""
    retry_failed: bool = False
    """Try the failed clips again."""


@dataclass(frozen=True, kw_only=True)
class CurateCommand(_Places, CurateConfig):
    """From a dataset's videos to token shards. Run the same command again to resume."""


@dataclass(frozen=True, kw_only=True)
class EpisodesCommand(_Places, EpisodeConfig):
    """From robot episodes to token shards. Run the same command again to resume."""


def read_command(args: Sequence[str], name: str) -> Job:
    """Parse the arguments of `curate` and `plan`: the recipe, then --config, then the flags.

    Raises:
        UserError: an unknown dataset or option, or a configuration file that cannot be used.
    """
    named = [a for a in args[:1] if not a.startswith("-")]
    dataset = choice(named[0], RECIPES, "dataset") if named else "sample"
    base = RECIPES[dataset]()
    kind = EpisodesCommand if isinstance(base, EpisodeConfig) else CurateCommand
    default = kind(dataset=dataset, **{f.name: getattr(base, f.name) for f in fields(base)})
    if not named and not {"-h", "--help"} & set(args):
        raise UserError(f"{name} needs a dataset; handloom knows {', '.join(RECIPES)}.")
    command = parse(kind, [*args, *_yaml_flags(args)], name, default=default)
    config = type(base)(**{f.name: getattr(command, f.name) for f in fields(base)})
    out = command.out or Path("runs") / dataset
    data = command.data or (out / "source" if dataset == "sample" else Path("data") / dataset)
    return Job(dataset, data.absolute(), out.absolute(), config, command.retry_failed)


def curate(args: Sequence[str]) -> None:
    """Run the DAG and print where every clip went."""
    job = read_command(args, "curate")
    output.check(job.out, job.dataset)
    if not _renders_its_data(job):
        _check_inputs(job)
    with output.claimed(job):
        if _renders_its_data(job):
            print(f"rendering a miniature Ego4D into {job.data}", flush=True)
            miniature("ego4d")(job.data, seed=0)
            _check_inputs(job)
        for stage in job.stages:
            if changes := job.changes(stage):
                print(f"{stage}: computing again, since {', '.join(changes)}")
        from handloom.pipeline import dag  # Ray: not before the arguments are known to be right

        dag.curate(job)
        result = funnel.count(job.tables)
    closing_table(job.out, result)
    _print_failures(job.out)
    _print_lines([*costs.spent(job), _caption_advice(job)])
    print(f"shards: {job.out / 'shards'}\nreport: {job.out / 'report' / 'index.html'}")
    if not result.kept:
        raise RunError("no clip was kept, so the shards are empty; the table above says why.")


def plan(args: Sequence[str]) -> None:
    """Print what `curate` would do with the same arguments; write nothing."""
    job = read_command(args, "plan")
    output.check(job.out, job.dataset)
    if _renders_its_data(job) and not job.data.is_dir():
        print(f"would render a miniature Ego4D into {job.data}, then compute every stage")
        return
    _check_inputs(job)
    listed = _print_source(job)
    for stage, table in job.tables.items():
        changes = job.changes(stage)
        if changes:
            print(f"{stage}: everything again, since {', '.join(changes)}")
        elif not table.parts():
            print(f"{stage}: nothing stored yet")
        else:
            left = count_remaining(job, stage)
            more = "new videos only" if left is None else f"{left} clips to do"
            print(f"{stage}: {len(table.values('clip_id'))} rows stored, {more}")
    _print_lines([*costs.planned(job, listed), _caption_advice(job)])


def status(out: Path) -> None:
    """Print the closing table of a run, finished or not."""
    tables = open_tables(out)
    wanted = funnel.flow(output.read_run(out)["config"])
    if len(tables) < len(wanted):
        missing = [name for name in wanted if name not in tables]
        print(f"not finished: {', '.join(missing)} not begun")
        for name, table in tables.items():
            print(f"{name}: {len(table.values('clip_id'))} rows")
        return
    closing_table(out, funnel.count(tables, complete=(out / "shards/manifest.json").is_file()))
    _print_failures(out)


def report(out: Path) -> None:
    """Write report/index.html of a run again."""
    from handloom.stages.report import page as pages

    record = output.read_run(out)
    job = Job(record["dataset"], Path(record["data"]), out, _recorded_config(record))
    print(pages.write(open_tables(out), job.stages, out))


def reopen_episode(out: Path, row: dict[str, Any]) -> Any:
    """The views of a robot episode, from a row of its run's ingest table."""
    known = {f.name for f in fields(EpisodePlace)}
    place = EpisodePlace(**{key: value for key, value in row.items() if key in known})
    return _recorded_ingest(out).reopen(place).views


@cache
def _recorded_ingest(out: Path) -> EpisodeIngest:
    record = output.read_run(out)
    ingest = _recorded_config(record).ingest.at(Path(record["data"]))
    assert isinstance(ingest, EpisodeIngest)
    return ingest


def _recorded_config(record: dict[str, Any]) -> CurateConfig | EpisodeConfig:
    """The configuration that run.yaml holds, less options that this version does not know."""
    base = RECIPES[choice(record["dataset"], RECIPES, "dataset")]()
    found = {}
    for part in fields(base):
        default = getattr(base, part.name)
        stored = record["config"].get(part.name, {})
        found[part.name] = _with_stored(default, stored)
    return type(base)(**found)


def _with_stored(default: Any, stored: dict[str, Any]) -> Any:
    """Options with the stored values of those that are still known."""
    known = {}
    for option in fields(default):
        if option.name in stored:
            value, before = stored[option.name], getattr(default, option.name)
            if is_dataclass(before):
                known[option.name] = _with_stored(before, value)
            else:
                known[option.name] = tuple(value) if isinstance(value, list) else value
    return replace(default, **known)


def _caption_advice(job: Job) -> str:
    """That texts which say little are all there is, where a model would help."""
    stage = job.stages["caption"]
    return stage.advice(job.config.ingest.adapter.text_kind) if isinstance(stage, Caption) else ""


def _print_lines(lines: Sequence[str]) -> None:
    for line in filter(None, lines):
        print(line)


def _renders_its_data(job: Job) -> bool:
    """Whether this is the sample without --data: its source is rendered into the output folder."""
    return job.dataset == "sample" and job.data == job.out / "source"


def _check_inputs(job: Job) -> None:
    """Read what the fingerprints need, so that missing data and models are told of at once."""
    ingest = job.config.ingest
    choice(ingest.format, VIDEO_FORMATS if isinstance(ingest, Ingest) else ROBOT_FORMATS, "format")
    if not job.data.is_dir():
        raise UserError(
            f"{job.data} is not there; name the {job.dataset} folder with --data (make: DATA=…). "
            f"{ingest.adapter.how_to_get} To rehearse without it: `handloom sample "
            f"{job.dataset} --out DIR`, then --data DIR."
        )
    check_licences([ingest.licence_class], job.config.pack.licences)
    _ = job.tables


def _print_source(job: Job) -> int:
    """Say what the annotations list; returns about how many clips that is."""
    clips = 0
    spans: Counter[str] = Counter()
    units: Counter[str] = Counter()
    ingest = job.stages["ingest"]
    assert isinstance(ingest, Ingest | EpisodeIngest)
    for source in ingest.sources():
        left_out = source.reason or ("unreadable" if getattr(source, "error", "") else "")
        units[left_out or "to read"] += 1
        if not left_out:
            found = getattr(source, "spans", ())  # speech is cut later, an episode has none
            clips += sum(not span.reason for span in found) if found else source.clips
        if not isinstance(source, SourceEpisode):
            spans.update(left_out or span.reason or "to read" for span in source.spans)
    what = "videos" if isinstance(ingest, Ingest) else "episodes"
    for name, counts in ((what, units), ("spans", spans)):
        if counts:
            told = ", ".join(f"{n:,} {reason}" for reason, n in counts.most_common())
            print(f"{name}: {told}")
    return clips


def _print_failures(out: Path, most: int = 10) -> None:
    """Name the files that failed, with the error and how to try again."""
    failures: Counter[str] = Counter()
    for name, table in open_tables(out).items():
        rows = (row for row in table.read(Row) if row.status == "failed")
        failures.update(f"{name}: {row.error}" for row in rows)
    for error, clips in failures.most_common(most):
        print(f"failed ({clips} clips) {error}")
    if len(failures) > most:
        print(f"and {len(failures) - most} more kinds of failure, in the tables' `error` column")
    if failures:
        print("after repairing the files, --retry-failed tries them again")


def _yaml_flags(args: Sequence[str]) -> list[str]:
    """The options of the --config file as flags, less those that the command line sets itself."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    path = finder.parse_known_args(list(args))[0].config
    if path is None:
        return []
    try:
        options = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"--config {path} cannot be read as YAML ({why}).") from None
    given = {arg.split("=")[0].replace("_", "-") for arg in args if arg.startswith("--")}
    given |= {flag.replace(".no-", ".") for flag in given}
    flags = dict(_flatten(path, options))
    return [
        word
        for flag, words in flags.items()
        if flag.replace(".no-", ".") not in given
        for word in (flag, *words)
    ]


def _flatten(path: Path, options: Any) -> Iterator[tuple[str, list[str]]]:
    if not isinstance(options, dict) or not all(isinstance(v, dict) for v in options.values()):
        raise UserError(
            f"--config {path} must map stages to options, such as `tokens: {{frames: 3}}`."
        )
    for stage, values in options.items():
        yield from _flags_of(f"--{stage}.", values)


def _flags_of(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for key, value in values.items():
        name = key.replace("_", "-")
        if isinstance(value, dict):
            yield from _flags_of(f"{prefix}{name}.", value)
        elif isinstance(value, bool):
            yield f"{prefix}{'' if value else 'no-'}{name}", []
        else:
            words = value if isinstance(value, list) else [value]
            yield f"{prefix}{name}", [str(word) for word in words]
