"""Ego4D: long first-person videos with point narrations by two annotators.

The layout is that of the official `ego4d` download: `v1/` or `v2/` (or the folder itself) holding
`ego4d.json`, `annotations/narration.json` and `full_scale/<video_uid>.mp4`.

Each annotator's pass narrates the whole video. The pass with more narrations of the camera wearer
cuts the video into spans; the other pass's texts are attached to the spans they fall into.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import ijson

from handloom.errors import UserError
from handloom.stages.datasets.source import Adapter, CutRule, SourceVideo, Span

HOW_TO_GET = (
    "Ego4D is free for research under a signed licence (https://ego4ddataset.com): sign it, then "
    "`pip install ego4d` and `ego4d --output_directory DIR --datasets full_scale annotations "
    "--metadata --version v2` (about 7 TB; --video_uids takes a part)."
)
NARRATIONS = ("narration.json", "narrations.json")
MEDIA = ("full_scale", "video_540ss")  # the same videos at two sizes: one of them is enough
PASSES = ("narration_pass_1", "narration_pass_2")

# "#C C opens the door", "# C c opens", "#c #C C opens", "#unsure #C C opens", "#O A man X sits"
_TAGS = re.compile(r"^(?:\s*#\s*(?:c|o|unsure|summary)\b)+", re.IGNORECASE)


@dataclass(frozen=True)
class _Metadata:
    split: str
    expected_s: float
    is_stereo: bool
    redacted_s: tuple[tuple[float, float], ...]


def videos(root: Path, rule: CutRule) -> Iterator[SourceVideo]:
    """Stream the narrated videos; narration.json is never held in memory whole."""
    home = _home(root)
    metadata = _read_metadata(home / "ego4d.json")
    media = _media_folder(home)
    present = {path.stem: path for path in media.glob("*.mp4") if path.is_file()}
    for uid, entry in _read_narrations(_narration_file(home)):
        if not isinstance(entry, dict):
            raise UserError(
                f"{_narration_file(home)} has {type(entry).__name__} for {uid!r}, expected an "
                "object with narration_pass_1; this is not Ego4D's narration.json."
            )
        file = present.get(uid)
        facts = metadata.get(uid, _Metadata("", 0.0, False, ()))
        yield SourceVideo(
            video_id=uid,
            media_path=file.relative_to(root).as_posix() if file else "",
            split=facts.split,
            version=home.name if home.name in ("v1", "v2") else "unknown",
            spans=tuple(cut(entry, rule, facts.redacted_s)),
            expected_s=facts.expected_s,
            reason=_left_out(uid, facts, has_file=file is not None),
        )


def annotations(root: Path) -> list[Path]:
    """The two files that say what is in the dataset."""
    home = _home(root)
    return [home / "ego4d.json", _narration_file(home)]


def cut(
    entry: dict[str, Any], rule: CutRule, redacted_s: Iterable[tuple[float, float]] = ()
) -> Iterator[Span]:
    """Turn one video's narrations into spans.

    A span runs from one narration to the next of the same pass, by whomever, and at most
    `rule.max_s`. Narrations at the same millisecond share a span. Rows without a usable time share
    one span of no length, rejected as `no_time`.

    Args:
        entry: the value of the video's uid in narration.json.
        rule: how long a span may be.
        redacted_s: intervals of blanked picture, seconds.
    """
    passes = [_by_time(entry.get(name)) for name in PASSES]
    first, second = sorted(passes, key=_wearer_count, reverse=True)
    starts = sorted(ms for ms in first if ms is not None)
    for i, start in enumerate(starts):
        end_s = start / 1000 + rule.max_s
        if i + 1 < len(starts):
            end_s = min(end_s, starts[i + 1] / 1000)
        others = [
            t for ms in second if ms is not None and start <= ms < end_s * 1000 for t in second[ms]
        ]
        redacted = any(a < end_s and start / 1000 < b for a, b in redacted_s)
        yield _span(start / 1000, end_s, first[start], others, "redacted" if redacted else "")
    if None in first:
        yield _span(0.0, 0.0, first[None], [], "no_time")


def who_acts(text: str) -> str:
    """`wearer`, `other`, `summary` or `unknown`: who does what the narration tells."""
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
    if len(subject) == 1 and subject.isalpha() and subject != "A":
        return "wearer" if subject.upper() == "C" else "other"
    return "unknown"


def _span(start_s: float, end_s: float, texts: list[str], others: list[str], reason: str) -> Span:
    """One span from the texts at its start: the wearer's comes first."""
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


def _by_time(narration_pass: dict[str, Any] | None) -> dict[int | None, list[str]]:
    """Texts by millisecond; the same text at the same time counts once."""
    found: dict[int | None, list[str]] = defaultdict(list)
    for row in (narration_pass or {}).get("narrations") or []:
        time_s = row.get("timestamp_sec")
        usable = isinstance(time_s, int | float | Decimal) and time_s >= 0
        key = round(float(time_s) * 1000) if usable else None
        text = str(row.get("narration_text") or "")
        if text not in found[key]:
            found[key].append(text)
    return found


def _wearer_count(texts: dict[int | None, list[str]]) -> int:
    return sum(who_acts(text) == "wearer" for group in texts.values() for text in group)


def _left_out(uid: str, facts: _Metadata, has_file: bool) -> str:
    if uid.startswith("grp-"):
        return "grouped_video"  # several videos joined, each of them present on its own
    if facts.is_stereo:
        return "stereo"  # two pictures side by side
    if facts.split == "test":
        return "benchmark_test"
    return "" if has_file else "missing_file"


def _official_split(video: dict[str, Any]) -> str:
    """The strictest of the benchmarks' splits; a video that is in several counts as held out."""
    splits = {video.get(f"split_{benchmark}") for benchmark in ("em", "av", "fho")}
    if "test" in splits:
        return "test"
    if splits & {"val", "multi"}:
        return "val"
    return "train" if "train" in splits else ""


def _read_metadata(path: Path) -> dict[str, _Metadata]:
    """What is needed of each video in ego4d.json, about 200 bytes for each of some 10,000."""
    found = {}
    with path.open("rb") as file:
        for video in _parsed(path, ijson.items(file, "videos.item", use_float=True)):
            intervals = video.get("redacted_intervals") or []
            found[str(video.get("video_uid"))] = _Metadata(
                split=_official_split(video),
                expected_s=float((video.get("video_metadata") or {}).get("mp4_duration_sec") or 0),
                is_stereo=bool(video.get("is_stereo")),
                redacted_s=tuple((float(i["start_sec"]), float(i["end_sec"])) for i in intervals),
            )
    return found


def _read_narrations(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream (uid, entry) pairs; some releases wrap them in a `videos` object."""
    with path.open("rb") as file:
        events = ijson.parse(file)
        keys = (value for _, event, value in _parsed(path, events) if event == "map_key")
        prefix = "videos" if next(keys, None) == "videos" else ""
    with path.open("rb") as file:
        yield from _parsed(path, ijson.kvitems(file, prefix, use_float=True))


def _parsed(path: Path, items: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from items
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not complete JSON ({str(error).splitlines()[0]}); download it again."
        ) from None


def _home(root: Path) -> Path:
    """The folder of the newest release below root."""
    for home in (root / "v2", root / "v1", root):
        if (home / "ego4d.json").is_file():
            return home
    raise UserError(
        f"{root} is not an Ego4D download: expected v2/ego4d.json (or v1/ego4d.json) below it. "
        f"{HOW_TO_GET}"
    )


def _narration_file(home: Path) -> Path:
    for name in NARRATIONS:
        if (home / "annotations" / name).is_file():
            return home / "annotations" / name
    raise UserError(
        f"{home / 'annotations'} holds no narration.json, which says what happens when; download "
        "it with `ego4d --datasets annotations`."
    )


def _media_folder(home: Path) -> Path:
    for name in MEDIA:
        if (home / name).is_dir():
            return home / name
    raise UserError(
        f"{home} holds neither {MEDIA[0]}/ nor {MEDIA[1]}/ with the videos; download them with "
        "`ego4d --datasets full_scale`."
    )


ADAPTER = Adapter(
    videos=videos,
    annotations=annotations,
    text_kind="narration",
    licence="ego4d-signed-licence",
    terms="Research under a signed licence; no redistribution of video or annotations.",
    how_to_get=HOW_TO_GET,
)
