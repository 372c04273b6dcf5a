"""How much of a run's pictures its codes keep, measured on a fixed sample of the kept clips.

The sample is drawn from the tables alone, so the numbers depend neither on the workers nor on their
order. They lie beside the codes, in tables/tokens/_fidelity.json, and are measured again when a
table has changed.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from handloom.files import read_facts, write_text
from handloom.stages.episodes.rows import EpisodeSteps
from handloom.stages.hands.rows import CONFIDENT, Framing, Hand
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.media.clip_frames import ClipFrames, pictures_of
from handloom.stages.pack.fidelity.tally import Box, FrameHWC, Pair, Sums, Tally
from handloom.stages.pack.stage import kept_clips
from handloom.stages.stage import Stage, sentence
from handloom.stages.tables.parts import Tables
from handloom.stages.tables.rows import Clip, EpisodePlace, Row
from handloom.stages.tokens import Encoding, TokenRow
from handloom.tokenize import vqgan
from handloom.tokenize.frames import center_square
from handloom.tokenize.measure.pixels import SSIM_TAPS

NAME = "_fidelity.json"
VERSION = 1  # raised whenever the same tables would give other numbers
CLIPS, FRAMES = 32, 2  # sampled clips; frames of each, of a robot's cameras in turn


@dataclass(frozen=True, kw_only=True)
class _Detected(Row):
    """The columns of the `hands` table that say where hands are."""

    times_s: list[float]
    detections: list[Hand]


def read(tables: Tables) -> dict[str, Any]:
    """What was measured of a run as its tables are now; {} where nothing was."""
    if "tokens" not in tables:
        return {}
    stored = read_facts(_path(tables))
    return stored if stored.get("inputs") == _state(tables) else {}


def measured(tables: Tables, stages: Mapping[str, Stage]) -> dict[str, Any]:
    """Measure the sample, unless it was measured since the tables last changed.

    Args:
        tables: of all stages of the run.
        stages: the run's stages; they open the media, and their VQGAN decodes.

    Returns:
        `fidelity`: clips, frames, psnr_db, mean_color_psnr_db (the floor: each picture's mean
        colour), ssim, and of the detected hands the same with around_psnr_db, the PSNR of the rest
        of their frames; of codes of less precision also equal_codes, the share that float32 gives
        as well. `clips`: id, bucket and gain_db (PSNR over the floor) of each clip, worst
        first. `tokenizer`: the model as it was named; `bundled`: whether it is the one that comes
        with handloom. `resolution`: side of the pictures, pixels.
        `unreadable`: errors of the other clips, by id. {} where no clip was kept.
    """
    stored = read(tables)
    if stored and not stored["unreadable"]:  # else it is tried again: a disk may have been away
        return stored
    encoder = stages.get("tokens")
    clips = sample(tables) if isinstance(encoder, Encoding) else []
    if not clips:
        return {}
    assert isinstance(encoder, Encoding)
    counted = _count(tables, encoder, clips)
    found = {
        "inputs": _state(tables),
        "tokenizer": encoder.model,
        "bundled": is_bundled(encoder),
        "resolution": encoder.vqgan().resolution,
        "fidelity": counted.facts(),
        "clips": counted.ranked(clips),
        "unreadable": counted.unreadable,
    }
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
    frames = _frames(tables, encoder, clip, tokens, at)
    squares = map(center_square, frames, repeat(model.resolution))  # no name holds a large frame
    for (view, step), square in zip(at, squares, strict=True):
        codes_ij = codes_vtij[view, step]
        (decoded,) = model.decode(codes_ij[None])
        yield Pair(clip, square, decoded, codes_ij)


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
    encoder.setup()  # here, so that a model that is not there is no clip's error
    for clip in clips:
        sums = Sums()
        try:
            for pair in pairs(tables, encoder, clip):
                sums.add(pair.true, pair.decoded)
                if not encoder.is_exact:
                    _compare(tally, encoder, pair)
            if "hands" in tables:
                _count_hands(tally, tables, encoder, clip)
        except Exception as error:  # as in a stage: whatever is wrong with a clip costs that clip
            tally.unreadable[clip.clip_id] = sentence(error)
            continue
        tally.by_clip[clip.clip_id] = sums
        tally.frames.merge(sums)
    return tally


def _compare(tally: Tally, encoder: Encoding, pair: Pair) -> None:
    """Count the codes of a frame that float32 gives as well."""
    (exact_ij,) = encoder.vqgan(in_float32=True).encode(pair.true[None])
    tally.codes += exact_ij.size
    tally.equal_codes += int((exact_ij == pair.codes_ij).sum())


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
        codes_ij = model.encode(square[None])[0]
        (decoded,) = model.decode(codes_ij[None])
        tally.add_hands(Pair(clip, square, decoded, codes_ij), large)


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
