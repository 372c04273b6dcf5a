"""How much of a run's pictures its codes keep, measured on a fixed sample of the kept clips.

The sample is drawn from the tables alone, so the numbers depend neither on the workers nor on their
order. They lie beside the codes, in tables/tokens/_fidelity.json, and are measured again when a
table has changed.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.files import write_text
from handloom.stages.episodes.rows import EpisodeSteps
from handloom.stages.hands.rows import CONFIDENT, Framing, Hand
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.media.clip_frames import ClipFrames, pictures_of
from handloom.stages.pack.stage import kept_clips
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Tables
from handloom.stages.tables.rows import Clip, EpisodePlace, Row
from handloom.stages.tokens import Encoding, TokenRow
from handloom.tokenize import vqgan
from handloom.tokenize.frames import center_square
from handloom.tokenize.measure.pixels import SSIM_TAPS, decibels, ssim

NAME = "_fidelity.json"
VERSION = 1  # raised whenever the same tables would give other numbers
CLIPS, FRAMES = 32, 2  # sampled clips; frames of each, of a robot's cameras in turn

FrameHWC = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom, pixels


@dataclass(frozen=True, kw_only=True)
class _Detected(Row):
    """The columns of the `hands` table that say where hands are."""

    times_s: list[float]
    detections: list[Hand]


@dataclass(frozen=True)
class Pair:
    """A frame, and what the tokenizer makes of it; both RGB uint8 [S, S, 3]."""

    clip: Clip
    true: FrameHWC
    decoded: FrameHWC


@dataclass
class Sums:
    """Errors of decoded pictures, summed over all their values (pixels x channels)."""

    pictures: int = 0
    values: int = 0
    error: int = 0
    """Sum of squared differences of the picture and its decoded codes."""
    floor: float = 0.0
    """The same for each picture's mean colour in place of the decoded codes."""
    ssim: float = 0.0

    def add(self, true: FrameHWC, decoded: FrameHWC) -> None:
        """Count a picture [H, W, 3] of at least 11 pixels each way."""
        self.pictures += 1
        self.values += true.size
        self.error += squared_error(true, decoded)
        self.floor += float(np.square(true - true.mean((0, 1))).sum())
        self.ssim += ssim(true, decoded)

    def merge(self, other: "Sums") -> None:
        """Take in the sums of other pictures."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def gain_db(self) -> float:
        """PSNR over that of the mean colours; 0 where codes say nothing but a colour."""
        return decibels(self.error / self.values) - decibels(self.floor / self.values)

    def facts(self) -> dict[str, Any]:
        """PSNR (of the mean error), its floor, and the mean SSIM.

        Rounded, so that the last bits of another machine's arithmetic change no manifest.
        """
        return {
            "psnr_db": round(decibels(self.error / self.values), 2),
            "mean_color_psnr_db": round(decibels(self.floor / self.values), 2),
            "ssim": round(self.ssim / self.pictures, 3),
        }


@dataclass
class Tally:
    """What is counted over the sample."""

    frames: Sums = field(default_factory=Sums)
    by_clip: dict[str, Sums] = field(default_factory=dict)
    hands: Sums = field(default_factory=Sums)
    around_error: int = 0
    """Squared error outside the hands, in the same frames."""
    around_values: int = 0
    unreadable: int = 0

    def add_hands(self, pair: Pair, boxes: list[Box]) -> None:
        """Count the hands of a frame, and what is around them."""
        around = np.ones(pair.true.shape[:2], bool)
        for left, top, right, bottom in boxes:
            crop = np.s_[top:bottom, left:right]
            self.hands.add(pair.true[crop], pair.decoded[crop])
            around[crop] = False
        self.around_error += squared_error(pair.true[around], pair.decoded[around])
        self.around_values += 3 * int(around.sum())

    def ranked(self, clips: list[Clip]) -> list[dict[str, Any]]:
        """Id, bucket and gain of the clips that could be read, the worst first."""
        gains = {name: round(sums.gain_db, 2) for name, sums in self.by_clip.items()}
        return [
            {"clip_id": clip.clip_id, "bucket": clip.bucket, "gain_db": gains[clip.clip_id]}
            for clip in sorted(clips, key=lambda clip: (gains.get(clip.clip_id, 0), clip.clip_id))
            if clip.clip_id in gains
        ]

    def facts(self) -> dict[str, Any]:
        """What the manifest says."""
        found = {"clips": len(self.by_clip), "frames": self.frames.pictures} | self.frames.facts()
        if self.hands.pictures and self.around_values:
            around_db = round(decibels(self.around_error / self.around_values), 2)
            count = {"count": self.hands.pictures, "around_psnr_db": around_db}
            found["hands"] = count | self.hands.facts()
        return found


def squared_error(a: FrameHWC, b: FrameHWC) -> int:
    """Sum of squared differences, exact."""
    return int(np.square(a.astype(np.int64) - b).sum())


def read(tables: Tables) -> dict[str, Any]:
    """What was measured of a run as its tables are now; {} where nothing was."""
    if "tokens" not in tables:
        return {}
    try:
        stored: dict[str, Any] = json.loads(_path(tables).read_text())
    except (OSError, ValueError):
        return {}
    return stored if stored.get("inputs") == _state(tables) else {}


def measured(tables: Tables, stages: Mapping[str, Stage]) -> dict[str, Any]:
    """Measure the sample, unless it was measured since the tables last changed.

    Args:
        tables: of all stages of the run.
        stages: the run's stages; they open the media, and their VQGAN decodes.

    Returns:
        `fidelity`: clips, frames, psnr_db, mean_color_psnr_db (the floor: each picture's mean
        colour), ssim, and of the detected hands the same with around_psnr_db, the PSNR of the rest
        of their frames. `clips`: id, bucket and gain_db (PSNR over the floor) of each clip, worst
        first. `tokenizer`: the model as it was named; `bundled`: whether it is the one that comes
        with handloom. {} where no clip was
        kept, or the media of the sample cannot be read.
    """
    if stored := read(tables):
        return stored
    encoder = stages.get("tokens")
    clips = sample(tables) if isinstance(encoder, Encoding) else []
    if not clips:
        return {}
    assert isinstance(encoder, Encoding)
    counted = _count(tables, encoder, clips)
    if not counted.by_clip:
        return {}
    found = {
        "inputs": _state(tables),
        "tokenizer": encoder.model,
        "bundled": is_bundled(encoder),
        "fidelity": counted.facts(),
        "clips": counted.ranked(clips),
    }
    if not counted.unreadable:  # else it is tried again: a disk may be away
        write_text(_path(tables), json.dumps(found, indent=2) + "\n")
    return found


def is_bundled(encoder: Encoding) -> bool:
    """Whether the weights are those that come with handloom, at any resolution."""
    own = vqgan.describe("bundled")["weights_sha256"]
    return bool(encoder.tokenizer()["weights_sha256"] == own)


def sample(tables: Tables) -> list[Clip]:
    """Up to CLIPS kept clips, of as many videos as there are, those with the smallest ids.

    Ids and buckets are hashes: buckets are read in order until CLIPS videos have been found.
    """
    by_video: dict[str, list[Clip]] = {}
    for bucket in tables["ingest"].buckets():
        for clip in kept_clips(tables, bucket):
            by_video.setdefault(clip.video_id, []).append(clip)
        by_video = {
            v: sorted(c, key=lambda clip: clip.clip_id)[:CLIPS] for v, c in by_video.items()
        }
        if len(by_video) >= CLIPS:
            break
    ranked = [(rank, clip) for clips in by_video.values() for rank, clip in enumerate(clips)]
    ranked.sort(key=lambda pair: (pair[0], pair[1].clip_id))
    return [clip for _, clip in ranked[:CLIPS]]


def pairs(tables: Tables, encoder: Encoding, clip: Clip) -> Iterator[Pair]:
    """FRAMES frames of a kept clip beside what its stored codes decode to, one at a time.

    Raises:
        MediaError: the clip's media cannot be read.
    """
    tokens = tables["tokens"].get(TokenRow, clip.bucket, clip.clip_id)
    codes_vtij = np.frombuffer(tokens.codes, "<u2").reshape(tokens.shape).astype(np.uint16)
    views, count = codes_vtij.shape[:2]
    shown = np.unique((np.arange(FRAMES) + 0.5) * count // FRAMES).astype(int)
    first = zlib.crc32(clip.clip_id.encode())  # a camera by hash, then the next one
    at = [((first + i) % views, int(step)) for i, step in enumerate(shown)]
    model = encoder.vqgan()
    for (view, step), frame in zip(at, _frames(tables, encoder, clip, tokens, at), strict=True):
        (decoded,) = model.decode(codes_vtij[view, step][None])
        yield Pair(clip, center_square(frame, model.resolution), decoded)


def _frames(
    tables: Tables, encoder: Encoding, clip: Clip, tokens: TokenRow, at: list[tuple[int, int]]
) -> Iterator[FrameHWC]:
    """The frames that were encoded as the codes of (view, step)."""
    if isinstance(encoder.source, EpisodeIngest):
        place = tables["ingest"].get(EpisodePlace, clip.bucket, clip.clip_id)
        steps = tables["episodes"].get(EpisodeSteps, clip.bucket, clip.clip_id)
        views = list(encoder.source.pictures.views(place).values())
        return (views[view][steps.steps_taken[step]] for view, step in at)
    framing = tables["hands"].get(Framing, clip.bucket, clip.clip_id)
    times_s = np.array([tokens.times_s[step] for _, step in at])
    return _pictures(encoder).frames(clip, framing, times_s)


def _pictures(encoder: Encoding) -> ClipFrames:
    return replace(pictures_of(encoder), scattered=True)  # no file is read whole for three frames


def _count(tables: Tables, encoder: Encoding, clips: list[Clip]) -> Tally:
    tally = Tally()
    for clip in clips:
        sums = Sums()
        try:
            for pair in pairs(tables, encoder, clip):
                sums.add(pair.true, pair.decoded)
            if "hands" in tables:
                _count_hands(tally, tables, encoder, clip)
        except (MediaError, OSError):
            tally.unreadable += 1
            continue
        tally.by_clip[clip.clip_id] = sums
        tally.frames.merge(sums)
    return tally


def _count_hands(tally: Tally, tables: Tables, encoder: Encoding, clip: Clip) -> None:
    """Encode and decode the frame with the surest hands: where they are is known of it alone."""
    framing = tables["hands"].get(Framing, clip.bucket, clip.clip_id)
    row = tables["hands"].get(_Detected, clip.bucket, clip.clip_id)
    hands = [
        hand for hand in row.detections
        if hand["confidence"] >= CONFIDENT
        and framing.shot_start_s <= row.times_s[hand["frame"]] <= framing.shot_end_s
    ]  # fmt: skip
    if not hands:
        return
    best = max(hands, key=lambda hand: (hand["confidence"], -hand["frame"]))["frame"]
    (frame,) = _pictures(encoder).frames(clip, framing, np.array([row.times_s[best]]))
    model = encoder.vqgan()
    square = center_square(frame, model.resolution)
    boxes = [
        in_square(hand["box_xyxy"], framing, frame.shape, model.resolution)
        for hand in hands
        if hand["frame"] == best
    ]
    large = [(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes if min(x1 - x0, y1 - y0) >= SSIM_TAPS]
    if large:
        (decoded,) = model.decode(model.encode(square[None]))
        tally.add_hands(Pair(clip, square, decoded), large)


def in_square(box_xyxy: list[float], framing: Framing, shape: tuple[int, ...], side: int) -> Box:
    """Pixels of the square that is encoded, for a box relative to the frame with its bars."""
    edge = min(shape[:2])
    low, high = framing.picture_xyxy[:2], framing.picture_xyxy[2:]
    scaled = []
    for i, value in enumerate(box_xyxy):
        axis = i % 2
        length = shape[1 - axis]  # width for x, height for y
        pixel = (value - low[axis]) / (high[axis] - low[axis]) * length - (length - edge) // 2
        scaled.append(min(side, max(0, round(pixel / edge * side))))
    return scaled[0], scaled[1], scaled[2], scaled[3]


def _path(tables: Tables) -> Path:
    return tables["tokens"].folder / NAME


def _state(tables: Tables) -> str:
    """Digest of what the numbers depend on."""
    states = {name: (table.fingerprint, table.state()) for name, table in tables.items()}
    return hashlib.sha256(json.dumps([VERSION, states], sort_keys=True).encode()).hexdigest()
