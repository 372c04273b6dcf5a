"""EgoDex: first-person videos of tabletop manipulation, each with the poses of camera and hands.

The archives `part1.zip` to `part5.zip`, `extra.zip` and `test.zip` unpack to
`<part>/<task>/<n>.mp4` and `<n>.hdf5` beside it, which holds for each of N frames (30 a second):

    camera/intrinsic        [3, 3], pixels; of a pinhole camera
    transforms/<joint>      [N, 4, 4]; `camera` and 68 joints of arms, hands and spine, in the frame
                            that ARKit sets up at the start of the recording; metres
    confidences/<joint>     [N], 0 to 1; missing in some files

and the language among the attributes of the root: `llm_description`, and for a task that can be
done backwards `llm_description2` as well; `which_llm_description` says which of the two was done.
Files of an older annotator have `description` instead.

A file is one clip. Numbers of files begin anew in each task of each part. Nothing is held out but
`test`, so that a hash of the file's id sets a share of the others aside for val.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.camera_track import CameraTrack, pinhole, poses_of
from handloom.stages.datasets.formats.hdf5 import Hdf5File
from handloom.stages.datasets.media import contents, files_below
from handloom.stages.datasets.source import TO_THE_END, Adapter, CutRule, SourceVideo, Span
from handloom.stages.tables.rows import Footage

HOW_TO_GET = (
    "EgoDex (https://github.com/apple/ml-egodex) needs no form: download test.zip (16 GB) or one "
    "of part1.zip to part5.zip (300 GB each) from the links there, and unpack it in the data "
    "folder."
)
PARTS = ("part1", "part2", "part3", "part4", "part5", "extra", "test")
HZ = 30.0  # of videos and poses
FINGERS = ("Thumb", "IndexFinger", "MiddleFinger", "RingFinger", "LittleFinger")
JOINTS = tuple(
    f"{side}{joint}"
    for side in ("left", "right")
    for joint in ("Hand", *(f"{finger}Tip" for finger in FINGERS))
)
"""Wrists and fingertips: what is kept of the joints by default."""


@dataclass(frozen=True)
class Annotation:
    """Where the annotation of a video lies: it is opened on a worker.

    Attributes:
        path: below the data folder, with forward slashes.
        root: the data folder.
    """

    path: str
    root: Path = field(compare=False)


def videos(root: Path, rule: CutRule) -> Iterator[SourceVideo]:
    """Yield the pairs of video and poses, folder by folder; nothing is opened.

    Raises:
        UserError: there is no such pair.
    """
    annotations(root)
    found = files_below(root, root, (".mp4", ".hdf5"))
    for folder, paths in groupby(found, key=lambda path: path.rpartition("/")[0]):
        present = {path.rpartition("/")[2] for path in paths}
        part, task = ("", root.parent.name, root.name, *PurePosixPath(folder).parts)[-2:]
        for stem in sorted({name.rpartition(".")[0] for name in present}):
            yield _pair(root, folder, f"{part}/{task}/{stem}", present)


def annotations(root: Path) -> list[Path]:
    """No files: what is said of a video lies in the 300,000 files beside the videos."""
    if next(files_below(root, root, (".hdf5",)), None) is None:
        archives = [path.name for path in sorted(root.glob("*.zip"))]
        found = f"{', '.join(archives)}, not unpacked" if archives else contents(root)
        raise UserError(
            f"{root} holds {found}; expected part1/ to part5/, extra/ or test/ with "
            f"<task>/<number>.mp4 and .hdf5 in it. {HOW_TO_GET}"
        )
    return []


def cut(video: SourceVideo, rule: CutRule) -> tuple[Span, ...]:
    """The one span of a file, with the text that its poses' file holds.

    Raises:
        MediaError: that file is damaged.
    """
    raw: Annotation = video.raw
    with Hdf5File(raw.root / raw.path, raw.path) as file:
        text, flags = description(file)
    return (Span(0.0, TO_THE_END, text, flags=flags, reason="" if text else "no_text"),)


def description(file: Hdf5File) -> tuple[str, tuple[str, ...]]:
    """What was done, and flags of the text.

    The description of the other direction says the opposite: it is no second text.
    """
    which = "2" if str(file.attribute("/", "which_llm_description")) == "2" else ""
    names = [f"llm_description{which}", "llm_description", f"description{which}", "description"]
    for name in names:
        text = file.attribute("/", name)
        if isinstance(text, str) and text.strip():
            is_older = not name.startswith("llm_")
            wrong_way = bool(which) and not name.endswith("2")
            flags = ["older_description"] * is_older + ["maybe_reversed"] * wrong_way
            return text.strip(), tuple(flags)
    return "", ()


def camera(root: Path, clip: Footage, joints: tuple[str, ...]) -> CameraTrack:
    """The camera of a clip and the poses beside it, one for each frame.

    Args:
        root: the data folder.
        clip: one of this dataset.
        joints: names of the joints to keep, by default JOINTS.

    Raises:
        MediaError: the file of poses is damaged, or has no such joint.
    """
    path = f"{clip.media_path.rpartition('.')[0]}.hdf5"
    with Hdf5File(root / path, path) as file:
        matrix = file.array("camera/intrinsic", 3)
        if len(matrix) != 3:
            raise MediaError(f"{path}: camera/intrinsic has {len(matrix)} rows, expected 3")
        kept = joints or JOINTS
        shown = poses_of(file.matrices("transforms/camera"), f"{path}: transforms/camera")
        tracked = [
            poses_of(file.matrices(f"transforms/{name}", len(shown)), f"{path}: transforms/{name}")
            for name in kept
        ]
        sure = [file.column(f"confidences/{name}") for name in kept]
    given = [one for one in sure if one is not None and len(one) == len(shown)]
    return CameraTrack(
        model="pinhole",
        size=(clip.width, clip.height),
        intrinsics=pinhole(matrix, f"{path}: camera/intrinsic"),
        times_s=np.arange(len(shown)) / HZ,
        camera=shown,
        joints=kept,
        joint_poses=np.stack(tracked, axis=1),
        confidences=np.stack(given, axis=1) if len(given) == len(kept) else np.zeros((0, 0)),
        every_frame=True,
    )


def _pair(root: Path, folder: str, video_id: str, present: set[str]) -> SourceVideo:
    part, _, stem = video_id.split("/")
    is_whole = {f"{stem}.mp4", f"{stem}.hdf5"} <= present
    reason = "" if is_whole else "missing_file"
    if part == "test":
        reason = "benchmark_test"
    elif part not in PARTS:
        reason = "unknown_part"  # it may be of the test split
    prefix = f"{folder}/" if folder else ""
    return SourceVideo(
        video_id=video_id,
        media_path=f"{prefix}{stem}.mp4" if is_whole else "",
        split="test" if part == "test" else "",
        version="1",
        spans=(Span(0.0, TO_THE_END, ""),) if reason else (),
        raw=None if reason else Annotation(f"{prefix}{stem}.hdf5", root),
        raw_clips=1,
        reason=reason,
    )


ADAPTER = Adapter(
    videos=videos,
    annotations=annotations,
    text_kind="instruction",
    licence="cc-by-nc-nd",
    terms="CC BY-NC-ND: not for commercial purposes; what is made of it may not be shared.",
    how_to_get=HOW_TO_GET,
    cut=cut,
    camera=camera,
)
