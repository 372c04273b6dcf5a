"""Robot episodes as RLDS: TFRecords of episodes with features.json, without TensorFlow.

<dataset>/1.0.0/features.json  dataset_info.json
<dataset>/1.0.0/<dataset>-train.tfrecord-00000-of-00002
"""

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from handloom.errors import MediaError
from handloom.export.clips import ExportClip, Pictures
from handloom.export.format import Job, Written
from handloom.export.kinds import choose
from handloom.export.listing import Kind, Listing
from handloom.export.options import Rate, RldsExport
from handloom.export.parts import Limits, Part
from handloom.export.videos import file_names
from handloom.files import whole, write_text
from handloom.stages.media.display import FrameHWC
from handloom.stages.miniatures.robots.tfrecords import (
    FeatureSpec,
    Tree,
    Values,
    encode_example,
    features_json,
    flatten,
    frame_record,
    step_flags,
)

LIMITS = Limits(pixels=1_000_000_000, seconds=36_000.0, clips=1000)  # JPEGs of about 200 MB
VERSION = "1.0.0"
TEXTS = (
    "clip_id", "caption_source", "text", "dataset", "version", "split", "licence", "source_id",
    "source_path", "action_kind", "unit",
)  # fmt: skip


@dataclass(frozen=True)
class Rlds:
    """The format, with its options."""

    options: RldsExport
    name: ClassVar[str] = "rlds"
    form: ClassVar[int] = 1
    limits: ClassVar[Limits] = LIMITS
    opens_media: ClassVar[bool] = True

    @property
    def rate(self) -> Rate:
        """Which steps are exported."""
        return self.options.rate

    def select(self, listing: Listing) -> Listing:
        """The episodes of one kind."""
        return choose(listing, self.options, "RLDS")

    def write_part(self, job: Job, part: Part, clips: Iterator[ExportClip]) -> Written:
        """Write one shard."""
        assert job.pictures is not None
        kind, payload_bytes = job.listing.kinds[0], 0
        sizes: dict[str, tuple[int, int]] = {}
        path = _folder(job) / _shard_name(job, part)
        with whole(path) as temporary, temporary.open("wb") as file:
            for number, one in enumerate(clips, part.start):
                images = _images(one, kind, job.pictures, self.options.jpeg_quality, sizes)
                # The keys of a record lie in the order of a hash, as TensorFlow writes them.
                rng = np.random.default_rng(number)
                payload = encode_example(flatten(_features(one, images)), rng)
                payload_bytes += len(payload)
                file.write(frame_record(payload))
        return [path], {"sizes": sizes, "payload_bytes": payload_bytes}

    def finish(self, job: Job, records: Sequence[dict[str, Any]]) -> list[Path]:
        """Write features.json and dataset_info.json."""
        folder = _folder(job)
        described = features_json(*_specs(job.listing.kinds[0], records[0]["sizes"]))
        info = {
            "name": _dataset_name(job),
            "version": VERSION,
            "description": f"Robot episodes of {job.out.name}, curated and exported by handloom.",
            "fileFormat": "tfrecord",
            "moduleName": "handloom.export",
            "releaseNotes": {VERSION: "Exported."},
            "splits": list(_splits(job, records)),
        }
        for name, content in (("features.json", described), ("dataset_info.json", info)):
            write_text(folder / name, json.dumps(content, indent=2) + "\n")
        return [folder / "features.json", folder / "dataset_info.json"]

    def reading(self, job: Job) -> str:
        """How tensorflow_datasets reads it."""
        return f"""```python
import tensorflow_datasets as tfds

builder = tfds.builder_from_directory("THIS FOLDER/{_dataset_name(job)}/{VERSION}")
for episode in builder.as_dataset(split="train"):
    for step in episode["steps"]:
        step["observation"], step["action"], step["language_instruction"]
```

`handloom curate rlds` reads it too. `is_idle` marks steps without a command to the arm."""

    @property
    def globs(self) -> list[str]:
        """Globs of the files with the data."""
        return ["*/*/*.tfrecord-*"]

    def data_files(self) -> dict[str, str]:
        """TFRecords are not among what the Hub shows."""
        return {}

    def record_fields(self, job: Job) -> dict[str, str]:
        """TFRecords have no columns."""
        return {}


def _dataset_name(job: Job) -> str:
    """Of the dataset, in TFDS's snake_case."""
    name = re.sub(r"[^a-z0-9]+", "_", job.out.name.lower()).strip("_")
    return name if name[:1].isalpha() else f"run_{name}".rstrip("_")


def _folder(job: Job) -> Path:
    return job.dest / _dataset_name(job) / VERSION


def _shard_name(job: Job, part: Part) -> str:
    of_split = [one.number for one in job.parts if one.split == part.split]
    number = part.number - of_split[0]
    name = _dataset_name(job)
    return f"{name}-{part.split}.tfrecord-{number:05d}-of-{len(of_split):05d}"


def _splits(job: Job, records: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Entries of dataset_info.json."""
    pairs = list(zip(job.parts, records, strict=True))
    for split in dict.fromkeys(part.split for part in job.parts):
        own = [(part, record) for part, record in pairs if part.split == split]
        yield {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": split,
            "numBytes": str(sum(record["payload_bytes"] for _, record in own)),
            "shardLengths": [str(part.stop - part.start) for part, _ in own],
        }


def _images(
    one: ExportClip, kind: Kind, pictures: Pictures, quality: int, sizes: dict[str, tuple[int, int]]
) -> dict[str, list[bytes]]:
    """JPEG images of each camera, by the name of its feature; enters or compares their sizes."""
    names, found = file_names(list(kind.views)), dict[str, list[bytes]]()
    for view, name in names.items():
        found[name] = []
        for frame_hwc in one.frames(pictures, view):
            size = frame_hwc.shape[0], frame_hwc.shape[1]
            if sizes.setdefault(name, size) != size:
                raise MediaError(
                    f"{one.clip.clip_id}: a picture of {view} of {size[1]} x {size[0]}, expected "
                    f"{sizes[name][1]} x {sizes[name][0]} like those before it"
                )
            found[name].append(_jpeg(frame_hwc, quality))
    return found


def _jpeg(frame_hwc: FrameHWC, quality: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(frame_hwc).save(held, "JPEG", quality=quality, subsampling=0)
    return held.getvalue()


def _specs(kind: Kind, sizes: dict[str, list[int]]) -> tuple[Tree, Tree]:
    """Features of a step, and of an episode beside its steps."""
    images: Tree = {
        name: FeatureSpec(shape=(*sizes[name], 3), kind="image", encoding="jpeg")
        for name in file_names(list(kind.views)).values()
    }
    flags = ("is_first", "is_last", "is_terminal", "is_idle")
    steps: Tree = {
        "observation": {**images, "state": FeatureSpec(shape=(len(kind.state_names),))},
        "action": FeatureSpec(shape=(len(kind.action_names),)),
        "discount": FeatureSpec(kind="scalar"),
        "reward": FeatureSpec(kind="scalar"),
        **{name: FeatureSpec("bool", kind="scalar") for name in flags},
        "language_instruction": FeatureSpec(kind="text"),
    }
    episode: Tree = {name: FeatureSpec(kind="text") for name in TEXTS}
    return steps, {"episode_metadata": episode | {"hz": FeatureSpec(kind="scalar")}}


def _features(one: ExportClip, images: dict[str, list[bytes]]) -> dict[str, Any]:
    """Values of an episode, in the order of its features."""
    motion, facts = one.motion, one.facts()
    assert motion is not None
    count = len(motion.steps)
    is_idle, last = np.zeros(count, bool), np.arange(count) == count - 1
    is_idle[motion.idle] = True
    flags: dict[str, Values] = step_flags(count)
    steps = {
        "observation": {**images, "state": motion.state},
        "action": motion.action,
        "discount": np.ones(count, np.float32),
        "reward": (last & bool(facts["success"])).astype(np.float32),
        **flags,
        "is_idle": is_idle,
        "language_instruction": [facts["caption"].encode()] * count,
    }
    texts: dict[str, Values] = {name: [str(facts[name]).encode()] for name in TEXTS}
    return {"steps": steps, "episode_metadata": texts | {"hz": np.array([motion.hz], np.float32)}}
