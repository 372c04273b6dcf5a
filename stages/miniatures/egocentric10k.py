"""A miniature Egocentric-10K: tars of unannotated videos below the folders of workers.

A recording is a stretch with hands, one without, and one with hands again. There is whatever makes
the original hard to read: H.265, a worker without intrinsics, a tar that broke off in a video and
one that is compressed, a description without its video and a video without its description, and
what the download leaves beside.
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from handloom.stages.miniatures import folder
from handloom.stages.miniatures.encode import VideoEncoding, write_file
from handloom.stages.miniatures.people import takes
from handloom.stages.miniatures.people.raster import Frame
from handloom.stages.miniatures.people.takes import Take

SIZE = (640, 360)
RENDER_FPS = 10
ENCODING = VideoEncoding("h265", fps=Fraction(30), render_fps=RENDER_FPS, size=SIZE)
ACTS: takes.Acts = (("pick", 0), ("push", 1))
CUT_OFF, WITHOUT_CAMERA = (2, 1), (1, 2)  # factory and worker
INTRINSICS: dict[str, Any] = {
    "model": "fisheye", "image_width": SIZE[0], "image_height": SIZE[1], "fx": 343.5, "fy": 344.3,
    "cx": 322.2, "cy": 179.9, "k1": -0.1166, "k2": -0.0236, "k3": 0.0694, "k4": -0.0463,
}  # fmt: skip


@dataclass(frozen=True)
class Recording:
    """One video of a worker: what happens in it one after the other."""

    factory: int
    worker: int
    number: int
    takes: tuple[Take, ...]
    description: Literal["beside", "alone", "none"] = "beside"

    @property
    def stem(self) -> str:
        """Name of its files in the tar, without a suffix."""
        return f"factory{self.factory:03d}_worker{self.worker:03d}_{self.number:05d}"

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return sum(take.seconds for take in self.takes)

    def frames(self) -> Iterator[Frame]:
        """All frames, at RENDER_FPS."""
        return chain.from_iterable(takes.render(take, RENDER_FPS) for take in self.takes)

    def json(self, size: int) -> bytes:
        """Its description."""
        told = {
            "factory_id": f"factory_{self.factory:03d}", "worker_id": f"worker_{self.worker:03d}",
            "video_index": self.number, "duration_sec": round(self.seconds, 1), "width": SIZE[0],
            "height": SIZE[1], "fps": 30.0, "size_bytes": size, "codec": "h265",
        }  # fmt: skip
        return json.dumps(told).encode()


@folder.miniature_writer("egocentric10k", "factory_001", "factory_002", ".cache", version=1)
def write(out: Path, clips: int = 12, seed: int = 0) -> None:
    """Write a miniature Egocentric-10K with about `clips` stretches of hands below `out`."""
    found = plan(clips, seed)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        paths = {one.stem: Path(scratch) / f"{one.stem}.mp4" for one in found}
        folder.in_parallel(
            partial(write_file, paths[one.stem], one.frames(), ENCODING)
            for one in found
            if one.description != "alone"
        )
        for name, members in tars_of(found).items():
            content = _packed(members, paths)
            is_cut = (members[0].factory, members[0].worker) == CUT_OFF
            folder.write_bytes(out / name, content[: -len(content) // 5] if is_cut else content)
    for factory, worker in {(one.factory, one.worker) for one in found} - {WITHOUT_CAMERA}:
        folder.write_json(out / _folder(factory, worker) / "intrinsics.json", INTRINSICS)
    zipped = out / _folder(2, 2) / "factory002_worker002_part00.tar"
    folder.write_bytes(zipped, b"\x1f\x8b\x08\x00" + bytes(range(256)) * 8)
    folder.write_text(out / ".cache/huggingface/download/factory001.tar.metadata", "0\n")


def plan(clips: int, seed: int) -> list[Recording]:
    """The recordings: of three workers, two clips each."""
    workers = ((1, 1), (1, 1), CUT_OFF, CUT_OFF, WITHOUT_CAMERA)
    numbers: dict[tuple[int, int], int] = {}
    found = []
    for index in range(max(5, clips // 2)):
        who = workers[index % len(workers)]
        number = numbers.setdefault(who, 0)
        numbers[who] += 1
        description: Literal["beside", "none"] = "none" if index == 1 else "beside"
        found.append(Recording(*who, number, _takes(seed, index), description))
    return [*found, Recording(1, 1, 99, (), "alone")]


def tars_of(found: list[Recording]) -> dict[str, list[Recording]]:
    """Recordings by tar, at most two in each."""
    tars: dict[str, list[Recording]] = {}
    for one in found:
        number = sum((o.factory, o.worker) == (one.factory, one.worker) for o in
                     found[: found.index(one)]) // 2  # fmt: skip
        name = f"factory{one.factory:03d}_worker{one.worker:03d}_part{number:02d}.tar"
        tars.setdefault(f"{_folder(one.factory, one.worker)}/{name}", []).append(one)
    return tars


def _takes(seed: int, index: int) -> tuple[Take, ...]:
    rng = np.random.default_rng((seed, index))
    return (
        takes.hand_take(rng, ACTS, action_s=2.5, shape="wide"),
        takes.empty_take(rng, "rolls", 6.0, "wide"),
        takes.hand_take(rng, ACTS[:1], action_s=3.0, shape="wide"),
    )


def _folder(factory: int, worker: int) -> str:
    return f"factory_{factory:03d}/workers/worker_{worker:03d}"


def _packed(members: list[Recording], paths: dict[str, Path]) -> bytes:
    """The bytes of a tar."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for one in members:
            path = paths[one.stem]
            video = path.read_bytes() if path.exists() else b""
            files = {"mp4": video, "json": one.json(len(video))}
            if one.description != "beside":
                del files["mp4" if one.description == "alone" else "json"]
            for suffix, data in files.items():
                info = tarfile.TarInfo(f"{one.stem}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return content.getvalue()
