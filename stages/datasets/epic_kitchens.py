"""EPIC-KITCHENS-100 and -55: long first-person kitchen videos with annotated action segments.

The annotation repositories (`epic-kitchens-100-annotations`, `-55-annotations`) lie in the data
folder, as checkouts or as their CSV files; the videos lie wherever the downloader put them
(`P01/videos/P01_01.MP4`, or `videos/train/P01/P01_01.MP4`). EPIC-100 contains all of EPIC-55 with
the same segments under other numbers, so that of the two releases only EPIC-100 is read.

Clips are cut by timestamps. The frame numbers beside them refer to the released frame archives,
whose rate differs from that of the videos. Subsets of the same segments (`UDA_annotations`,
`retrieval_annotations`), the times of the narrations (`EPIC_train_action_narrations.csv`) and rows
without a class (`EPIC_train_invalid_labels.csv`) are not read.

Consecutive segments overlap, one for each hand: all of them become clips.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from handloom.errors import UserError
from handloom.stages.datasets.media import contents, files_below, read_rows
from handloom.stages.datasets.source import Adapter, CutRule, SourceVideo, Span

HOW_TO_GET = (
    "EPIC-KITCHENS-100 (https://epic-kitchens.github.io) needs no form: `git clone "
    "https://github.com/epic-kitchens/epic-kitchens-100-annotations` into the data folder, and "
    "`python epic_downloader.py --videos --output-path DIR` of "
    "https://github.com/epic-kitchens/epic-kitchens-download-scripts (about 1.2 TB; --participants "
    "takes a part)."
)
SPLITS = ("train", "val", "test")  # later is stricter
SKIPPED_FOLDERS = frozenset(
    {"rgb_frames", "flow_frames", "frames_rgb_flow", "object_detection_images", "hand-objects"}
)

_TIME = re.compile(r"([0-9]{1,4}):([0-9]{1,2}):([0-9]{1,2}(?:\.[0-9]*)?)")
_VIDEO_ID = re.compile(r"P[0-9]{2}_[0-9]{2,3}")  # EPIC-100 adds some of three digits

Row = tuple[int, int, int, str, str]  # start, stop (ms), index into SPLITS, narration, its id


@dataclass(frozen=True)
class _Release:
    version: str
    tables: dict[str, str]  # split by file name
    video_info: str


RELEASES = (
    _Release(
        "100",
        {
            "EPIC_100_train.csv": "train",
            "EPIC_100_validation.csv": "val",
            "EPIC_100_test_timestamps.csv": "test",
        },
        "EPIC_100_video_info.csv",
    ),
    _Release(
        "55",
        {
            "EPIC_train_action_labels.csv": "train",
            "EPIC_test_s1_timestamps.csv": "test",
            "EPIC_test_s2_timestamps.csv": "test",
        },
        "EPIC_video_info.csv",
    ),
)


def videos(root: Path, rule: CutRule) -> Iterator[SourceVideo]:
    """Yield the annotated videos, sorted by id; all segments (90,000) are held in memory."""
    release, home = _find_release(root)
    durations_s = _read_durations(home / release.video_info)
    media = _find_media(root)
    for video_id, rows in sorted(_read_segments(release, home).items()):
        strictest = max(row[2] for row in rows)
        path = media.get(video_id, "")
        reason = "benchmark_test" if SPLITS[strictest] == "test" else ""
        yield SourceVideo(
            video_id=video_id,
            media_path=path,
            split=SPLITS[strictest],
            version=release.version,
            spans=tuple(make_spans(rows)),
            expected_s=durations_s.get(video_id, 0.0),
            reason=reason or ("" if path else "missing_file"),
        )


def annotations(root: Path) -> list[Path]:
    """The tables of the release and the list of video lengths, as far as they are present."""
    release, home = _find_release(root)
    paths = [home / name for name in (*release.tables, release.video_info)]
    return [path for path in paths if path.is_file()]


def make_spans(rows: Iterable[Row]) -> Iterator[Span]:
    """The spans of one video in time order; rows of the same times share one.

    The video belongs to the strictest split that lists it; rows of other splits are rejected, as
    `video_in_val` for example.
    """
    by_time: dict[tuple[int, int], list[tuple[int, str, str]]] = defaultdict(list)
    for start_ms, stop_ms, split, text, narration_id in rows:
        by_time[start_ms, stop_ms].append((split, text, narration_id))
    strictest = max(split for group in by_time.values() for split, _, _ in group)
    for (start_ms, stop_ms), group in sorted(by_time.items()):
        # Sorted: clips must not depend on the order of the tables.
        texts = sorted({text for _, text, _ in group if text})
        reason = "" if texts else "no_text"
        if stop_ms == 0:  # set where a time is unusable
            reason = "no_time"
        split = max(split for split, _, _ in group)
        if split != strictest:
            reason = f"video_in_{SPLITS[strictest]}"
        elif SPLITS[split] == "test":
            reason = "benchmark_test"
        yield Span(
            start_s=start_ms / 1000,
            end_s=stop_ms / 1000,
            text=texts[0] if texts else "",
            other_texts=tuple(texts[1:]),
            reason=reason,
            annotation_id=" ".join(sorted({id_ for _, _, id_ in group if id_})),
        )


def parse_timestamp(timestamp: str) -> int | None:
    """Milliseconds of `HH:MM:SS` with any number of decimals; None for other text."""
    match = _TIME.fullmatch(timestamp.strip())
    if not match:
        return None
    hours, minutes, seconds = match.groups()
    return (int(hours) * 60 + int(minutes)) * 60_000 + round(float(seconds) * 1000)


def _read_segments(release: _Release, home: Path) -> dict[str, list[Row]]:
    """The rows of all tables by video; both times are 0 if one of them is unusable."""
    segments: dict[str, list[Row]] = defaultdict(list)
    for name, split in release.tables.items():
        if not (home / name).is_file():
            continue
        needed = ["video_id", "start_timestamp", "stop_timestamp"]
        for row in read_rows(home / name, needed + ["narration"] * (split != "test")):
            if not (video_id := row["video_id"].strip()):
                raise UserError(f"{home / name} has a row without video_id; download it again.")
            start_ms = parse_timestamp(row["start_timestamp"])
            stop_ms = parse_timestamp(row["stop_timestamp"])
            if start_ms is None or stop_ms is None:
                start_ms = stop_ms = 0
            text = "" if split == "test" else row["narration"].strip()
            own_id = row.get("narration_id") or row.get("uid") or ""  # in EPIC-100, in EPIC-55
            segments[video_id].append((start_ms, stop_ms, SPLITS.index(split), text, own_id))
    return segments


def _read_durations(path: Path) -> dict[str, float]:
    """Lengths in seconds by video id, whose column is `video` in EPIC-55.

    A video that is shorter on disk was not downloaded whole.
    """
    durations_s: dict[str, float] = {}
    for row in read_rows(path, ["duration"]) if path.is_file() else ():
        try:
            durations_s[row.get("video_id") or row.get("video", "")] = float(row["duration"])
        except ValueError:
            continue  # the length only serves to detect truncated files
    return durations_s


def _find_media(root: Path) -> dict[str, str]:
    """Paths by video id; the suffix is upper case in official downloads (.MP4)."""
    paths: dict[str, str] = {}
    for path in sorted(files_below(root, root, (".mp4",), SKIPPED_FOLDERS)):
        video_id = path.rpartition("/")[2].rpartition(".")[0].upper()
        if _VIDEO_ID.fullmatch(video_id):
            paths.setdefault(video_id, path)
    return paths


def _find_release(root: Path) -> tuple[_Release, Path]:
    """The newest release at or below root, and the folder of its tables."""
    for release in RELEASES:
        labelled = [name for name, split in release.tables.items() if split != "test"]
        for folder in _folders(root, release.version):
            if any((folder / name).is_file() for name in labelled):
                return release, folder
    instead = contents(root)
    for folder in _folders(root, "100"):
        if pickles := sorted(path.name for path in folder.glob("EPIC_*.pkl")):
            instead = f"only pickles ({pickles[0]}), which can run code when opened"
    raise UserError(
        f"{root} holds {instead}; expected EPIC_100_train.csv or EPIC_100_validation.csv in it, in "
        f"annotations/ or in epic-kitchens-100-annotations/. {HOW_TO_GET}"
    )


def _folders(root: Path, version: str) -> Iterator[Path]:
    """Folders that may hold a release's tables; GitHub's archives end in the branch's name."""
    for base in (root, root / "annotations"):
        yield base
        for branch in ("", "-master", "-main"):
            yield base / f"epic-kitchens-{version}-annotations{branch}"


ADAPTER = Adapter(
    videos=videos,
    annotations=annotations,
    text_kind="narration",
    licence="cc-by-nc-4.0",
    terms="CC BY-NC 4.0: use and sharing with attribution, not for commercial purposes.",
    how_to_get=HOW_TO_GET,
)
