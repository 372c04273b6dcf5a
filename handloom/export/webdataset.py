"""Clips or episodes as WebDataset tars.

train/000000.tar    <clip_id>.json  <clip_id>.mp4                          of videos
                    <clip_id>.json  <clip_id>.<camera>.mp4 …  .state.npy  .action.npy   of robots
"""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from handloom.export.clips import ExportClip, Pictures
from handloom.export.format import Job, Written
from handloom.export.listing import Listing
from handloom.export.options import Rate, WebDatasetExport
from handloom.export.parts import Limits, Part
from handloom.export.videos import encoded, file_names
from handloom.files import whole

LIMITS = Limits(pixels=8_000_000_000, seconds=36_000.0, clips=5000)  # some 200 to 500 MB


@dataclass(frozen=True)
class WebDataset:
    """The format, with its options."""

    options: WebDatasetExport
    name: ClassVar[str] = "webdataset"
    form: ClassVar[int] = 1
    limits: ClassVar[Limits] = LIMITS
    opens_media: ClassVar[bool] = True

    @property
    def rate(self) -> Rate:
        """Which steps of robots are exported."""
        return self.options.rate

    def select(self, listing: Listing) -> Listing:
        """All clips."""
        return listing

    def write_part(self, job: Job, part: Part, clips: Iterator[ExportClip]) -> Written:
        """Write one tar."""
        assert job.pictures is not None
        first = next(one.number for one in job.parts if one.split == part.split)
        path = job.dest / part.split / f"{part.number - first:06d}.tar"
        with (
            whole(path) as temporary,
            tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for one in clips:
                for name, content in _members(one, job.pictures, self.options.crf):
                    member = tarfile.TarInfo(f"{one.clip.clip_id}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return [path], {}

    def finish(self, job: Job, records: Sequence[dict[str, Any]]) -> list[Path]:
        """Nothing lies beside the tars."""
        return []

    def reading(self, job: Job) -> str:
        """How stock webdataset reads it."""
        video = '["mp4"]' if not job.listing.kinds else '["<camera>.mp4"]'
        return f"""```python
import webdataset

for sample in webdataset.WebDataset("THIS FOLDER/train/000000.tar", shardshuffle=False).decode():
    sample["json"]["caption"], sample{video}  # the MP4's bytes
```

`videos` of the JSON names each camera's member; its other fields are caption, span, split, licence
and where the clip comes from."""

    @property
    def globs(self) -> list[str]:
        """Globs of the files with the data."""
        return ["*/*.tar"]

    def data_files(self) -> dict[str, str]:
        """Tars of each split."""
        return {"train": "train/*.tar", "val": "val/*.tar"}

    def record_fields(self, job: Job) -> dict[str, str]:
        """Tars have no columns."""
        return {}


def _members(one: ExportClip, pictures: Pictures, crf: int) -> Iterator[tuple[str, bytes]]:
    """Names of a clip's members, without its id, and what is in them."""
    videos = encoded(one, pictures, crf)
    names = file_names(list(videos))
    members = {view: f"{names[view]}.mp4" if one.motion else "mp4" for view in videos}
    facts = one.facts() | {"videos": members}
    yield "json", json.dumps(facts, ensure_ascii=False).encode()
    for view, content in videos.items():
        yield members[view], content
    if one.motion:
        for name, values in (("state", one.motion.state), ("action", one.motion.action)):
            held = io.BytesIO()
            np.save(held, values)
            yield f"{name}.npy", held.getvalue()
