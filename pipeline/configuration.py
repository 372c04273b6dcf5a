"""Jobs from a command line, or from the record of a run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from handloom.errors import UserError
from handloom.flags import parse, read_yaml, value_of, yaml_flags
from handloom.pipeline.job import Job
from handloom.pipeline.output import read_run
from handloom.pipeline.recipes import RECIPES, dataset_name, recipe
from handloom.places import place
from handloom.stages.outside import is_outside, load, search
from handloom.stages.stage import Stage

DATASETS = f"{', '.join(RECIPES)}; or your own as module:ADAPTER (docs/adding-a-dataset.md)."
OTHERS = "These options are for videos; `handloom {command} rt1 --help` has those for episodes."


@dataclass(frozen=True, kw_only=True)
class _RunArguments:
    """Arguments of `curate` and `plan` beside the options of the stages."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=DATASETS, metavar="DATASET")]
    data: Path | None = None
    """Folder of the dataset; by default data/DATASET. `sample` writes its own."""
    out: Path | None = None
    """Output folder; by default runs/DATASET."""
    config: Path | None = None
    """YAML file with options by stage, and `dataset` and `stages`; flags override it."""
    stages: tuple[str, ...] = ()
    """Stages of your own as module:CLASS, beside the usual ones; see docs/adding-a-stage.md."""
    retry_failed: bool = False
    """Try the failed clips again."""


@dataclass(frozen=True)
class Request:
    """A command line of `curate` or `plan`, its --config file turned into flags.

    Attributes:
        dataset: name or `module:ADAPTER`, as given.
        words: the other words; options of the file come after those of the command line.
        stages: stages of the user's own, as `module:CLASS`.
        transforms: a mask or blur of frames, as `module:function`; one at most.
        folders: import path of their modules; empty where there are none.
    """

    dataset: str
    words: tuple[str, ...]
    stages: tuple[str, ...]
    transforms: tuple[str, ...]
    folders: tuple[Path, ...]

    @property
    def modules(self) -> list[str]:
        """All names of the form `module:NAME`."""
        return [*filter(is_outside, (self.dataset, *self.stages, *self.transforms))]


def read_request(args: Sequence[str], command: str) -> Request:
    """Find the dataset and the user's own stages, without which flags cannot be parsed.

    Raises:
        UserError: no dataset is named, or the configuration file cannot be used.
    """
    words = list(args)
    dataset = words.pop(0) if words and not words[0].startswith("-") else ""
    stages, folders = value_of("--stages", words), [Path.cwd()]
    for path in map(Path, value_of("--config", words)[:1]):
        options = read_yaml(path)
        dataset = dataset or str(options.pop("dataset", ""))
        own = options.pop("stages", [])
        if own and not stages:
            stages = [own] if isinstance(own, str) else list(map(str, own))
            words += ["--stages", *stages]
        words += yaml_flags(path, options, words)
        folders.insert(0, path.absolute().parent)
    if not dataset and not {"-h", "--help"} & set(words):
        raise UserError(f"{command} needs a dataset; handloom knows {', '.join(RECIPES)}.")
    transforms = tuple(value_of("--ingest.frame-transform", words))
    request = Request(dataset, tuple(words), tuple(stages), transforms, tuple(folders))
    return request if request.modules else replace(request, folders=())


def read_command(args: Sequence[str], command: str, description: str = "") -> Job:
    """The job of a command line: the recipe, then --config, then the flags.

    Raises:
        UserError: an unknown dataset, stage or option, or a configuration file that cannot be used.
    """
    return read_options(args, command, description, {})[0]


def read_options(
    args: Sequence[str], command: str, description: str, more: Mapping[str, Any]
) -> tuple[Job, dict[str, Any]]:
    """The job of a command line, and the command's own options.

    Args:
        args: the words behind the command.
        command: its name.
        description: for the help.
        more: the command's own options by prefix, each a dataclass with its defaults.

    Raises:
        UserError: an unknown dataset, stage or option, or a configuration file that cannot be used.
    """
    request = read_request(args, command)
    search(request.folders)
    default = defaults(request.dataset or "sample", request.stages, more)
    words = [request.dataset, *request.words] if request.dataset else request.words
    if not request.dataset:
        description += f" {OTHERS.format(command=command)}"
    parsed = parse(type(default), words, command, default=default, description=description)
    name = dataset_name(parsed.dataset)
    out = parsed.out or Path("runs") / name
    data = parsed.data or (out / "source" if name == "sample" else Path("data") / name)
    config = type(recipe(request.dataset or "sample"))
    options = {f.name: getattr(parsed, f.name) for f in fields(parsed)}
    own = {prefix: options.pop(prefix) for prefix in more}
    configured = {f.name: options.pop(f.name) for f in fields(config)}
    job = Job(
        dataset=name,
        data=data.absolute(),
        out=out.absolute(),
        config=config(**configured),
        retry_failed=parsed.retry_failed,
        added=tuple(value for value in options.values() if isinstance(value, Stage)),
        folders=request.folders,
    )
    check_options(job)
    return job, own


def check_options(job: Job) -> None:
    """Raise UserError for stages that cannot be placed, and for numbers that cannot be."""
    _ = job.flow
    for part in fields(job.config):
        refuse_numbers(part.name, getattr(job.config, part.name))


# Options that must be more than 0.
POSITIVE = frozenset(
    {"frames", "frames_per_second", "num_cpus", "workers", "gpu_cores", "clip_timeout_s",
     "batch_clips", "in_flight", "clips_at_once", "max_tokens", "timeout_s",
     "short_side", "min_frames", "max_pixels", "resolution", "samples_per_shard", "spacing_s"}
)  # fmt: skip


def refuse_numbers(part: str, options: Any) -> None:
    """Raise UserError for an option that is no number, negative, or a share of more than all.

    Args:
        part: the prefix of the options on the command line, such as `select`.
        options: a dataclass.
    """
    for option in fields(options):
        value, name = getattr(options, option.name), option.name
        flag = f"{part}.{name}".replace("_", "-")
        if is_dataclass(value):
            refuse_numbers(f"{part}.{name}", value)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        most = (
            1.0
            if name.endswith(("_share", "_confidence"))
            else 100.0
            if "percent" in name
            else math.inf
        )
        is_finite = math.isfinite(value)
        if not is_finite or value < 0 or value > most or (name in POSITIVE and value == 0):
            least = "more than 0" if name in POSITIVE else "at least 0"
            upto = f" and at most {most:g}" if most < math.inf else ""
            raise UserError(f"--{flag} is {value}, expected {least}{upto}.")


def defaults(
    dataset: str, own_stages: Sequence[str] = (), more: Mapping[str, Any] | None = None
) -> Any:
    """A dataset's recipe as a command's default arguments, which flags override.

    Args:
        dataset: name or `module:ADAPTER`.
        own_stages: stages of the user's own, as `module:CLASS`; their options carry their names.
        more: further options by prefix, each a dataclass.
    """
    base = recipe(dataset)
    bases = (_RunArguments, type(base))
    taken = {f.name for each in bases for f in fields(each)}
    stages = [_own_stage(name, taken) for name in own_stages]
    own = [(stage.name, type(stage), field(default=stage)) for stage in stages]
    own += [(name, type(options), field(default=options)) for name, options in (more or {}).items()]
    command = make_dataclass("Command", own, bases=bases, frozen=True, kw_only=True)
    return command(dataset=dataset, **{f.name: getattr(base, f.name) for f in fields(base)})


def _own_stage(name: str, taken: set[str]) -> Stage:
    """A stage of the user's own with its defaults. Raises UserError where it is none."""
    own = load(name)
    is_class = isinstance(own, type) and issubclass(own, Stage)
    if not is_class or "__dataclass_fields__" not in vars(own):
        raise UserError(
            f"{name} is {own!r:.60}, expected a class derived from Stage, with @dataclass."
        )
    missing = [a for a in ("name", "row_type") if not hasattr(own, a)]
    missing += [f.name for f in fields(own) if f.default is f.default_factory is MISSING]
    if missing:
        raise UserError(f"{name} gives {', '.join(missing)} no value, expected one for each.")
    if own.name in taken or not own.name.isidentifier():
        raise UserError(f"{name} is called {own.name!r}, expected a word that is not taken.")
    stage: Stage = own()
    return stage


def recorded_job(out: Path) -> Job:
    """The job that run.yaml records, less options that this version does not have.

    Stages of the user's own are left out: their tables and gates are recorded, and their modules
    may be gone.
    """
    record = read_run(out)
    if not {"config", "data"} <= record.keys():
        raise UserError(
            f"{out / 'run.yaml'} does not say what was run, with config and data; run `handloom "
            "curate` with the same --out again."
        )
    search(map(Path, record.get("folders", ())))
    stored = record["config"]
    adapter = stored.get("ingest", {}).get("format", "")
    base = recipe(adapter if is_outside(adapter) else record["dataset"])
    config = {f.name: _restore(getattr(base, f.name), stored.get(f.name, {})) for f in fields(base)}
    return Job(record["dataset"], place(record["data"]), out, type(base)(**config))


def _restore(default: Any, stored: dict[str, Any]) -> Any:
    """Options with their stored values, where this version still has them."""
    values = {}
    for option in fields(default):
        name = option.name if option.name in stored else option.metadata.get("formerly")
        if name in stored:
            value, now = stored[name], getattr(default, option.name)
            if is_dataclass(now):
                value = _restore(now, value)
            values[option.name] = tuple(value) if isinstance(value, list) else value
    return replace(default, **values)
