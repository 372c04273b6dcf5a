"""Cuts a file, or a part of one, into clips: by shots, and where hands come, go and rest."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from handloom.errors import MediaError
from handloom.stages.hands import activity
from handloom.stages.hands.activity import Sample
from handloom.stages.ingest import cutting
from handloom.stages.ingest.cutting import Piece
from handloom.stages.media import shots
from handloom.stages.media.display import FrameHWC
from handloom.stages.media.key_frames import SmallVideo
from handloom.stages.media.transitions import Transition

LAST_S = 0.5  # a file may end so much before its header says
MOST_SAMPLES = 2400  # of a part of a file, a minute's work; in hours of 256 MB little happens


def cut_file(
    path: Path, start_s: float, end_s: float, by_hands: bool, sample_s: float, max_s: float
) -> list[Piece]:
    """Pieces that tile a part of a file; what cannot be read behind the first sample is one.

    Args:
        path: of the file.
        start_s: start of the part, seconds from the start of the file.
        end_s: its end.
        by_hands: whether shots are cut further by hands, or else in equal pieces.
        sample_s: distance of the sampled frames, seconds.
        max_s: clips are not longer, seconds.

    Raises:
        MediaError: not even the first sample can be read.
    """
    sample_s = max(sample_s, (end_s - start_s) / MOST_SAMPLES)
    video = SmallVideo(path, activity.SHORT_SIDE)
    try:
        samples, broken = _read(video, start_s, end_s, by_hands, sample_s)
        until_s = broken.start_s if broken else end_s
        pieces: list[Piece] = []
        changes = _shot_changes(video, samples)
        for first_s, last_s, reason in cutting.runs(start_s, until_s, changes):
            shot = [sample for sample in samples if first_s <= sample.time_s < last_s]
            if reason:
                pieces.append(Piece(first_s, last_s, reason))
            elif by_hands:
                pieces += _by_hands(first_s, last_s, shot, max_s)
            else:
                pieces += cutting.even(first_s, last_s, max_s)
    finally:
        video.close()
    return [*pieces, broken] if broken else pieces


def _read(
    video: SmallVideo, start_s: float, end_s: float, by_hands: bool, sample_s: float
) -> tuple[list[Sample], Piece | None]:
    """Samples of a part of a file; where it breaks off, also the piece that cannot be read."""
    found: list[Sample] = []
    try:
        for sample in activity.samples(video, start_s, end_s, sample_s, by_hands):
            found.append(sample)
    except MediaError as error:
        if not found:
            raise
        last_s = min(found[-1].time_s + sample_s / 2, end_s)
        if last_s < end_s - LAST_S:
            return found, Piece(last_s, end_s, error=str(error))
    return found, None


def _shot_changes(video: SmallVideo, samples: list[Sample]) -> list[Transition]:
    def decode(first_s: float, last_s: float) -> Iterator[tuple[float, FrameHWC]]:
        return video.every_frame(first_s, last_s, shots.SHORT_SIDE)

    times_s = [sample.time_s for sample in samples]
    pictures = [sample.picture_hwc for sample in samples]
    return shots.shot_changes(times_s, pictures, decode, shots.ShotOptions())


def _by_hands(start_s: float, end_s: float, shot: list[Sample], max_s: float) -> list[Piece]:
    times_s = [sample.time_s for sample in shot]
    shown = [sample.shows_hand for sample in shot]
    speeds = [activity.speed(a, b) for a, b in pairwise(shot)]
    return cutting.by_hands(start_s, end_s, times_s, shown, speeds, max_s)
