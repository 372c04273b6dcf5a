"""A stage whose source has changed raises its code_version, or somebody confirms that it need not.

code_version is all that tells tables of old rows from new ones, and it is raised by hand.
code_versions.json holds, for each stage, its version and hashes of the source that makes its rows.

    python -m tests.stages.test_code_versions [STAGE...]

writes the present hashes down: of the stages named, or of all.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from handloom.pipeline.recipes import RECIPES, row_stages
from handloom.stages.camera import Camera
from handloom.stages.datasets.catalog import ROBOT_FORMATS, VIDEO_FORMATS, video_adapter
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.ingest.videos import Ingest
from handloom.stages.pack import statistics
from handloom.stages.stage import Stage
from tests.helpers.folders import CHECKOUT
from tests.helpers.reached_source import Place, Source

RECORD = Path(__file__).with_name("code_versions.json")
COMMAND = "python -m tests.stages.test_code_versions"

# What stages use and what cannot change a row that they make.
INFRASTRUCTURE = {
    "handloom.errors": "kinds of error; the words of one are written where it is raised",
    "handloom.files": "how a file appears whole, not what is in it",
    "handloom.stages.datasets.catalog": "finds adapters by name; they are hashed themselves",
    "handloom.stages.graph": "which stages clips go through, not what one makes of a clip",
    "handloom.stages.outside": "finds modules by name",
    "handloom.stages.stage": "how a stage is set up, run and fingerprinted; it makes no rows",
    "handloom.stages.tables.parts.Table": "where rows are stored, after they have been made",
    "handloom.stages.tables.merging": "joins parts, row by row as they are",
    "handloom.tokenize.hub": "downloads; models count by the hash of their weights",
}

Recorded = dict[str, dict[str, Any]]


def versions() -> dict[str, int]:
    """The number that guards each stage's rows, by the name of its class."""
    found = {type(stage).__name__: type(stage).code_version for stage in stages()}
    return found | {"statistics": statistics.VERSION}


def stages() -> list[Stage]:
    """The stages of all recipes."""
    return [stage for recipe in RECIPES.values() for stage in row_stages(recipe())]


def roots() -> dict[str, set[Place]]:
    """Where the source of each stage begins; `ingest` and `camera` make rows by adapters too."""
    found: dict[str, set[Place]] = {}
    for stage in stages():
        kind = type(stage)
        places = found.setdefault(kind.__name__, {(kind.__module__, kind.__name__)})
        if isinstance(stage, Ingest | EpisodeIngest):
            module = (VIDEO_FORMATS | ROBOT_FORMATS)[stage.format]
            places.add((f"handloom.stages.datasets.{module}", "ADAPTER"))
    for name, module in VIDEO_FORMATS.items():
        if video_adapter(name).camera:
            found[Camera.__name__].add((f"handloom.stages.datasets.{module}", "camera"))
    found["statistics"] = {(statistics.__name__, "")}
    return found


def present(root: Path = CHECKOUT) -> Recorded:
    """What code_versions.json would hold of a checkout, with the versions that are imported."""
    source, version = Source(root, INFRASTRUCTURE), versions()
    return {
        name: {"code_version": version[name], "source": source.hashes(places)}
        for name, places in sorted(roots().items())
    }


def complaints(recorded: Recorded, now: Recorded) -> list[str]:
    """For each stage that is not as recorded, one sentence with a way out."""
    said = []
    for name, entry in now.items():
        if name not in recorded:
            said.append(f"{name} is not in {RECORD.name}: record it with `{COMMAND} {name}`")
        elif recorded[name]["code_version"] != entry["code_version"]:
            said.append(f"{name} has another code_version: record it with `{COMMAND} {name}`")
        elif changed := different(recorded[name]["source"], entry["source"]):
            said.append(
                f"{name}: raise code_version, or confirm that rows stay the same with "
                f"`{COMMAND} {name}`; changed: {', '.join(changed)}"
            )
    gone = sorted(recorded.keys() - now.keys())
    return said + [f"{name} is in no recipe: take it out with `{COMMAND}`" for name in gone]


def different(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Modules that do not say what they said, and those that have come or gone."""
    modules = sorted(before.keys() | after.keys())
    return [name for name in modules if before.get(name) != after.get(name)]


def recorded() -> Recorded:
    read: Recorded = json.loads(RECORD.read_text())
    return read


def test_changed_source_has_a_new_code_version() -> None:
    assert complaints(recorded(), present()) == []


@pytest.fixture(scope="module")
def before() -> Recorded:
    return present()


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The source in a folder of its own, to be changed."""
    names = shutil.ignore_patterns("__pycache__", "models", "miniatures")
    for folder in ("stages", "tokenize"):
        shutil.copytree(CHECKOUT / folder, tmp_path / "handloom" / folder, ignore=names)
    for path in (CHECKOUT / "handloom").glob("*.py"):
        shutil.copy(path, tmp_path / "handloom")
    return tmp_path


def edit(root: Path, path: str, old: str, new: str) -> None:
    file = root / "handloom" / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


RECHECK = "stages/hands/recheck.py"


def test_a_copy_is_like_the_original(copied: Path, before: Recorded) -> None:
    assert present(copied) == before


def test_a_changed_function_is_told_with_its_stage_and_module(
    copied: Path, before: Recorded
) -> None:
    edit(copied, RECHECK, "    return ", "    return not ")
    assert complaints(before, present(copied)) == [
        f"{stage}: raise code_version, or confirm that rows stay the same with "
        f"`{COMMAND} {stage}`; changed: handloom.stages.hands.recheck"
        for stage in ("FolderIngest", "Hands", "TarIngest")
    ]


def test_comments_docstrings_and_line_breaks_count_for_nothing(
    copied: Path, before: Recorded
) -> None:
    edit(copied, RECHECK, "    return ", "    # why\n\n    return ")
    edit(copied, RECHECK, '"""', '"""Other words. ')
    assert complaints(before, present(copied)) == []


def test_an_adapter_counts_for_ingest(copied: Path, before: Recorded) -> None:
    edit(copied, "stages/datasets/formats/rotations.py", "    return ", "    return 2 * ")
    said = complaints(before, present(copied))
    assert {sentence.split(":")[0] for sentence in said} == {"EpisodeIngest", "Episodes"}


def test_a_stage_that_is_not_recorded_is_told(before: Recorded) -> None:
    known = {name: entry for name, entry in before.items() if name != "Hands"}
    assert complaints(known, before) == [
        f"Hands is not in code_versions.json: record it with `{COMMAND} Hands`"
    ]


def test_a_raised_version_is_to_be_recorded(before: Recorded) -> None:
    older = before | {"Hands": before["Hands"] | {"code_version": 0}}
    assert complaints(older, before) == [
        f"Hands has another code_version: record it with `{COMMAND} Hands`"
    ]


def main(names: list[str]) -> None:
    """Record the stages named, or all."""
    now, kept = present(), recorded() if RECORD.exists() else {}
    if unknown := sorted(set(names) - now.keys()):
        sys.exit(f"no stage {', '.join(unknown)}; there are {', '.join(now)}")
    chosen = {name: now[name] for name in names} if names else now
    told = {**(kept if names else {}), **chosen}
    RECORD.write_text(json.dumps(dict(sorted(told.items())), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
