"""Finished runs to export, made by the stages themselves without Ray, and what exports hold."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import yaml

from handloom.stages.caption.rows import CaptionRow
from handloom.stages.duplicates.rows import DuplicateRow
from handloom.stages.episodes.stage import Episodes
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.media.clip_frames import Framing
from handloom.stages.select import SelectRow
from handloom.stages.tables.parts import Table, write_flow, write_marker
from handloom.stages.tables.rows import Clip, EpisodeClip, Row
from handloom.stages.tokens import TokenRow
from tests.helpers.recorded_runs import FINGERPRINT, FLOW, clip_row, hands_row
from tests.helpers.videos import write_grey_video

EPISODE_FLOW = {"ingest": "", "episodes": "ingest", "caption": "episodes", "tokens": "episodes"}
CODES = {"codes": bytes(2), "shape": [1, 1, 1, 1], "times_s": [0.0]}


def curated_episodes(out: Path, data: Path, source: str = "lerobot", **options: Any) -> Path:
    """A finished run of robot episodes: all that its dataset's adapter lists."""
    ingest = EpisodeIngest(dataset=source, format=source, **options).at(data)
    clips = [clip for place in ingest.sources() for clip in ingest(place)]
    assert all(isinstance(clip, EpisodeClip) for clip in clips)
    stage = Episodes()
    kept = [row for clip in clips for row in stage(clip, clip)]
    tables: dict[str, list[Row]] = {"ingest": list(clips), "episodes": list(kept)}
    ids = {row.clip_id for row in kept if row.status == "ok"}
    tables |= _captioned([clip for clip in clips if clip.clip_id in ids])
    chosen = {"format": source, "dataset": source, **options}
    return write_finished(out, data, tables, EPISODE_FLOW, source, chosen)


def curated_clips(out: Path, data: Path, clips: Iterable[Clip] = ()) -> Path:
    """A finished run of videos; by default of those that `grey_clips` writes."""
    clips = list(clips) or grey_clips(data)
    tables: dict[str, list[Row]] = {"ingest": list(clips), "hands": [], "duplicates": []}
    for clip in clips:
        framing = Framing(
            clip_id=clip.clip_id, shot_start_s=clip.start_s, shot_end_s=clip.end_s,
            picture_xyxy=[0.0, 0.0, 1.0, 1.0],
        )  # fmt: skip
        tables["hands"].append(hands_row(clip, framing))
        tables["duplicates"].append(
            DuplicateRow(clip_id=clip.clip_id, similarity=0.0, leak_similarity=0.0, matches=[])
        )
    scores = dict.fromkeys((f for f in SelectRow.__annotations__), 0.0) | {"searched_frames": 1}
    tables["select"] = [SelectRow(clip_id=clip.clip_id, **scores) for clip in clips]
    tables |= _captioned(clips)
    return write_finished(out, data, tables, FLOW, "ego4d", {})


def grey_clips(data: Path, fps: int = 10) -> list[Clip]:
    """Clips of two videos of 40 frames, whose grey tells the number of the frame."""
    (data / "videos").mkdir(parents=True)
    for number, name in enumerate("ab"):
        levels = [20 + 5 * i + 2 * number for i in range(40)]
        write_grey_video(data / f"videos/{name}.mp4", levels, fps, crf="1")
    facts: dict[str, Any] = {"fps": float(fps), "width": 64, "height": 48, "duration_s": 4.0}
    return [
        clip_row("a1", 0.5, 1.5, **facts, text="lifts a cup"),
        clip_row("a2", 2.0, 3.5, **facts, text="turns | a *screw* <b>"),
        clip_row(
            "b1", 1.0, 2.0, **facts, media_path="videos/b.mp4", split="val", text="cuts bread"
        ),
    ]


def _captioned(clips: list[Any]) -> dict[str, list[Row]]:
    return {
        "caption": [CaptionRow(clip_id=c.clip_id, caption=c.text.lower()) for c in clips],
        "tokens": [TokenRow(clip_id=c.clip_id, **CODES) for c in clips],
    }


def write_finished(
    out: Path,
    data: Path,
    tables: dict[str, list[Row]],
    flow: dict[str, str],
    dataset: str,
    ingest: dict[str, Any],
) -> Path:
    """Write the tables of a run, each row into its clip's bucket, and all its markers."""
    buckets = {row.clip_id: row.bucket for row in tables["ingest"] if isinstance(row, Clip)}
    for stage, rows in tables.items():
        table, parts = Table(out / "tables" / stage, FINGERPRINT), defaultdict[str, list[Row]](list)
        for row in rows:
            parts[buckets[row.clip_id]].append(row)
        for bucket, of_bucket in parts.items():
            table.write(bucket, "0", of_bucket, type(of_bucket[0]))
        write_marker(table.folder, {"fingerprint": FINGERPRINT, "finished": True})
    write_marker(out / "shards", {"finished": True})
    record = {"dataset": dataset, "data": str(data), "config": {"ingest": _plain(ingest)}}
    (out / "run.yaml").write_text(yaml.safe_dump(record))
    write_flow(out, flow)
    return out


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {n: list(v) if isinstance(v, tuple) else v for n, v in options.items()}


def relabelled(out: Path, clip: Clip, caption: str) -> None:
    """Give a clip another caption, as a later `handloom curate` may."""
    table = Table(out / "tables/caption", FINGERPRINT)
    rows = list(table.read(CaptionRow, clip.bucket))
    changed = [replace(r, caption=caption) if r.clip_id == clip.clip_id else r for r in rows]
    table.write(clip.bucket, "0", changed, CaptionRow)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def greys(video: Any) -> list[int]:
    """Mean grey level of each frame of an MP4: a path, or an open file."""
    with av.open(video) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [round(float(np.asarray(frame).mean())) for frame in frames]
