"""Recipes: what each dataset is curated with. The command line picks one and overrides fields."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from handloom.stages.base import Stage
from handloom.stages.caption import Caption
from handloom.stages.hands import Hands
from handloom.stages.ingest import Ingest
from handloom.stages.pack import Pack
from handloom.stages.select import Select
from handloom.stages.tokens import Tokens


@dataclass(frozen=True)
class Run:
    """How the work is spread; nothing here changes what comes out."""

    num_cpus: int | None = None
    """Cores to use on this machine; by default all. Not for a run on a cluster."""
    workers: int | None = None
    """Workers a stage at most; by default one for each core."""
    batch_clips: int = 32
    """Clips a worker takes at a time, all from one bucket."""
    clip_timeout_s: float = 120.0
    """A worker that needs longer for a clip is ended, and the clip fails."""


@dataclass(frozen=True)
class CurateConfig:
    """Everything that can be set about a curation run."""

    ingest: Ingest = field(default_factory=Ingest)
    hands: Hands = field(default_factory=Hands)
    select: Select = field(default_factory=Select)
    caption: Caption = field(default_factory=Caption)
    tokens: Tokens = field(default_factory=Tokens)
    pack: Pack = field(default_factory=Pack)
    run: Run = field(default_factory=Run)

    def stages(self) -> dict[str, Stage]:
        """The stages that turn clips into rows, in the order of the data flow."""
        row_stages = (self.ingest, self.hands, self.select, self.caption, self.tokens)
        return {stage.name: stage for stage in row_stages}


def ego4d() -> CurateConfig:
    """Ego4D's full-scale videos, cut at their narrations."""
    return CurateConfig()


def sample() -> CurateConfig:
    """The embedded miniature: Ego4D's layout, rendered, free of anyone's rights."""
    base = ego4d()
    synthetic = replace(base.ingest, dataset="sample", licence="apache-2.0-synthetic")
    return replace(base, ingest=synthetic)


RECIPES: dict[str, Callable[[], CurateConfig]] = {"sample": sample, "ego4d": ego4d}
