"""Ego-Exo4D: takes of skilled work, filmed by Aria glasses on the head and by cameras around.

The layout is that of the official `egoexo` download:

    takes.json                                     a list: take_uid, root_dir, length, its videos
    annotations/splits.json                        take_uid_to_split: train, val or test
    annotations/atomic_descriptions_train.json     and _val: annotations by take_uid
    annotations/ego_pose/<split>/camera_pose/<take_uid>.json        of some takes
    takes/<take_name>/frame_aligned_videos/aria01_214-1.mp4         the glasses' colour camera
    takes/<take_name>/frame_aligned_videos/downscaled/448/aria01_214-1.mp4      the same, smaller

Only the glasses' view is read, of each take in the larger size that is there. Each
annotator describes a whole take, in sentences at points in time. The one with most sentences on the
wearer cuts the take into spans, up to the next sentence, whoever it is of, and no longer than
`max_s`; what the others say of the same seconds is attached.

Poses are of the frames for which poses of the body or hands were annotated, and their intrinsics
are for the undistorted picture of 512 x 512 that the official tools make, not for the video.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import ijson
import numpy as np

from handloom.errors import MediaError, UserError, first_line
from handloom.stages.datasets.camera_track import CameraTrack, pinhole, poses_of
from handloom.stages.datasets.formats.json_reader import CleanJson
from handloom.stages.datasets.formats.json_stream import load_value
from handloom.stages.datasets.media import cached_by_file, contents, files_below, unchanged
from handloom.stages.datasets.source import TO_THE_END, Adapter, CutRule, SourceVideo, Span
from handloom.stages.tables.rows import Footage

HOW_TO_GET = (
    "Ego-Exo4D is free for research under a signed licence (https://ego-exo4d-data.org): sign it, "
    "then `pip install ego4d` and `egoexo -o DIR --parts metadata annotations downscaled_takes/448 "
    "--views ego` (takes for the videos in full size, --benchmarks or --uids for a part)."
)
TAKES, SPLITS_FILE = "takes.json", "annotations/splits.json"
DESCRIBED = ("val", "train")  # the stricter split first
STRICTNESS = ("", "train", "val", "test")
COLOUR = "_214-1.mp4"  # the glasses' colour camera; the others are for tracking, grey
SMALL = "downscaled/448/"
HZ = 30.0
UNDISTORTED = (512, 512)
LATEST_S = 1e7  # four months; later times are invalid
LARGEST = 1 << 28  # bytes of a file of poses


@dataclass(frozen=True)
class _Take:
    path: str
    expected_s: float


Told = dict[int | None, list[dict[str, Any]]]
"""An annotator's descriptions by millisecond, or by None where the time is unusable."""


def videos(root: Path, rule: CutRule) -> Iterator[SourceVideo]:
    """Stream the described takes, then those that nobody describes."""
    annotations(root)
    takes, splits = _read_takes(root), _read_splits(root / SPLITS_FILE)
    seen: dict[str, str] = {}
    for split in DESCRIBED:
        path = root / f"annotations/atomic_descriptions_{split}.json"
        for uid, told in _read_descriptions(path) if path.is_file() else ():
            spans = tuple(cut(told, rule))
            part = "" if uid not in seen else split
            reason = f"video_in_{seen[uid]}" if part else "" if spans else "no_text"
            found = max(split, splits.get(uid, ""), seen.get(uid, ""), key=STRICTNESS.index)
            seen.setdefault(uid, found)
            yield _video(uid, takes.get(uid), found, spans, reason, part)
    for uid, take in takes.items():
        if uid not in seen:
            yield _video(uid, take, splits.get(uid, ""), (), "no_text")


def annotations(root: Path) -> list[Path]:
    """The lists of takes and splits, and the descriptions that are there."""
    if not (root / TAKES).is_file():
        raise UserError(f"{root} holds {contents(root)}; expected {TAKES}. {HOW_TO_GET}")
    described = [root / f"annotations/atomic_descriptions_{split}.json" for split in DESCRIBED]
    if not any(path.is_file() for path in described):
        raise UserError(
            f"{root / 'annotations'} holds {contents(root / 'annotations')}; expected "
            "atomic_descriptions_train.json or atomic_descriptions_val.json; download them with "
            "`egoexo -o DIR --parts annotations`."
        )
    return [path for path in (root / TAKES, root / SPLITS_FILE, *described) if path.is_file()]


def cut(told: Any, rule: CutRule) -> Iterator[Span]:
    """The spans of a take, from what its annotators say.

    Descriptions of the same millisecond share a span; those without a usable time share one of no
    length, rejected as `no_time`. Where all annotations were rejected, so are the spans.
    """
    jobs = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    accepted = [one for one in jobs if not _is_true(one.get("rejected"))]
    passes = sorted(map(_by_time, accepted or jobs), key=_wearer_count, reverse=True)
    if not passes:
        return
    first, *others = passes
    times = sorted(ms for ms in first if ms is not None)
    longest = round(rule.max_s * 1000)
    for number, ms in enumerate(times):
        end = min([ms + longest, *times[number + 1 : number + 2]])
        more = [row for other in others for row in _between(other, ms, end)]
        yield _span(ms / 1000, end / 1000, first[ms], more, is_rejected=not accepted)
    if None in first:
        yield _span(0.0, 0.0, first[None], [], is_rejected=False)


def camera(root: Path, clip: Footage, joints: tuple[str, ...]) -> CameraTrack | None:
    """The glasses' camera at the annotated frames; None for a take without.

    Raises:
        MediaError: the file of poses is damaged.
    """
    for split in ("train", "val", "test"):
        path = f"annotations/ego_pose/{split}/camera_pose/{clip.video_id}.json"
        if "/" not in clip.video_id and (root / path).is_file():
            try:
                return _read_track(root / path)
            except (ValueError, TypeError, OverflowError) as error:
                raise MediaError(
                    f"{path}: {first_line(error)}, expected camera_intrinsics [3, 3] and "
                    "camera_extrinsics [3, 4] by frame of aria01; download it again"
                ) from None
    return None


@cached_by_file(2)
def _read_track(path: Path) -> CameraTrack:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.stat().st_size:,} bytes")
    values = load_value(path.read_bytes())
    names = [name for name in values if name.startswith("aria")] if isinstance(values, dict) else []
    if not names:
        raise ValueError("no camera of the glasses")
    told = values[names[0]]
    if not isinstance(told, dict) or not isinstance(told.get("camera_extrinsics"), dict):
        raise ValueError("no camera_extrinsics")
    by_frame = {int(frame): rows for frame, rows in told["camera_extrinsics"].items()}
    frames = np.array(sorted(by_frame))
    into_camera = _numbers([by_frame[frame] for frame in frames], (len(frames), 3, 4))
    turns = into_camera[:, :, :3].transpose(0, 2, 1)
    into_world = np.tile(np.eye(4), (len(frames), 1, 1))
    into_world[:, :3, :3] = turns
    into_world[:, :3, 3] = -np.einsum("nij,nj->ni", turns, into_camera[:, :, 3])
    return CameraTrack(
        model="pinhole",
        size=UNDISTORTED,
        intrinsics=pinhole(_numbers(told.get("camera_intrinsics"), (3, 3)), path.name),
        times_s=frames / HZ,
        camera=poses_of(into_world, path.name),
    )


def _numbers(value: Any, shape: tuple[int, ...]) -> Any:
    numbers = np.array(value, np.float64)
    if numbers.shape != shape or not np.isfinite(numbers).all():
        raise ValueError(f"numbers of shape {list(numbers.shape)}")
    return numbers


def _video(
    uid: str, take: _Take | None, split: str, spans: tuple[Span, ...], reason: str = "",
    part: str = "",
) -> SourceVideo:  # fmt: skip
    if take is None:
        reason = "unknown_take"  # withdrawn since
    elif split == "test":
        reason = "benchmark_test"
    return SourceVideo(
        video_id=uid,
        media_path=take.path if take else "",
        split=split,
        version="v2",
        spans=spans or (Span(0.0, TO_THE_END, ""),),
        expected_s=take.expected_s if take else 0.0,
        part=part,
        reason=reason or ("" if take and take.path else "missing_file"),
    )


def _by_time(annotation: dict[str, Any]) -> Told:
    by_time: Told = defaultdict(list)
    rows = annotation.get("descriptions")
    for row in rows if isinstance(rows, list) else []:
        value = row if isinstance(row, dict) else {"text": str(row)}
        time_s = value.get("timestamp")
        key = round(float(time_s) * 1000) if _is_seconds(time_s) else None
        by_time[key].append(value)
    return by_time


def _between(told: Told, start: int, end: int) -> Iterator[dict[str, Any]]:
    times = sorted(ms for ms in told if ms is not None)
    for ms in times[bisect_left(times, start) : bisect_left(times, end)]:
        yield from told[ms]


def _span(
    start_s: float, end_s: float, rows: list[dict[str, Any]], others: list[dict[str, Any]],
    is_rejected: bool,
) -> Span:  # fmt: skip
    """One span of the descriptions at its start, those of the wearer that are seen first."""
    rows = sorted(rows, key=lambda row: (not _is_wearers(row), not _is_seen(row)))
    head = rows[0] if rows else {}
    text = str(head.get("text") or "").strip()
    reasons = (
        ("no_time", end_s <= start_s), ("no_text", not text), ("annotation_rejected", is_rejected),
        ("other_person", not _is_wearers(head)), ("not_visible", not _is_seen(head)),
    )  # fmt: skip
    same = [row for row in [*rows[1:], *others] if _is_wearers(row) and _is_seen(row)]
    more = [str(row.get("text") or "").strip() for row in same]
    return Span(
        start_s,
        end_s,
        text,
        tuple(dict.fromkeys(said for said in more if said not in ("", text))),
        ("unsure",) if _is_true(head.get("unsure")) else (),
        next((reason for reason, holds in reasons if holds), ""),
    )


def _is_wearers(row: dict[str, Any]) -> bool:
    # `subject` in the documentation's text, `narration_subject` in its example
    return (row.get("subject") or row.get("narration_subject") or "C") == "C"


def _is_seen(row: dict[str, Any]) -> bool:
    return row.get("ego_visible") is None or _is_true(row["ego_visible"])


def _is_seconds(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value < LATEST_S


def _is_true(value: Any) -> bool:
    """Annotators differ: true and false, or "1" and "0"."""
    return str(value).lower() in ("true", "1")


def _wearer_count(told: Told) -> int:
    return sum(_is_wearers(row) and _is_seen(row) for rows in told.values() for row in rows)


def _read_takes(root: Path) -> dict[str, _Take]:
    """The takes by uid, each with the path of its video, or none where there is no file."""
    present = set(files_below(root, root / "takes", (COLOUR,))) if (root / "takes").is_dir() else ()
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in present:
        by_folder["/".join(path.split("/")[:2])].append(path)
    takes = {}
    for take in _checked(root / TAKES, "item"):
        if not isinstance(take, dict) or not isinstance(take.get("take_uid"), str):
            raise UserError(
                f"{root / TAKES} has an entry without take_uid, expected a list of takes; download "
                "it again."
            )
        found = by_folder.get(
            str(take.get("root_dir") or f"takes/{take.get('take_name')}").strip("/"), []
        )
        length_s = take.get("duration_sec")
        takes[take["take_uid"]] = _Take(
            min(found, key=lambda path: (SMALL in path, path), default=""),
            float(length_s) if _is_seconds(length_s) else 0.0,
        )
    return takes


def _read_splits(path: Path) -> dict[str, str]:
    """Splits by take; empty where there is no such file: the descriptions say theirs."""
    if not path.is_file():
        return {}
    pairs = _checked(path, "take_uid_to_split", ijson.kvitems)
    return {uid: split for uid, split in pairs if split in STRICTNESS}


def _read_descriptions(path: Path) -> Iterator[tuple[str, Any]]:
    return _checked(path, "annotations", ijson.kvitems)


def _checked(path: Path, prefix: str, parse: Any = ijson.items) -> Iterator[Any]:
    """Stream what lies at a prefix of a JSON file."""
    with path.open("rb") as file, unchanged(file, path):
        items: Iterable[Any] = parse(CleanJson(file, path), prefix, use_float=True)
        try:
            yield from items
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path} is not complete JSON ({first_line(error)}); download it again."
            ) from None


ADAPTER = Adapter(
    videos=videos,
    annotations=annotations,
    text_kind="narration",
    licence="egoexo4d-signed-licence",
    terms="Research under a signed licence; no redistribution of video or annotations.",
    how_to_get=HOW_TO_GET,
    camera=camera,
)
