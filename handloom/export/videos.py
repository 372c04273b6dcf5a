"""Whole videos of clips, a file for each camera, for formats that store each clip by itself."""

import re

from handloom.export.clips import ExportClip, Pictures
from handloom.export.mp4 import Encoding, mp4_bytes

KEY_EVERY_S = 1.0  # a clip is mostly read from its start


def encoded(one: ExportClip, pictures: Pictures, crf: int) -> dict[str, bytes]:
    """The MP4 of each camera of a clip, by its name.

    Raises:
        MediaError: the clip's pictures cannot be read.
    """
    encoding = Encoding(one.fps, crf, max(1, round(float(one.fps) * KEY_EVERY_S)))
    return {
        view: mp4_bytes(one.frames(pictures, view), encoding, f"{one.clip.clip_id}, {view}")
        for view in one.views
    }


def file_names(views: list[str]) -> dict[str, str]:
    """Names of cameras that may be parts of a file's or column's name: letters, digits and _."""
    names = {view: re.sub(r"\W+", "_", view, flags=re.ASCII).strip("_").lower() for view in views}
    if len(set(names.values())) < len(names) or not all(names.values()):
        return {view: f"view_{i}" for i, view in enumerate(views)}
    return names
