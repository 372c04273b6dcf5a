"""From a command line, or from what a run recorded, to the job that it describes."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from handloom.errors import UserError
from handloom.flags import parse, read_yaml, value_of, yaml_flags
from handloom.pipeline.job import Job
from handloom.pipeline.output import read_run
from handloom.pipeline.recipes import RECIPES, CurateConfig, EpisodeConfig, dataset_name, recipe
from handloom.stages.outside import is_outside, load, search
from handloom.stages.stage import Stage

DATASETS = f"{', '.join(RECIPES)}; or your own as module:ADAPTER (docs/adding-a-dataset.md)."
OTHERS = "These options are for videos; `handloom {command} rt1 --help` has those for episodes."


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Arguments of `curate` and `plan` beside the options of the stages."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=DATASETS, metavar="DATASET")]
    data: Path | None = None
    """Folder of the dataset; by default data/DATASET. `sample` writes its own."""
    out: Path | None = None
    """Folder for everything that is written; by default runs/DATASET."""
    config: Path | None = None
    """YAML file with options by stage, and `dataset` and `stages`; flags override it."""
    stages: tuple[str, ...] = ()
    """Stages of your own as module:CLASS, beside the usual ones; see docs/adding-a-stage.md."""
    retry_failed: bool = False
    """Try the failed clips again."""


@dataclass(frozen=True, kw_only=True)
class CurateCommand(_Places, CurateConfig):
    """A command on videos of people."""


@dataclass(frozen=True, kw_only=True)
class EpisodesCommand(_Places, EpisodeConfig):
    """A command on robot episodes."""


@dataclass(frozen=True)
class Request:
    """A command line of `curate` or `plan`, its --config file turned into flags.

    Attributes:
        dataset: as it was named.
        words: the other words; options of the file stand behind those of the command line.
        stages: stages of the user's own, as `module:CLASS`.
        transforms: a mask or blur of frames, as `module:function`; one at most.
        folders: where their modules are looked for; none where all is handloom's.
    """

    dataset: str
    words: tuple[str, ...]
    stages: tuple[str, ...]
    transforms: tuple[str, ...]
    folders: tuple[Path, ...]

    @property
    def modules(self) -> list[str]:
        """All names of the kind `module:NAME`."""
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
    """Parse the arguments of `curate` and `plan`: the recipe, then --config, then the flags.

    Raises:
        UserError: an unknown dataset, stage or option, or a configuration file that cannot be used.
    """
    request = read_request(args, command)
    search(request.folders)
    default = defaults(request.dataset or "sample", request.stages)
    words = [request.dataset, *request.words] if request.dataset else request.words
    said = description if request.dataset else f"{description} {OTHERS.format(command=command)}"
    found = parse(type(default), words, command, default=default, description=said)
    name = dataset_name(found.dataset)
    out = found.out or Path("runs") / name
    data = found.data or (out / "source" if name == "sample" else Path("data") / name)
    config = EpisodeConfig if isinstance(found, EpisodeConfig) else CurateConfig
    options = {f.name: getattr(found, f.name) for f in fields(found)}
    given = {f.name: options.pop(f.name) for f in fields(config)}
    job = Job(
        dataset=name,
        data=data.absolute(),
        out=out.absolute(),
        config=config(**given),
        retry_failed=found.retry_failed,
        added=tuple(value for value in options.values() if isinstance(value, Stage)),
        folders=request.folders,
    )
    _ = job.flow  # refuses stages that cannot be placed
    return job


def defaults(dataset: str, own_stages: Sequence[str] = ()) -> Any:
    """A dataset's recipe as a command: what flags override, with the help of each.

    Args:
        dataset: as it is named on the command line.
        own_stages: stages of the user's own, as `module:CLASS`; their options go by their names.
    """
    base = recipe(dataset)
    kind = EpisodesCommand if isinstance(base, EpisodeConfig) else CurateCommand
    stages = [_own_stage(name, kind) for name in own_stages]
    own = [(stage.name, type(stage), field(default=stage)) for stage in stages]
    command = make_dataclass(kind.__name__, own, bases=(kind,), frozen=True, kw_only=True)
    return command(dataset=dataset, **{f.name: getattr(base, f.name) for f in fields(base)})


def _own_stage(name: str, kind: type[Any]) -> Stage:
    """A stage of the user's own with its defaults. Raises UserError where it is none."""
    found = load(name)
    is_class = isinstance(found, type) and issubclass(found, Stage)
    if not is_class or "__dataclass_fields__" not in vars(found):
        raise UserError(
            f"{name} is {found!r:.60}, expected a class derived from Stage, with @dataclass."
        )
    missing = [a for a in ("name", "row_type") if not hasattr(found, a)]
    missing += [f.name for f in fields(found) if f.default is f.default_factory is MISSING]
    if missing:
        raise UserError(f"{name} gives {', '.join(missing)} no value, expected one for each.")
    if found.name in {f.name for f in fields(kind)} or not found.name.isidentifier():
        raise UserError(f"{name} is called {found.name!r}, expected a word that is not taken.")
    stage: Stage = found()
    return stage


def recorded_job(out: Path) -> Job:
    """The job that run.yaml tells of, less options that this version does not know.

    Stages of the user's own are left out: what their tables say is recorded, and their modules need
    not be there any more.
    """
    record = read_run(out)
    search(map(Path, record.get("folders", ())))
    stored = record["config"]
    adapter = stored.get("ingest", {}).get("format", "")
    base = recipe(adapter if is_outside(adapter) else record["dataset"])
    found = {f.name: _stored(getattr(base, f.name), stored.get(f.name, {})) for f in fields(base)}
    return Job(record["dataset"], Path(record["data"]), out, type(base)(**found))


def _stored(default: Any, stored: dict[str, Any]) -> Any:
    """Options with the stored values of those that are still known."""
    known = {}
    for option in fields(default):
        name = option.name if option.name in stored else option.metadata.get("formerly")
        if name in stored:
            value, before = stored[name], getattr(default, option.name)
            if is_dataclass(before):
                known[option.name] = _stored(before, value)
            else:
                known[option.name] = tuple(value) if isinstance(value, list) else value
    return replace(default, **known)
