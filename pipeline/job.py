"""A job: one dataset, one output folder, one configuration, and the table of every stage."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from handloom.pipeline.recipes import Config, CurateConfig, row_stages
from handloom.pipeline.sameness import Sameness, code_here
from handloom.stages import graph
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.ingest.uncut import UncutIngest
from handloom.stages.ingest.videos import Ingest
from handloom.stages.pack import statistics as trajectory_statistics
from handloom.stages.stage import Stage, fingerprint
from handloom.stages.tables.parts import Table, read_marker, stage_folder


@dataclass(frozen=True)
class Job:
    """Everything that the parts of a run need."""

    dataset: str
    data: Path
    out: Path
    config: Config
    retry_failed: bool = False
    added: tuple[Stage, ...] = ()
    """Stages of the user's own, beside those of the configuration."""
    folders: tuple[Path, ...] = ()
    """Import path of these stages' modules, and of an adapter of the user's own."""
    sample: Callable[[Any], Any] | None = None
    """Takes a part of each source, or none of it; by default all is read."""

    @cached_property
    def flow(self) -> dict[str, str]:
        """Gates by row stage, in the order in which the stages run."""
        return graph.gates(self._listed)

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """The row stages in that order, placed in the job's data folder."""
        listed = {stage.name: stage for stage in self._listed}
        ingest = self.config.ingest.at(self.data, self.cache).sampled(self.sample)
        if isinstance(ingest, UncutIngest) and isinstance(self.config, CurateConfig):
            ingest = ingest.for_captions(self.config.caption.chosen == "source")
        placed = {name: listed[name].at(self.data, self.cache, ingest) for name in self.flow}
        return placed | {"ingest": ingest}

    @property
    def _listed(self) -> list[Stage]:
        return graph.insert(row_stages(self.config), self.added)

    @cached_property
    def run_id(self) -> str:
        """Name of this run, which the lock file of its output folder holds."""
        return uuid4().hex

    @cached_property
    def expected(self) -> Sameness:
        """What every node must have in common with the machine where this is asked first."""
        lock = self.out / ".lock"
        return Sameness(code_here(), self.run_id, lock, self.data, self.settings)

    @property
    def cache(self) -> Path:
        """Folder of what is kept when settings change; may be deleted at any time."""
        return self.out / "cache"

    @cached_property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Settings of the stages, as plain JSON."""
        settings = {name: stage.settings() for name, stage in self.stages.items()}
        plain: dict[str, dict[str, Any]] = json.loads(json.dumps(settings, default=str))
        return plain

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Tables of the row stages under their present fingerprints.

        They cover the settings of a stage, not what it reads: each row says what it was made from
        (`stages/tables/inputs.py`). Nor which clips come to it (its gate): moving a threshold of
        `select` recomputes no codes.
        """
        ingest = self.stages["ingest"]
        assert isinstance(ingest, Ingest | EpisodeIngest)
        pictures = json.loads(json.dumps(ingest.picture_settings()))
        return {
            name: Table(
                self.folder(name),
                fingerprint(self.settings[name], {} if name == "ingest" else pictures),
                gate,
            )
            for name, gate in self.flow.items()
        }

    def folder(self, stage: str) -> Path:
        """Folder of a stage's table and marker."""
        return stage_folder(self.out, stage)

    def inputs(self, stage: str) -> str:
        """Digest of all rows that a stage may read, by the names and sizes of their parts."""
        names = ["ingest", *self.stages[stage].reads]
        tables = [self.tables[name] for name in names]
        states = [(table.fingerprint, table.state()) for table in tables]
        return hashlib.sha256(json.dumps(states).encode()).hexdigest()

    def pack_inputs(self) -> str:
        """Digest of everything the shards are made from."""
        states = {name: table.state() for name, table in self.tables.items()}
        fingerprints = {name: table.fingerprint for name, table in self.tables.items()}
        parts = [states, fingerprints, asdict(self.config.pack)]
        if "episodes" in self.stages:
            parts.append({"trajectory_statistics": trajectory_statistics.VERSION})
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def changes(self, stage: str) -> list[str]:
        """Why the stored rows do not count: the settings that differ, as `name old -> new`."""
        marker = read_marker(self.folder(stage))
        stored, now = marker.get("settings"), self.settings[stage]
        if stored is None:
            return []
        changes = [
            _change(key, stored.get(key), now.get(key))
            for key in sorted(stored.keys() | now.keys())
            if stored.get(key) != now.get(key)
        ]
        if not changes and marker["fingerprint"] != self.tables[stage].fingerprint:
            return ["the pictures are read otherwise, or another version of handloom wrote them"]
        return changes


def _change(key: str, old: Any, new: Any) -> str:
    """A changed setting; of several under one name those that differ, of files their names."""
    if key == "overrides":
        return "marks, where there were none" if old is None else "other marks than before"
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(name for name in old | new if old.get(name) != new.get(name))
        if key == "annotations":
            return f"{key} ({', '.join(names)})"
        return ", ".join(_change(f"{key}.{n}", old.get(n), new.get(n)) for n in names)
    return f"{key} {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
