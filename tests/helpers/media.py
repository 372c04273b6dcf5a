"""What the tests of the video miniatures read: annotation tables and media files."""

import csv
from pathlib import Path
from typing import Any

import av

Rows = list[dict[str, str]]


def table(path: Path, delimiter: str = ",") -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def playable(paths: list[Path]) -> dict[str, dict[str, Any]]:
    """Facts of the files that can be opened, by name."""
    found = {}
    for path in paths:
        try:
            found[path.name] = _facts(path)
        except av.error.InvalidDataError:
            continue
    return found


def _facts(path: Path) -> dict[str, Any]:
    """Facts of a media file from its frames; raises av's error where it cannot be opened."""
    with av.open(str(path)) as media:
        video = media.streams.video[0]
        facts = {
            "codec": video.codec_context.name,
            "fps": video.average_rate,
            "size": (video.codec_context.width, video.codec_context.height),
            "sound": [stream.codec_context.name for stream in media.streams.audio],
            "kinds": [stream.type for stream in media.streams],
        }
        frames = 0
        for frame in media.decode(video=0):
            facts["rotation"], frames = frame.rotation, frames + 1
    return facts | {"frames": frames, "seconds": frames / facts["fps"]}
