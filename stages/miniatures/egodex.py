"""A miniature EgoDex: videos of one action each, and beside them the poses of camera and hands.

The tip of the right index finger is where the picture shows the hand's grasp. There is whatever
makes the original hard to read: tasks that are done in both directions, files of an older
annotator, numbers that begin anew in each task, a held-out part, pairs of which one half is
missing, a video and poses that were cut off, poses of another length, poses that are no numbers,
a file without a text, and a Mac's shadow files.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from handloom.files import whole
from handloom.stages.miniatures import folder
from handloom.stages.miniatures.encode import VideoEncoding, write_file
from handloom.stages.miniatures.people import takes
from handloom.stages.miniatures.people.motion import state_at
from handloom.stages.miniatures.people.raster import WIDTH
from handloom.stages.miniatures.people.takes import WIDE_Y, Acts, Take

PARTS = ("part1", "part2", "extra", "test")
SIZE = (640, 360)  # a third of the original's
SCALE = SIZE[0] / WIDTH  # of the picture, to the rendered one
FPS, RENDER_FPS = 30, 10
INTRINSIC = np.array([[245.54, 0, 320.0], [0, 245.54, 180.0], [0, 0, 1]])
DEPTH_M, PITCH_RAD = 0.6, 0.6  # how far the hands are, how far the head is bent down
WRIST_PX = (9.0, 70.0)  # from the grasp, in the rendered picture
TASKS: dict[str, tuple[Acts, tuple[str, str]]] = {  # acts, and words of both directions
    "pick_up_put_down_toy": ((("pick", 0),), ("Pick up the {}.", "Put the {} down on the table.")),
    "push_pull_toy": ((("push", 0),), ("Push the {} away.", "Pull the {} closer.")),
    "basic_shake": ((("shake", 0),), ("Shake the {} from side to side.", "")),
    "tilt_container": ((("tilt", 0),), ("Tilt the {}.", "")),
}
BACKWARDS = {"pick": "put", "push": "pull"}
OLDER = "tilt_container"  # described by the first annotator, without confidences
Fault = Literal[
    "", "no_video", "no_poses", "cut_video", "cut_poses", "short_poses", "no_numbers", "no_text"
]
FAULTS: tuple[Fault, ...] = (
    "no_video", "no_poses", "cut_video", "cut_poses", "short_poses", "no_numbers", "no_text",
)  # fmt: skip
FINGERS = ("Thumb", "IndexFinger", "MiddleFinger", "RingFinger", "LittleFinger")
BONES = ("Metacarpal", "Knuckle", "IntermediateBase", "IntermediateTip", "Tip")
BODY = ("hip", *(f"spine{i}" for i in range(1, 8)), *(f"neck{i}" for i in range(1, 5)))


@dataclass(frozen=True)
class Demonstration:
    """One pair of files.

    Attributes:
        stem: path below the data folder, without a suffix.
        take: what is shown.
        attributes: of the poses' file.
        fault: what is wrong with the pair.
    """

    stem: str
    take: Take
    attributes: dict[str, Any]
    fault: Fault = ""

    @property
    def times_s(self) -> NDArray[np.float64]:
        """When the rendered frames are that the frames of the file show, float64 [N]."""
        count = round(self.take.seconds * RENDER_FPS) * FPS // RENDER_FPS
        return np.arange(count) // (FPS // RENDER_FPS) / RENDER_FPS


@folder.miniature_writer("egodex", *PARTS, "__MACOSX", version=1)
def write(out: Path, clips: int = 24, seed: int = 0) -> None:
    """Write a miniature EgoDex with about `clips` demonstrations below `out`."""
    found = list(plan(clips, seed))
    folder.write_text(out / "__MACOSX" / f"._{found[0].stem.rpartition('/')[2]}.mp4", "Mac OS X")
    folder.in_parallel(partial(_write_video, out, one) for one in found)
    for one in found:
        _write_poses(out / f"{one.stem}.hdf5", one)


def plan(clips: int, seed: int) -> Iterator[Demonstration]:
    """All pairs: the last ones of part2 each have a fault."""
    numbers: dict[str, int] = {}
    faults = FAULTS[: max(0, clips - 6)]
    for index in range(clips):
        fault = faults[index - clips] if index >= clips - len(faults) else ""
        task = tuple(TASKS)[index % len(TASKS)]
        part = "part2" if fault else PARTS[(index // len(TASKS)) % len(PARTS)]
        number = numbers.setdefault(f"{part}/{task}", 0)
        numbers[f"{part}/{task}"] += 1
        yield _demonstration(seed, index, f"{part}/{task}/{number}", fault)


def _demonstration(seed: int, index: int, stem: str, fault: Fault) -> Demonstration:
    task = stem.split("/")[1]
    acts, words = TASKS[task]
    is_backwards = bool(words[1]) and index // len(TASKS) % 2 == 1
    if is_backwards:
        acts = tuple((BACKWARDS[verb], thing) for verb, thing in acts)
    rng = np.random.default_rng((seed, index))
    take = takes.hand_take(rng, acts, action_s=2.5, shape="wide")
    texts = [sentence.format(take.names[0]) for sentence in words]
    return Demonstration(
        stem, take, _attributes(task, texts, is_backwards, index) if fault != "no_text" else {},
        fault,
    )  # fmt: skip


def _attributes(task: str, texts: Sequence[str], is_backwards: bool, index: int) -> dict[str, Any]:
    """The language of a file; which of two descriptions holds is text, or in some a number."""
    if task == OLDER:
        return {"task": task, "description": texts[0], "annotated": False}
    told: dict[str, Any] = {"task": task, "llm_description": texts[0], "annotated": True}
    told["llm_type"] = "reversible" if texts[1] else "single"
    if texts[1]:
        which = 2 if is_backwards else 1
        told |= {
            "llm_description2": texts[1],
            "which_llm_description": which if index % 3 == 2 else str(which),
        }
    return told


def joint_names() -> Iterator[str]:
    """The 68 joints of the original, without the camera."""
    yield from BODY
    for side in ("left", "right"):
        yield from (f"{side}{joint}" for joint in ("Hand", "Forearm", "Arm", "Shoulder"))
        for finger in FINGERS:
            yield from (f"{side}{finger}{bone}" for bone in BONES[finger == "Thumb" :])


def camera_poses(times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Transforms [N, 4, 4] of a camera that sways above the table into a world whose y is up."""
    cos, sin = np.cos(PITCH_RAD), np.sin(PITCH_RAD)
    poses = np.tile(np.eye(4), (len(times_s), 1, 1))
    poses[:, :3, :3] = np.array([[1, 0, 0], [0, -cos, -sin], [0, sin, -cos]])
    poses[:, 0, 3] = 0.02 * np.sin(2 * np.pi * 0.3 * times_s)
    poses[:, 1, 3] = 1.25
    return poses


def grasps_px(one: Demonstration) -> NDArray[np.float64]:
    """Where the right hand grasps, [N, 2], pixels of the file's picture."""
    take = one.take
    shown = []
    for time_s in one.times_s:
        _, grasp, _ = state_at(take.things, take.actions, float(time_s), take.seconds)
        shown.append(grasp if grasp is not None else (0.0, 0.0))
    return (np.array(shown) - [0, WIDE_Y.start]) * SCALE


def joint_poses(pixels: NDArray[np.float64], cameras: NDArray[np.float64]) -> NDArray[np.float64]:
    """Transforms [N, 4, 4] of a joint that is shown at pixels [N, 2], DEPTH_M in front."""
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(INTRINSIC).T
    poses = cameras.copy()
    poses[:, :3, 3] += np.einsum("nij,nj->ni", cameras[:, :3, :3], DEPTH_M * rays)
    return poses


def _transforms(one: Demonstration) -> dict[str, NDArray[np.float32]]:
    cameras, grasps = camera_poses(one.times_s), grasps_px(one)
    left = np.tile([[80.0, 250.0]], (len(grasps), 1))
    found = {"camera": cameras}
    for name in joint_names():
        wrist = np.array(WRIST_PX) * SCALE * ("Tip" not in name)
        finger = next((i for i, f in enumerate(FINGERS) if f in name), 1)
        pixels = left if name.startswith("left") else grasps
        found[name] = joint_poses(pixels + wrist + [8.0 * (finger - 1), 0], cameras)
    return {name: poses.astype(np.float32) for name, poses in found.items()}


def _write_video(out: Path, one: Demonstration) -> None:
    if one.fault == "no_video":
        return
    encoding = VideoEncoding("h264", fps=Fraction(FPS), render_fps=RENDER_FPS, size=SIZE)
    fraction = Fraction(3, 5) if one.fault == "cut_video" else Fraction(1)
    write_file(out / f"{one.stem}.mp4", takes.render(one.take, RENDER_FPS), encoding, fraction)


def _write_poses(path: Path, one: Demonstration) -> None:
    import h5py

    if one.fault == "no_poses":
        return
    transforms = _transforms(one)
    kept = -15 if one.fault == "short_poses" else None
    if one.fault == "no_numbers":
        transforms["rightHand"][5, 0, 3] = np.nan
    with whole(path, sync=False) as temporary:
        with h5py.File(temporary, "w") as file:
            file.attrs.update(one.attributes)
            file["camera/intrinsic"] = INTRINSIC.astype(np.float32)
            for name, poses in transforms.items():
                file.create_dataset(f"transforms/{name}", data=poses[:kept], compression="gzip")
                if name != "camera" and OLDER not in one.stem:
                    sure = np.full(len(poses), 0.9, np.float32)[:kept]
                    file.create_dataset(f"confidences/{name}", data=sure, compression="gzip")
        if one.fault == "cut_poses":
            os.truncate(temporary, temporary.stat().st_size * 3 // 5)
