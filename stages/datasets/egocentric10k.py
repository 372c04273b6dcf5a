"""Egocentric-10K (and 100K): hours of factory work from cameras on heads, in tars of videos.

The layout is that of the Hugging Face repository `builddotai/Egocentric-10K`:

    factory_001/workers/worker_001/intrinsics.json
    factory_001/workers/worker_001/factory001_worker001_part00.tar    WebDataset, 1 GB at most

A tar holds `factory001_worker001_00001.mp4`, of three minutes mostly, and a `.json` of the same
name with its length, size and codec. 100K has `factory001/worker001/part000.tar`. Nobody has
annotated anything: videos are cut by shots and hands, and captioned by a model.

The videos of a worker are pieces of one day at one place: a worker is the source video, by which
splits go. There are no official ones.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.camera_track import CameraTrack
from handloom.stages.datasets.formats.json_stream import load_value
from handloom.stages.datasets.media import contents, files_below
from handloom.stages.datasets.source import Adapter, CutRule, SourceVideo
from handloom.stages.datasets.videos import CLIP_BYTES, PART_BYTES, Uncut
from handloom.stages.tables.rows import Footage
from handloom.tars import file_of

HOW_TO_GET = (
    "Egocentric-10K (https://huggingface.co/datasets/builddotai/Egocentric-10K) is free after its "
    "terms are accepted there: `hf download builddotai/Egocentric-10K --repo-type dataset "
    "--include 'factory_001/*' --local-dir DIR` (16 TB in all)."
)
INTRINSICS = "intrinsics.json"
LONGEST = 1 << 16  # bytes of such a file
_WORKER = re.compile(r"factory_?(\d+)/(?:workers/)?worker_?(\d+)(?:/|$)")


def videos(root: Path, rule: CutRule) -> Iterator[SourceVideo]:
    """Yield the tars, large ones in shares; none is opened.

    Raises:
        UserError: there is none.
    """
    annotations(root)
    for path in files_below(root, root, (".tar",)):
        size = _size(root / path)
        parts = max(1, math.ceil(size / PART_BYTES))
        name = path.rpartition("/")[2].rpartition(".")[0]
        for part in range(parts):
            yield SourceVideo(
                video_id=worker(root, path),
                media_path=path,
                split="",
                version="1",
                part=f"{name} part {part + 1} of {parts}" if parts > 1 else name,
                raw=Uncut(part, parts),
                raw_clips=max(1, size // parts // CLIP_BYTES),
            )


def annotations(root: Path) -> list[Path]:
    """No files: nothing is annotated."""
    if next(files_below(root, root, (".tar",)), None) is None:
        raise UserError(
            f"{root} holds {contents(root)}; expected tars of videos such as "
            f"factory_001/workers/worker_001/factory001_worker001_part00.tar. {HOW_TO_GET}"
        )
    return []


def worker(root: Path, path: str) -> str:
    """Id of the worker that a tar belongs to, by its folders; else those folders themselves."""
    folder = f"{root.parent.name}/{root.name}/{path}".rpartition("/")[0]
    if found := [*_WORKER.finditer(folder)]:
        return f"factory_{int(found[-1][1]):03d}/worker_{int(found[-1][2]):03d}"
    return path.rpartition("/")[0] or path


def camera(root: Path, clip: Footage, joints: tuple[str, ...]) -> CameraTrack | None:
    """The worker's camera; None where no intrinsics are there: the first downloads had none.

    Raises:
        MediaError: the file says something else.
    """
    path = f"{file_of(clip.media_path).rpartition('/')[0]}/{INTRINSICS}".lstrip("/")
    if not (root / path).is_file():
        return None
    values = _read(root / path, path)
    numbers = {name: values.get(name) for name in NUMBERS}
    wrong = [name for name, value in numbers.items() if not _is_number(value)]
    if wrong or values.get("model") != "fisheye":
        raise MediaError(
            f"{path}: {wrong[0] if wrong else 'model'} is "
            f"{str(values.get(wrong[0] if wrong else 'model'))[:40]!r}, expected "
            f"{'a number' if wrong else 'fisheye'}; download it again"
        )
    size = int(values["image_width"]), int(values["image_height"])
    fx, fy, cx, cy, *distortion = (float(values[name]) for name in NUMBERS[2:])
    return CameraTrack("fisheye", size, (fx, fy, cx, cy), tuple(distortion))


NUMBERS = ("image_width", "image_height", "fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4")


def _read(path: Path, name: str) -> dict[str, Any]:
    raw = path.read_bytes() if path.stat().st_size <= LONGEST else b""
    try:
        value = load_value(raw)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise MediaError(
            f"{name} is no JSON object of at most {LONGEST:,} bytes; download it again"
        )
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link that leads nowhere: ingest says so
        return 0


ADAPTER = Adapter(
    videos=videos,
    annotations=annotations,
    text_kind="narration",
    licence="apache-2.0",
    terms="Apache 2.0; people at work are shown: the dataset's page has conditions of its own.",
    how_to_get=HOW_TO_GET,
    camera=camera,
)
