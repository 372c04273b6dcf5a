"""A miniature Ego4D: rendered videos in the official layout, with the oddities of the original.

Whatever makes the original hard to read occurs at least once: two annotators, unsorted rows,
duplicates, times after the end, redacted intervals, stereo, truncated and missing files. So the
whole pipeline can be run and tested without a signed licence.
"""

from functools import partial
from pathlib import Path

from handloom.stages.miniatures import folder
from handloom.stages.miniatures.annotations import TITLE, metadata, narration_entry, write_manifest
from handloom.stages.miniatures.encode import write_video
from handloom.stages.miniatures.people.cast import plan

VERSION = 1  # to be raised whenever the same arguments give other bytes
MARKER = folder.MARKER


def write(out: Path, clips: int = 110, seed: int = 0) -> None:
    """Write a miniature Ego4D with about `clips` narrated hand actions below `out`.

    The same arguments give the same bytes. A finished folder is left alone, any other miniature is
    written anew. Raises UserError where `out` holds an Ego4D that is not a miniature.
    """
    marker = {"clips": clips, "seed": seed, "version": VERSION}
    if folder.is_complete(out, marker):
        return
    listed = out / "v2/ego4d.json"  # written first: it names the owner of the folder
    folder.clear(out, listed, TITLE, ("v2",))
    videos = plan(clips, seed)
    folder.write_json(listed, metadata(videos))
    narrations = {video.uid: narration_entry(video) for video in videos}
    folder.write_json(out / "v2/annotations/narration.json", narrations)
    write_manifest(out / "v2/full_scale", videos)
    folder.in_parallel(
        partial(write_video, out / f"v2/full_scale/{video.uid}.mp4", video) for video in videos
    )
    folder.complete(out, marker, ("v2",))
