"""Recipes: the options of each dataset. The command line picks one and overrides fields."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, TypeVar

from handloom.flags import choice
from handloom.stages.camera import Camera
from handloom.stages.caption.stage import Caption, EpisodeCaption
from handloom.stages.datasets.catalog import ROBOT_FORMATS, VIDEO_FORMATS
from handloom.stages.datasets.source import RobotAdapter
from handloom.stages.duplicates.stage import Duplicates
from handloom.stages.episodes.stage import Episodes
from handloom.stages.hands.stage import Hands
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.ingest.folder import FolderIngest
from handloom.stages.ingest.tars import TarIngest
from handloom.stages.ingest.videos import Ingest
from handloom.stages.outside import is_outside, load
from handloom.stages.pack.stage import Pack
from handloom.stages.select import Select
from handloom.stages.stage import Stage
from handloom.stages.tokens import EpisodeTokens, Tokens


@dataclass(frozen=True)
class Run:
    """Options of the execution; none of them changes a row."""

    num_cpus: int | None = None
    """Cores to use on this machine; by default all. Not for a run on a cluster."""
    workers: int | None = None
    """Workers per stage at most; by default as many as it has work for."""
    gpu_share: float = 1.0
    """Share of a GPU that a worker of `tokens`, or of a caption model, takes, 0 to 1: 0.5 puts two
    on each, 0 leaves GPUs alone."""
    gpu_cores: int = 4
    """Cores of such a worker, to read pictures while the GPU computes."""
    batch_clips: int = 32
    """Clips in a batch of a worker, all from one bucket."""
    clip_timeout_s: float = 120.0
    """Seconds that a clip may take; a slower worker is killed and the clip fails."""
    cache_gb: float | None = None
    """Room on each machine's disk for copies of files that lie in an object store, GB; by default
    $HANDLOOM_CACHE_GB, or 20. They lie in $HANDLOOM_CACHE, or in the folder for temporary files."""


@dataclass(frozen=True)
class CurateConfig:
    """All options for videos of people."""

    ingest: Ingest = field(default_factory=Ingest)
    hands: Hands = field(default_factory=Hands)
    duplicates: Duplicates = field(default_factory=Duplicates)
    select: Select = field(default_factory=Select)
    caption: Caption = field(default_factory=Caption)
    tokens: Tokens = field(default_factory=Tokens)
    pack: Pack = field(default_factory=Pack)
    run: Run = field(default_factory=Run)


@dataclass(frozen=True)
class CameraConfig(CurateConfig):
    """All options for videos of people whose camera is known."""

    camera: Camera = field(default_factory=Camera)


@dataclass(frozen=True)
class EpisodeConfig:
    """All options for robot episodes."""

    ingest: EpisodeIngest = field(default_factory=EpisodeIngest)
    episodes: Episodes = field(default_factory=Episodes)
    caption: EpisodeCaption = field(default_factory=EpisodeCaption)
    tokens: EpisodeTokens = field(default_factory=EpisodeTokens)
    pack: Pack = field(default_factory=Pack)
    run: Run = field(default_factory=Run)


Config = CurateConfig | EpisodeConfig
V = TypeVar("V", bound=CurateConfig)


def row_stages(config: Config) -> list[Stage]:
    """The stages among a configuration's fields, in their order, which gates follow from."""
    values = [getattr(config, option.name) for option in fields(config)]
    return [value for value in values if isinstance(value, Stage)]


def sample() -> CurateConfig:
    """The embedded miniature: Ego4D's layout, rendered, free of anyone's rights."""
    synthetic = Ingest(dataset="sample", format="ego4d", licence="apache-2.0-synthetic")
    return CurateConfig(ingest=synthetic)


def edited(videos: CurateConfig) -> CurateConfig:
    """Edited video from the web: shots are detected; texts describe little, so a model helps."""
    return replace(videos, hands=Hands(shots=True), caption=Caption(route="auto"))


def howto100m() -> CurateConfig:
    """HowTo100M: lines of speech merged into clips of 2 to 15 s, captioned by a model if given."""
    return edited(videos("howto100m", min_seconds=2.0, max_seconds=15.0))


def kinetics700() -> CurateConfig:
    """Kinetics-700: class labels, which describe little; captioned by a model if one is given."""
    return edited(videos("kinetics700"))


def unedited(videos: V, **select: Any) -> V:
    """Footage of one camera that nobody has edited: no title cards."""
    return replace(videos, select=replace(videos.select, max_flat_share=None, **select))


def ego4d() -> CurateConfig:
    """Ego4D: one camera on a head; some videos are stereo, some spans are redacted."""
    return unedited(videos("ego4d"))


def ssv2() -> CurateConfig:
    """Something-Something V2: phones, some on a tripod, in which little may happen."""
    return unedited(videos("ssv2"), min_change=None, min_sharpness=None, max_stereo=None)


def epic_kitchens() -> CurateConfig:
    """EPIC-KITCHENS: annotated segments; half of them are shorter than two seconds."""
    segments = videos("epic_kitchens", min_seconds=0.5)
    return unedited(segments, min_change=None, min_sharpness=None, max_stereo=None)


def egodex() -> CameraConfig:
    """EgoDex: a camera on a head above a table; a file is a clip, with the poses of both hands."""
    videos = CameraConfig(ingest=Ingest(dataset="egodex", format="egodex"))
    return unedited(videos, min_change=None, min_sharpness=None, max_stereo=None)


def egoexo4d() -> CameraConfig:
    """Ego-Exo4D: glasses on a head, whose fisheye lens leaves dark corners."""
    return unedited(CameraConfig(ingest=Ingest(dataset="egoexo4d", format="egoexo4d")))


def egocentric10k() -> CameraConfig:
    """Egocentric-10K: cameras on heads in factories, without a word: captions by a model if one is
    given. A tar of 256 MB is cut in one go, which takes minutes."""
    videos = CameraConfig(
        ingest=TarIngest(dataset="egocentric10k", format="egocentric10k"),
        caption=Caption(route="auto"),
        run=Run(clip_timeout_s=3600.0),
    )
    return unedited(videos)


def folder() -> CurateConfig:
    """Any folder of videos: unedited as a rule, often of a phone on a tripod; captions by a model
    if one is given. Shots are detected where ingest cuts; half an hour of video takes minutes."""
    videos = CurateConfig(
        ingest=FolderIngest(), caption=Caption(route="auto"), run=Run(clip_timeout_s=600.0)
    )
    return unedited(videos, min_change=None)


def videos(name: str, **options: Any) -> CurateConfig:
    """A dataset of videos that needs nothing special."""
    return CurateConfig(ingest=Ingest(**{"dataset": name, "format": name} | options))


def episodes(name: str, **options: Any) -> EpisodeConfig:
    """A dataset of robot episodes."""
    return EpisodeConfig(ingest=EpisodeIngest(**{"dataset": name, "format": name} | options))


RECIPES: dict[str, Callable[[], Config]] = {
    "sample": sample,
    **{name: partial(videos, name) for name in VIDEO_FORMATS},
    **{name: partial(episodes, name) for name in ROBOT_FORMATS},
    "videos": folder,
    "ego4d": ego4d,
    "howto100m": howto100m,
    "kinetics700": kinetics700,
    "ssv2": ssv2,
    "epic_kitchens": epic_kitchens,
    "egoexo4d": egoexo4d,
    "egodex": egodex,
    "egocentric10k": egocentric10k,
}


def recipe(dataset: str) -> Config:
    """A dataset's configuration.

    Args:
        dataset: a name in RECIPES, or an adapter of the user's own as `module:NAME`; clips then
            carry the module's name.

    Raises:
        UserError: neither of them.
    """
    if not is_outside(dataset):
        return RECIPES[dataset_name(dataset)]()
    kind = episodes if isinstance(load(dataset), RobotAdapter) else videos
    return kind(dataset_name(dataset), format=dataset)


def dataset_name(dataset: str) -> str:
    """The dataset's name in the run: its own, or that of its adapter's module."""
    if is_outside(dataset):
        return dataset.partition(":")[0].rpartition(".")[2]
    return choice(dataset, RECIPES, "dataset")
