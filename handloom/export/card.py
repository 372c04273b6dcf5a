"""The dataset card of an export, README.md: what it is, how much, from where, on what terms."""

import html
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from PIL import Image

import handloom
from handloom.export.clips import ExportClip, Pictures, read_clips
from handloom.export.format import Format, Job
from handloom.files import whole
from handloom.stages.ingest import card as ingest_card
from handloom.stages.media.display import FrameHWC

NAME = "README.md"
SHOWN, FRAMES, HEIGHT = 6, 5, 120  # clips, pictures of each, and their height in pixels
TASKS_SHOWN = 12
HUB_LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0"}
"""Licence classes that are identifiers of the Hugging Face Hub too; others are `other` there."""

Facts = dict[str, Any]


def facts(job: Job, form: Format, left_out: Sequence[str]) -> Facts:
    """What the card, the metadata and the manifest say of an export, as JSON."""
    rows = job.listing.rows
    told = ingest_card.read(job.tables["ingest"].folder)
    releases = zip(rows["dataset"].to_pylist(), rows["version"].to_pylist(), strict=True)
    kinds = job.listing.kinds
    return {
        "name": job.out.name,
        "unit": "episode" if kinds else "clip",
        "kind": str(kinds[0]) if len(kinds) == 1 else "",
        "splits": _splits(rows),
        "tasks": job.listing.tasks[1][:TASKS_SHOWN],
        "task_count": len(job.listing.tasks[1]),
        "licences": dict(Counter(rows["licence"].to_pylist())),
        "terms": told.get("terms", ""),
        "obtained": told.get("obtained", ""),
        "releases": sorted({f"{dataset} {version}".strip() for dataset, version in releases}),
        "left_out": len(left_out),
    }


def page(told: Facts, form: Format, job: Job) -> str:
    """The card: Markdown, with the head that the Hugging Face Hub reads."""
    splits, unit = told["splits"], told["unit"]
    count = sum(split["clips"] for split in splits.values())
    lines = [
        _head(told, form),
        f"# {_plain(told['name'])}",
        f"{count:,} {unit}s, curated and exported by handloom {handloom.__version__} "
        f"(`handloom export {form.name}`)"
        + (f": {_plain(told['kind'])}." if told["kind"] else "."),
        *_strips(job),
        _counts(splits, unit),
        _tasks(told),
        "## Licence",
        _licence(told),
        "## Where it comes from",
        _origin(told),
        "## How it is read",
        form.reading(job),
    ]
    return "\n\n".join(lines) + "\n"


def write_pictures(job: Job) -> list[Path]:
    """Write strips of some clips, `pictures/0.jpg` and on; [] of an export without pictures."""
    if job.pictures is None:
        return []
    paths = []
    for number, one in enumerate(_shown(job)):
        path = job.dest / "pictures" / f"{number}.jpg"
        with whole(path, suffix=".jpg") as temporary:
            Image.fromarray(_strip(one, job.pictures)).save(temporary, quality=85)
        paths.append(path)
    return paths


def _shown(job: Job) -> Iterable[ExportClip]:
    """Clips at equal distances in the listing."""
    numbers = np.unique(np.linspace(0, len(job.listing) - 1, SHOWN).astype(int))
    rows = job.listing.rows.take(pa.array(numbers))
    return read_clips(job.tables, rows, "common" if "episodes" in job.tables else "source")


def _strip(one: ExportClip, pictures: Pictures) -> FrameHWC:
    """Pictures of a clip's main camera side by side, at equal distances in time."""
    wanted = set(np.linspace(0, one.frame_count - 1, FRAMES).astype(int).tolist())
    last = max(wanted)
    frames = islice(one.frames(pictures, one.views[0]), last + 1)
    small = [_small(frame) for i, frame in enumerate(frames) if i in wanted]
    return np.hstack(small)


def _small(frame_hwc: FrameHWC) -> FrameHWC:
    height, width = frame_hwc.shape[:2]
    size = max(1, round(width * HEIGHT / height)), HEIGHT
    return np.asarray(Image.fromarray(frame_hwc).resize(size, Image.Resampling.BILINEAR))


def _splits(rows: pa.Table) -> dict[str, dict[str, Any]]:
    found = {}
    for split in pc.unique(rows["split"]).to_pylist():
        part = rows.filter(pc.equal(rows["split"], split))
        hours = pc.sum(part["seconds"]).as_py() / 3600
        frames = pc.sum(part["frames"]).as_py()
        found[split] = {"clips": part.num_rows, "hours": round(hours, 6), "frames": frames}
    return found


def _head(told: Facts, form: Format) -> str:
    """The card's YAML."""
    classes = list(told["licences"])
    is_known = len(classes) == 1 and classes[0] in HUB_LICENCES
    head: Facts = {"license": classes[0] if is_known else "other"}
    if not is_known:
        head["license_name"] = "-and-".join(classes)
    if told["unit"] == "episode":
        head["task_categories"] = ["robotics"]
    head["tags"] = ["handloom", *(["LeRobot"] if form.name == "lerobot" else [])]
    there = {s: g for s, g in form.data_files().items() if s in told["splits"] or s == "default"}
    if there:
        files: Any = [{"split": split, "path": glob} for split, glob in there.items()]
        files = there.get("default", files)
        head["configs"] = [{"config_name": "default", "data_files": files}]
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---"


def _strips(job: Job) -> list[str]:
    if job.pictures is None:
        return []
    return [
        f"![pictures of a clip](pictures/{number}.jpg)<br>{_plain(one.caption.caption)}"
        for number, one in enumerate(_shown(job))
    ]


def _counts(splits: dict[str, dict[str, Any]], unit: str) -> str:
    rows = [f"| split | {unit}s | hours | frames |", "|---|---|---|---|"]
    for split, n in splits.items():
        rows.append(f"| {split} | {n['clips']:,} | {n['hours']:.3g} | {n['frames']:,} |")
    return "\n".join(rows)


def _tasks(told: Facts) -> str:
    shown = "; ".join(_plain(task) for task in told["tasks"] if task)
    more = told["task_count"] - len(told["tasks"])
    rest = f"; and {more:,} more" if more > 0 else ""
    return f"Captions: {shown}{rest}." if shown else "The captions are empty."


def _licence(told: Facts) -> str:
    classes = ", ".join(
        f"`{_plain(name)}` ({count:,} {told['unit']}s)" for name, count in told["licences"].items()
    )
    return f"{classes}. {_plain(told['terms'])} Every {told['unit']} names its own.".strip()


def _origin(told: Facts) -> str:
    releases = ", ".join(map(_plain, told["releases"]))
    lost = f" {told['left_out']:,} were left out, since their files are gone." * bool(
        told["left_out"]
    )
    return (
        f"{releases}. {_plain(told['obtained'])} For each {told['unit']} the export keeps the "
        f"source's id, the span and how its caption was made; `export.json` names the run, the "
        f"options and every file with its SHA-256.{lost}"
    )


def _plain(text: str) -> str:
    """Text of others as Markdown that shows it and does nothing else."""
    line = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]|#!" else c for c in line)
