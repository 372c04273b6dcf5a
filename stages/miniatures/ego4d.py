"""Writes a miniature Ego4D: rendered videos in the official layout, with the original's oddities.

Everything that makes the original hard to read is here once or more: two annotators, rows out of
order, duplicates, times beyond the end, redacted minutes, stereo, broken and missing files. So the
whole pipeline can be run, and tested, where no one has signed a licence.
"""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from handloom.errors import UserError
from handloom.stages.miniatures.annotations import TITLE, metadata, narrated, write_manifest
from handloom.stages.miniatures.cast import plan
from handloom.stages.miniatures.encode import write_video

VERSION = 1  # raise it whenever the same arguments give other bytes
MARKER = ".complete.json"


def write(out: Path, clips: int = 110, seed: int = 0) -> None:
    """Write a miniature Ego4D with about `clips` narrated hand actions below `out`.

    The same arguments give the same bytes. A finished folder is left alone, any other miniature is
    written anew. Raises UserError where `out` holds an Ego4D that is not a miniature.
    """
    marker = {"clips": clips, "seed": seed, "version": VERSION}
    done = out / MARKER
    if done.is_file() and json.loads(done.read_text()) == marker:
        return
    _clear(out)
    videos = plan(clips, seed)
    _write_json(out / "v2/ego4d.json", metadata(videos))  # first: it says whose folder this is
    _write_json(out / "v2/annotations/narration.json", {v.uid: narrated(v) for v in videos})
    write_manifest(out / "v2/full_scale", videos)
    # Threads suffice: the encoder is a process of its own and runs while the next frames are drawn.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1) + 1) as pool:
        list(pool.map(lambda v: write_video(out / f"v2/full_scale/{v.uid}.mp4", v), videos))
    _write_json(done, marker)


def _clear(out: Path) -> None:
    """Remove an earlier miniature, finished or not; refuse to touch anything else."""
    listed = out / "v2/ego4d.json"
    if listed.is_file():
        with listed.open(encoding="utf-8") as file:
            if TITLE not in file.read(400):
                raise UserError(
                    f"{listed} exists and is not a miniature's. Name another folder to write to."
                )
        (out / MARKER).unlink(missing_ok=True)
        shutil.rmtree(out / "v2")


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.rename(path)
