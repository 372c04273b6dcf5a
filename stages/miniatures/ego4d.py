"""Writes a miniature Ego4D: rendered videos in the official layout, with the original's oddities.

Everything that makes the original hard to read is here once or more: two annotators, rows out of
order, duplicates, times beyond the end, redacted minutes, stereo, broken and missing files. So the
whole pipeline can be run, and tested, where no one has signed a licence.
"""

from functools import partial
from pathlib import Path

from handloom.stages.miniatures import folder
from handloom.stages.miniatures.annotations import TITLE, metadata, narrated, write_manifest
from handloom.stages.miniatures.encode import write_video
from handloom.stages.miniatures.people.cast import plan

VERSION = 1  # raise it whenever the same arguments give other bytes
MARKER = folder.MARKER


def write(out: Path, clips: int = 110, seed: int = 0) -> None:
    """Write a miniature Ego4D with about `clips` narrated hand actions below `out`.

    The same arguments give the same bytes. A finished folder is left alone, any other miniature is
    written anew. Raises UserError where `out` holds an Ego4D that is not a miniature.
    """
    marker = {"clips": clips, "seed": seed, "version": VERSION}
    if folder.is_complete(out, marker):
        return
    listed = out / "v2/ego4d.json"  # written first: it says whose folder this is
    folder.clear(out, listed, TITLE, ("v2",))
    videos = plan(clips, seed)
    folder.write_json(listed, metadata(videos))
    narrations = {video.uid: narrated(video) for video in videos}
    folder.write_json(out / "v2/annotations/narration.json", narrations)
    write_manifest(out / "v2/full_scale", videos)
    folder.in_parallel(
        partial(write_video, out / f"v2/full_scale/{video.uid}.mp4", video) for video in videos
    )
    folder.complete(out, marker, ("v2",))
