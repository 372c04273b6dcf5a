"""Annotations of the miniature Ego4D: two annotators' narrations, metadata, manifest."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from handloom.files import whole
from handloom.stages.miniatures.people.cast import FPS, TAIL_S, NarratedVideo, stable_uuid
from handloom.stages.miniatures.people.raster import HEIGHT

TITLE = "handloom miniature of Ego4D"
# Annotators tag a narration of the wearer in all of these ways, in the original too.
TAGS = ("#C C {} ", "#C C {}", "#C C {} ", "#c c {}", "#C C {}\n", "# C C {}", "#C #C C {} ")
BYSTANDERS = ("#O X looks at the table ", "#unsure C touches something ", "#O Y talks to C")


def narration_entry(video: NarratedVideo) -> dict[str, Any]:
    """A video's entry in narration.json, by one or two annotators."""
    entry: dict[str, Any] = {
        f"narration_pass_{number}": _narration_pass(video, number)
        for number in range(1, video.passes + 1)
    }
    return entry | {"status": "redacted_partial" if "test" in video.splits else "complete"}


def _narration_pass(video: NarratedVideo, number: int) -> dict[str, Any]:
    """The pass of one annotator; the second is 0.1 s later and uses other words."""
    key = _variant(video)
    late_s = 0.1 * (number - 1)
    person = stable_uuid(key, number)
    rows = [
        _narration_row(
            narration[0] + late_s, TAGS[(key + i) % len(TAGS)].format(narration[number]), person
        )
        for i, narration in enumerate(video.narrations)
    ]
    rows.append(_narration_row(video.seconds - TAIL_S + late_s, BYSTANDERS[key % 3], person))
    rows.append(rows[0])  # an exact duplicate
    if key % 2:  # after the end
        rows.append(_narration_row(video.seconds + 3, "#C C leaves the table ", person))
    summary = {
        "start_sec": 0.0,
        "end_sec": round(video.seconds, 4),
        "summary_text": "#Summary C was at a table. C moved things about.",
        "annotation_uid": person,
    }
    # Rows are not in time order in the original either.
    order = np.random.default_rng((key, number)).permutation(len(rows))
    return {"narrations": [rows[i] for i in order], "summaries": [summary]}


def _variant(video: NarratedVideo) -> int:
    """A number of the video that varies what its annotators do."""
    return int(video.uid[-6:], 16)


def _narration_row(at_s: float, text: str, person: str) -> dict[str, Any]:
    frame = round(at_s * FPS)
    at_s = round(frame / FPS, 7)
    return {
        "timestamp_sec": at_s,
        "timestamp_frame": frame,
        "_unmapped_timestamp_sec": at_s,
        "narration_text": text,
        "annotation_uid": person,
    }


def metadata(videos: Iterable[NarratedVideo]) -> dict[str, Any]:
    """Content of ego4d.json."""
    return {
        "date": "230101",
        "version": "v2",
        "description": TITLE,
        "videos": [_metadata_entry(video) for video in videos],
        "concurrent_video_sets": [],
        "physical_settings": [],
        "clips": [],
    }


def _metadata_entry(video: NarratedVideo) -> dict[str, Any]:
    """A video's entry in ego4d.json."""
    seconds = round(video.seconds, 4)
    scenario = "Walking on street" if video.landscape else "Playing with toys"
    media = {
        "fps": float(FPS),
        "num_frames": round(seconds * FPS),
        "video_codec": "vp9",
        "audio_codec": None,
        "display_resolution_width": video.width,
        "display_resolution_height": HEIGHT,
        "sample_resolution_width": video.width,
        "sample_resolution_height": HEIGHT,
        "mp4_duration_sec": seconds,
        "video_start_sec": 0.0,
        "video_duration_sec": seconds,
        "audio_start_sec": None,
        "audio_duration_sec": None,
    }
    return {
        "video_uid": video.uid,
        "duration_sec": seconds,
        "scenarios": [scenario],
        "video_metadata": media,
        **dict(zip(("split_em", "split_av", "split_fho"), video.splits, strict=True)),
        "s3_path": None,
        "origin_video_id": video.uid,
        "video_source": "rendered",
        "device": "rendered",
        "physical_setting_name": None,
        "fb_participant_id": None,
        "is_stereo": video.fault == "stereo",
        "has_imu": False,
        "has_gaze": False,
        "video_components": [],
        "concurrent_sets": None,
        "has_redacted_regions": bool(video.redacted),
        "redacted_intervals": [_interval(*span) for span in video.redacted],
        "gaps": [],
    }


def _interval(start_s: float, end_s: float) -> dict[str, float]:
    return {
        "start_sec": round(start_s, 4),
        "end_sec": round(end_s, 4),
        "start_frame": round(start_s * FPS),
        "end_frame": round(end_s * FPS),
    }


def write_manifest(folder: Path, videos: Iterable[NarratedVideo]) -> None:
    """Write full_scale/manifest.csv, with lists in the unquoted form of the original."""
    rows = [_manifest_row(_metadata_entry(video)) for video in videos]
    with (
        whole(folder / "manifest.csv", sync=False) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "manifest.ver").write_text("v2\n")


def _manifest_row(entry: dict[str, Any]) -> dict[str, Any]:
    media = entry["video_metadata"]
    kept = ("split_em", "split_av", "split_fho", "origin_video_id", "video_source", "device")
    size = {
        f"display_resolution_{side}": media[f"display_resolution_{side}"]
        for side in ("width", "height")
    }
    return {
        "video_uid": entry["video_uid"],
        "path": f"{entry['video_uid']}.mp4",
        "duration_sec": entry["duration_sec"],
        "scenarios": f"[{'|'.join(entry['scenarios'])}]",
        **{name: entry[name] for name in kept},
        "benchmarks": "[EM]",
        **size,
        "canonical_s3_location": None,
        "canonical_fps": media["fps"],
        "canonical_num_frames": media["num_frames"],
        "canonical_mp4_duration_sec": media["mp4_duration_sec"],
        "canonical_video_start_sec": media["video_start_sec"],
        "canonical_video_duration_sec": media["video_duration_sec"],
        "canonical_is_validated": True,
    }
