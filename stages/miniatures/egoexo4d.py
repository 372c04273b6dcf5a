"""A miniature Ego-Exo4D: takes seen from glasses, and two annotators' sentences about them.

There is whatever makes the original hard to read: flags that one annotator writes as "0" and "1",
sentences on other people and on what the glasses do not see, a rejected annotation, a time that is
none, a withdrawn take, one that nobody has described, one in the lists of both splits, videos in
two sizes beside those of other cameras, a missing and a truncated one, poses of one take.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from handloom.stages.miniatures import folder
from handloom.stages.miniatures.encode import VideoEncoding, write_file
from handloom.stages.miniatures.people import scene, takes
from handloom.stages.miniatures.people.motion import VERBS
from handloom.stages.miniatures.people.raster import Frame
from handloom.stages.miniatures.people.takes import Acts, Take

RENDER_FPS = 10
SIDES = {"": 704, "downscaled/448": 448}  # half of the original's, and the small one
CROP = slice(40, 280)  # columns of the rendered picture that make it square
ACTS: tuple[Acts, ...] = (
    (("pick", 0), ("put", 0), ("shake", 0)),
    (("push", 0), ("pull", 0), ("tilt", 0)),
    (("tilt", 0), ("pick", 0), ("put", 0)),
)
Fault = Literal["", "missing", "truncated", "withdrawn", "silent"]


@dataclass(frozen=True)
class ExoTake:
    """One take: what is shown, and the splits whose lists describe it."""

    index: int
    name: str
    take: Take
    split: str
    described: tuple[str, ...]
    fault: Fault = ""

    @property
    def uid(self) -> str:
        """Its take_uid."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"handloom/miniature/egoexo4d/{self.name}"))

    @property
    def folder(self) -> str:
        """Of its videos, below the data folder; every other take has the small ones alone."""
        below = "downscaled/448/" if self.index % 2 else ""
        return f"takes/{self.name}/frame_aligned_videos/{below}"

    @property
    def camera(self) -> str:
        """Name of the glasses."""
        return f"aria0{1 + self.index % 3}"


@folder.miniature_writer("egoexo4d", "takes.json", "annotations", "takes", version=1)
def write(out: Path, clips: int = 18, seed: int = 0) -> None:
    """Write a miniature Ego-Exo4D with about `clips` described actions below `out`."""
    found = plan(clips, seed)
    listed = [one for one in found if one.fault != "withdrawn"]
    folder.write_json(out / "takes.json", [_entry(one) for one in listed])
    by_uid = {one.uid: one.split for one in found}
    folder.write_json(out / "annotations/splits.json", {"take_uid_to_split": by_uid})
    for split in ("train", "val"):
        told = {one.uid: _annotations(one) for one in found if split in one.described}
        content = {"ds": "v2", "take_cam_id_map": {}, "annotations": told}
        folder.write_json(out / f"annotations/atomic_descriptions_{split}.json", content)
    posed = found[0]
    path = f"annotations/ego_pose/train/camera_pose/{posed.uid}.json"
    folder.write_json(out / path, camera_pose(posed), indent=None)
    for one in listed:
        folder.write_bytes(out / f"{one.folder}cam01.mp4", b"")
        folder.write_bytes(out / f"{one.folder}{one.camera}_1201-1.mp4", b"")
    folder.in_parallel(
        partial(_write_video, out / f"{one.folder}{one.camera}_214-1.mp4", one)
        for one in listed
        if one.fault != "missing"
    )


def plan(clips: int, seed: int) -> list[ExoTake]:
    """All takes: good ones, one for test, and one with each fault."""
    count = max(3, clips // 3)
    splits = ["train", "train", "val"]
    good = [_take(seed, i, splits[i % 3], (splits[i % 3],)) for i in range(count)]
    odd: tuple[tuple[str, tuple[str, ...], Fault], ...] = (
        ("test", (), ""), ("val", ("train", "val"), ""), ("train", ("train",), "missing"),
        ("train", ("train",), "truncated"), ("train", ("train",), "withdrawn"),
        ("train", (), "silent"),
    )  # fmt: skip
    return [*good, *(_take(seed, count + i, *one) for i, one in enumerate(odd))]


def _take(
    seed: int, index: int, split: str, described: tuple[str, ...], fault: Fault = ""
) -> ExoTake:
    rng = np.random.default_rng((seed, index))
    take = takes.hand_take(rng, ACTS[index % len(ACTS)], action_s=2.5, shape="tall")
    return ExoTake(index, f"handloom_table{seed:02d}_{index}", take, split, described, fault)


def _entry(one: ExoTake) -> dict[str, Any]:
    """A take's entry in takes.json."""
    cameras = {
        one.camera: {
            stream: {"cam_id": one.camera, "stream_id": number, "readable_stream_id": stream,
                     "relative_path": f"frame_aligned_videos/{one.camera}_{number}.mp4"}
            for stream, number in (("rgb", "214-1"), ("slam-left", "1201-1"))
        },
        "cam01": {"0": {"cam_id": "cam01", "relative_path": "frame_aligned_videos/cam01.mp4"}},
        "best_exo": {"0": {"is_collage": True, "relative_path": None}},
    }  # fmt: skip
    return {
        "root_dir": f"takes/{one.name}",
        "take_name": one.name,
        "take_uid": one.uid,
        "is_dropped": False,
        "task_name": None,
        "parent_task_name": "Cooking",
        "duration_sec": one.take.seconds,
        "validated": True,
        "frame_aligned_videos": cameras,
    }


def _annotations(one: ExoTake) -> list[dict[str, Any]]:
    """What two annotators say of a take, and one whose work was rejected."""
    name = one.take.names[0]
    first, second = [], []
    for action in one.take.actions:
        words = VERBS[action.verb]
        first.append(_row(action.start_s, f"C {words.words.format(name)}.", one.index))
        second.append(_row(action.start_s + 0.1, f"C {words.other_words.format(name)}.", -1))
    last_s = one.take.actions[-1].end_s
    first.append(_row(last_s, "C moves his right foot.", one.index, seen=False))
    second.append(_row(last_s, "The man X walks by.", -1, subject="O"))
    first.append(first[0] | {"timestamp": float("nan"), "text": "C looks around."})
    wrong = [_row(0.5, "C sings a song.", one.index) for _ in range(9)]
    return [
        _job(one, "rejected", wrong, is_rejected=True), _job(one, "second", second),
        _job(one, "first", first[::-1]),
    ]  # fmt: skip


def _job(
    one: ExoTake, who: str, rows: list[dict[str, Any]], is_rejected: bool = False
) -> dict[str, Any]:
    return {
        "annotation_uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{one.uid}/{who}")),
        "annotator_id": who,
        "rejected": is_rejected,
        "reject_reason": "of another take" if is_rejected else None,
        "descriptions": rows,
    }


def _row(
    at_s: float, text: str, variant: int, seen: bool = True, subject: str = "C"
) -> dict[str, Any]:
    """A description; annotators write the same in two ways."""
    best = {"raw_cam_id": "1", "cam_id": "cam01"}
    row: dict[str, Any] = {"text": text, "timestamp": round(at_s, 5), "best_exo": best}
    if variant < 0:
        return row | {"narration_subject": subject, "ego_visible": str(int(seen)), "unsure": "0"}
    return row | {"subject": subject, "ego_visible": seen, "unsure": variant % 3 == 2}


def camera_pose(one: ExoTake) -> dict[str, Any]:
    """Poses of the glasses at every third frame: they move along x and look down z."""
    frames = range(0, round(one.take.seconds * 30), 3)
    return {
        "metadata": {"take_name": one.name, "take_uid": one.uid},
        "cam01": {"camera_intrinsics": [], "camera_extrinsics": []},
        one.camera: {
            "camera_intrinsics": [[150.0, 0.0, 255.5], [0.0, 150.0, 255.5], [0.0, 0.0, 1.0]],
            "camera_extrinsics": {
                str(frame): [[0, 1, 0, -2.0], [-1, 0, 0, frame / 30], [0, 0, 1, 0.5]]
                for frame in frames
            },
        },
    }


def _write_video(path: Path, one: ExoTake) -> None:
    side = SIDES["downscaled/448" if "downscaled" in one.folder else ""]
    encoding = VideoEncoding("h264", fps=Fraction(30), render_fps=RENDER_FPS, size=(side, side))
    fraction = Fraction(3, 5) if one.fault == "truncated" else Fraction(1)
    write_file(path, _frames(one.take), encoding, fraction)


def _frames(take: Take) -> Iterator[Frame]:
    """Square frames, dark outside the circle that the lens shows."""
    down, across = np.mgrid[-1:1:240j, -1:1:240j]
    outside = np.hypot(down, across) > 1.25
    for frame in scene.render(take.appearance, take.things, take.actions, take.seconds, RENDER_FPS):
        square = np.ascontiguousarray(frame[:, CROP])
        square[outside] = 0
        yield square
