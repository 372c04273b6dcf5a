"""Ego4D: long first-person videos, narrated by two annotators at points in time.

The layout is that of the official `ego4d` download: `v1/` or `v2/` (or the folder itself) holding
`ego4d.json`, `annotations/narration.json` and `full_scale/<video_uid>.mp4`. `clips/` holds parts of
the same videos and is not read; `video_540ss/` is read if there is no `full_scale/`. Usually only a
part of the videos is present, and some belong to the other release: neither is an error.

Each annotator's pass narrates the whole video. The pass with more narrations of the camera wearer
cuts the video into spans; texts of the other pass are attached to the spans that they fall into.

A narration is a point in time. Its span reaches to the next one of its pass, by whomever, and is
no longer than `max_s`.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import ijson

from handloom.errors import UserError, first_line
from handloom.stages.datasets.formats.json_reader import CleanJson
from handloom.stages.datasets.media import unchanged
from handloom.stages.datasets.source import Adapter, CutRule, SourceVideo, Span

HOW_TO_GET = (
    "Ego4D is free for research under a signed licence (https://ego4ddataset.com): sign it, then "
    "`pip install ego4d` and `ego4d --output_directory DIR --datasets full_scale annotations "
    "--metadata --version v2` (about 7 TB; --video_uids takes a part)."
)
NARRATIONS = ("narration.json", "narrations.json")
REDACTED = "all_narrations_redacted.json"  # the same texts, with times that may count from a clip
MEDIA = ("full_scale", "video_540ss")  # the same videos in two sizes; one is read
PASSES = ("narration_pass_1", "narration_pass_2")

# "#C C opens the door", "# C c opens", "#c #C C opens", "#unsure #C C opens", "#O A man X sits"
LATEST_S = 1e7  # four months; later times are invalid


# Layouts of videos cut into pieces, by whether the folder of a video ends in .mp4.
_LAYOUTS = {
    True: "LaViLa's, pieces of 300 s called <video_uid>.mp4/<start>.mp4",
    False: "EgoVLP's, pieces of 600 s called <video_uid>/<number>.mp4",
}
_TAGS = re.compile(r"^(?:\s*#\s*(?:c|o|unsure|summary)\b)+", re.IGNORECASE)


@dataclass(frozen=True)
class _Metadata:
    split: str
    expected_s: float
    is_stereo: bool
    redacted_s: tuple[tuple[float, float], ...]


def videos(root: Path, rule: CutRule) -> Iterator[SourceVideo]:
    """Stream the narrated videos; narration.json is never held in memory as a whole."""
    metadata_by_uid = _read_metadata(_metadata_file(root))
    narrations = _narration_file(root)
    release = narrations.parent.parent.name
    present = _find_media(root)
    for uid, entry in _read_narrations(narrations):
        if not isinstance(entry, dict):
            raise UserError(
                f"{narrations} has {type(entry).__name__} for {uid!r}, expected an "
                "object with narration_pass_1; this is not Ego4D's narration.json."
            )
        file = present.get(uid)  # found among the files: a uid is never made into a path
        metadata = metadata_by_uid.get(uid, _Metadata("", 0.0, False, ()))
        yield SourceVideo(
            video_id=uid,
            media_path=file.relative_to(root).as_posix() if file else "",
            split=metadata.split,
            version=release if release in ("v1", "v2") else "unknown",
            spans=tuple(cut(entry, rule, metadata.redacted_s)),
            expected_s=metadata.expected_s,
            reason=_reason(uid, metadata, has_file=file is not None),
        )


def annotations(root: Path) -> list[Path]:
    """The two files that describe the dataset."""
    return [_metadata_file(root), _narration_file(root)]


def cut(
    entry: dict[str, Any], rule: CutRule, redacted_s: Iterable[tuple[float, float]] = ()
) -> Iterator[Span]:
    """The spans of one video's narrations.

    Narrations of the same millisecond share a span. Rows without a usable time share one span of no
    length, rejected as `no_time`.

    Args:
        entry: the value of the video's uid in narration.json.
        rule: how long a span may be.
        redacted_s: intervals in which the image is blanked, seconds.
    """
    passes = [_texts_by_time(entry.get(name)) for name in PASSES]
    first, second = sorted(passes, key=_wearer_count, reverse=True)
    times = sorted(ms for ms in first if ms is not None)
    place = {ms: i for i, ms in enumerate(second) if ms is not None}
    other_times = sorted(place)
    for ms, (start, end) in zip(times, _span_bounds(times, rule), strict=True):
        inside = other_times[bisect_left(other_times, start) : bisect_left(other_times, end)]
        # In the order of the file, not of time.
        others = [text for at in sorted(inside, key=place.__getitem__) for text in second[at]]
        start_s, end_s = start / 1000, end / 1000
        redacted = any(a < end_s and start_s < b for a, b in redacted_s)
        yield _span(start_s, end_s, first[ms], others, "redacted" if redacted else "")
    if None in first:
        yield _span(0.0, 0.0, first[None], [], "no_time")


@lru_cache(maxsize=4096)  # asked several times for each narration of a video
def who_acts(text: str) -> str:
    """Who acts in a narration: `wearer`, `other`, `summary` or `unknown`."""
    tags = _TAGS.match(text)
    letters = set(re.findall(r"[a-z]+", tags.group().lower())) if tags else set()
    if "summary" in letters:
        return "summary"
    if "c" in letters:
        return "wearer"
    if "o" in letters:
        return "other"
    words = text[tags.end() if tags else 0 :].split()
    subject = words[0] if words else ""
    # "C opens the door" is the wearer, "X sits" another person, "A man sits" an article.
    if len(subject) == 1 and subject.isalpha() and subject != "A":
        return "wearer" if subject.upper() == "C" else "other"
    return "unknown"


def _span_bounds(times: list[int], rule: CutRule) -> Iterator[tuple[int, int]]:
    """Start and end of the span of each narration; milliseconds, as the times are."""
    longest = round(rule.max_s * 1000)
    for i, ms in enumerate(times):
        yield ms, min([ms + longest, *times[i + 1 : i + 2]])


def _span(start_s: float, end_s: float, texts: list[str], others: list[str], reason: str) -> Span:
    """One span from the texts at its start, those of the wearer first."""
    texts = sorted(texts, key=lambda text: who_acts(text) != "wearer")
    actor = who_acts(texts[0])
    flags = ["unsure"] * ("#unsure" in texts[0].lower().replace(" ", ""))
    flags += ["no_tag"] * (not _TAGS.match(texts[0]))
    if not _TAGS.sub("", texts[0]).strip():
        reason = reason or "no_text"
    elif actor in ("other", "summary"):
        reason = reason or {"other": "other_person", "summary": "summary"}[actor]
    mine = [text for text in [*texts[1:], *others] if who_acts(text) == "wearer"]
    return Span(start_s, end_s, texts[0], tuple(dict.fromkeys(mine)), tuple(flags), reason)


def _texts_by_time(narration_pass: Any) -> dict[int | None, list[str]]:
    """Texts by millisecond, each once, or by None where the time is unusable."""
    by_time: dict[int | None, list[str]] = defaultdict(list)
    rows = narration_pass.get("narrations") if isinstance(narration_pass, dict) else None
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict):
            by_time[None].append(str(row))
            continue
        time_s: Any = row.get("timestamp_sec")
        usable = isinstance(time_s, int | float | Decimal) and 0 <= time_s < LATEST_S
        key = round(float(time_s) * 1000) if usable else None
        text = str(row.get("narration_text") or "")
        if text not in by_time[key]:
            by_time[key].append(text)
    return by_time


def _wearer_count(texts: dict[int | None, list[str]]) -> int:
    return sum(who_acts(text) == "wearer" for group in texts.values() for text in group)


def _reason(uid: str, metadata: _Metadata, has_file: bool) -> str:
    if uid.startswith("grp-"):
        return "grouped_video"  # several videos joined, each of them present on its own
    if metadata.is_stereo:
        return "stereo"  # two images side by side
    if metadata.split == "test":
        return "benchmark_test"
    return "" if has_file else "missing_file"


def _official_split(video: dict[str, Any]) -> str:
    """The strictest of the benchmarks' splits: a video that any of them holds out is held out."""
    splits = {video.get(f"split_{benchmark}") for benchmark in ("em", "av", "fho")}
    if "test" in splits:
        return "test"
    if splits & {"val", "multi"}:
        return "val"
    return "train" if "train" in splits else ""


def _read_metadata(path: Path) -> dict[str, _Metadata]:
    """Metadata of each video in ego4d.json, by uid: about 200 bytes for each of 10,000 videos."""
    by_uid = {}
    with path.open("rb") as file, unchanged(file, path):
        for video in _checked_json(
            path, ijson.items(CleanJson(file, path), "videos.item", use_float=True)
        ):
            try:
                by_uid[str(video["video_uid"])] = _parse_metadata(video)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"{path} has an entry below `videos` that is not a video's ({error!r}); "
                    "download it again."
                ) from None
    return by_uid


def _parse_metadata(video: dict[str, Any]) -> _Metadata:
    intervals = video.get("redacted_intervals") or []
    return _Metadata(
        split=_official_split(video),
        expected_s=float((video.get("video_metadata") or {}).get("mp4_duration_sec") or 0),
        is_stereo=bool(video.get("is_stereo")),
        redacted_s=tuple((float(i["start_sec"]), float(i["end_sec"])) for i in intervals),
    )


def _read_narrations(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream (uid, entry) pairs; some releases wrap them in a `videos` object."""
    with path.open("rb") as file:
        events = ijson.parse(CleanJson(file, path))
        keys = (value for _, event, value in _checked_json(path, events) if event == "map_key")
        prefix = "videos" if next(keys, None) == "videos" else ""
    with path.open("rb") as file, unchanged(file, path):
        entries = ijson.kvitems(CleanJson(file, path), prefix, use_float=True)
        yield from _checked_json(path, entries)


def _checked_json(path: Path, items: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from items
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not complete JSON ({first_line(error)}); download it again."
        ) from None


def _list_homes(root: Path) -> list[Path]:
    """Folders that may hold a release, the newest first."""
    return [root / "v2", root / "v1", root]


def _metadata_file(root: Path) -> Path:
    for home in _list_homes(root):
        if (home / "ego4d.json").is_file():
            return home / "ego4d.json"
    raise UserError(
        f"{root} is not an Ego4D download: expected v2/ego4d.json (or v1/ego4d.json) below it. "
        f"{HOW_TO_GET}"
    )


def _narration_file(root: Path) -> Path:
    for home in _list_homes(root):
        for name in NARRATIONS:
            if (home / "annotations" / name).is_file():
                return home / "annotations" / name
    folder = _metadata_file(root).parent / "annotations"
    found = ""
    if any((home / "annotations" / REDACTED).is_file() for home in _list_homes(root)):
        found = f" ({REDACTED} beside it has the same texts, but no times on the whole video)"
    raise UserError(
        f"{folder} holds no narration.json, which says what happens when{found}; download it with "
        "`ego4d --datasets annotations`."
    )


def _find_media(root: Path) -> dict[str, Path]:
    """Video files by uid, from one folder: the others hold the same videos again."""
    folders = [home / name for home in _list_homes(root) for name in MEDIA]
    present = [folder for folder in folders if folder.is_dir()]
    for folder in present:
        paths = {path.stem: path for path in folder.glob("*.mp4") if path.is_file()}
        if paths:
            return paths
    homes = [home for home in _list_homes(root) if home.is_dir()]
    for folder in present or sorted(p for home in homes for p in home.iterdir() if p.is_dir()):
        _refuse_pieces(folder)
    if present:
        return {}
    raise UserError(
        f"{_metadata_file(root).parent} holds neither {MEDIA[0]}/ nor {MEDIA[1]}/ with the "
        "videos; download them with `ego4d --datasets full_scale`."
    )


def _refuse_pieces(folder: Path) -> None:
    """Raise UserError for videos cut into pieces, whose times are not those of narrations."""
    for video in sorted(path for path in folder.iterdir() if path.is_dir()):
        if any(piece.stem.isdecimal() for piece in video.glob("*.mp4")):
            raise UserError(
                f"{folder} is laid out like {_LAYOUTS[video.suffix == '.mp4']}, expected whole "
                "videos in full_scale/<video_uid>.mp4; point --data at the download that the "
                "pieces were made of."
            )


ADAPTER = Adapter(
    videos=videos,
    annotations=annotations,
    text_kind="narration",
    licence="ego4d-signed-licence",
    terms="Research under a signed licence; no redistribution of video or annotations.",
    how_to_get=HOW_TO_GET,
)
