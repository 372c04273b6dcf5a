"""Ingest of videos that lie in tars: a tar's files are found, probed and cut on the workers.

Listing a dataset of terabytes opens no tar. A large tar is divided by bytes, as a large file is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, ClassVar

from handloom.errors import MediaError
from handloom.stages.datasets.media import VIDEO_SUFFIXES
from handloom.stages.datasets.source import TO_THE_END, SourceVideo, Span, refuse_outside
from handloom.stages.datasets.videos import Uncut
from handloom.stages.ingest.uncut import UncutIngest
from handloom.stages.ingest.videos import OWN_LINKS
from handloom.stages.tables.rows import Clip
from handloom.tars import Contents, Member, contents

WHOLE = (Span(0.0, TO_THE_END, ""),)


@dataclass(frozen=True)
class TarIngest(UncutIngest):
    """Options of `ingest` for videos in tars."""

    code_version: ClassVar[int] = 1

    def __call__(self, video: SourceVideo) -> Iterator[Clip]:
        """Cut the videos in a tar, or in its share of one; a damaged one costs its own clips.

        Raises:
            MediaError: the tar lies outside the data folder, or is none.
        """
        if not self.follow_links:
            refuse_outside(self.data, video.media_path, OWN_LINKS)
        found = contents(self.data / video.media_path)
        for one in members_of(video, found):
            try:
                rows = list(super().__call__(one))
            except MediaError as error:
                rows = list(super().failed(str(error), one))
            yield from (replace(row, unit=video.unit) for row in rows)
        if found.error and video.raw.part == video.raw.parts - 1:
            yield from super().failed(found.error, video)


def members_of(tar: SourceVideo, found: Contents) -> Iterator[SourceVideo]:
    """The videos of a tar, or of its share of one, each as a source of its own.

    A description (.json) without a video is rejected as `no_video`.
    """
    names = {_stem(one) for one in found.members if _is_video(one)}
    end = max((one.offset + one.size for one in found.members), default=1)
    for one in found.members:
        is_alone = one.name.endswith(".json") and _stem(one) not in names
        if one.offset * tar.raw.parts // end != tar.raw.part or not (_is_video(one) or is_alone):
            continue
        if is_alone:
            # Not `missing_file`, of which every run looks whether it is there now.
            left_out: dict[str, Any] = {"media_path": "", "spans": WHOLE, "raw": None}
            yield replace(tar, part=_stem(one), reason="no_video", **left_out)
        else:
            path = f"{tar.media_path}/{one.name}"
            yield replace(tar, part=_stem(one), media_path=path, raw=Uncut())


def _is_video(member: Member) -> bool:
    return PurePosixPath(member.name).suffix.lower() in VIDEO_SUFFIXES


def _stem(member: Member) -> str:
    return member.name.rpartition(".")[0]
