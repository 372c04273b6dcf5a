"""The true frames of clips in shards, from the media that the shards were made of.

Codes cannot be turned back into true frames. Where `OUT/shards` still lies beside `OUT/run.yaml`
and the media where that file says, they can be read again. Episodes of robots are not read here.

Shapes: F frames, H x W pixels, R rows and C columns of codes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError, UserError
from handloom.stages.media.clip_frames import ClipFrames, Framing
from handloom.stages.media.runs import RecordedRun
from handloom.stages.tables.rows import Clip
from handloom.tokenize.frames import center_square
from handloom.tokenize.vqgan import VQGAN
from handloom.train.trainer.options import place_and_weight

Frames = NDArray[np.uint8]
SAME_CODES = 0.9  # decoders differ in last digits; another moment differs in most codes


def read(
    shards: Sequence[str], samples: list[dict[str, Any]], tokenizer: VQGAN
) -> dict[str, Frames]:
    """Read what can be read.

    Args:
        shards: the folders that the samples are from.
        samples: as `ShardDataset` gives them, of one view.
        tokenizer: that encoded them.

    Returns:
        By clip_id uint8 [F, H, W, 3], the frames that the codes were made from. A clip whose media
        are gone, or whose frames encode to other codes (because the file has changed), is left out.
    """
    clip_ids = [sample["clip_id"] for sample in samples]
    places: dict[str, tuple[ClipFrames, Clip, Framing]] = {}
    for folder in shards:
        places |= _clips(Path(place_and_weight(folder)[0]).resolve().parent, clip_ids)
    true = {}
    for sample in samples:
        place, codes_VFRC = places.get(sample["clip_id"]), sample["tokens"]
        if place is None or len(codes_VFRC) != 1 or "frame_times_s" not in sample:
            continue
        frames_FHW3 = _squares(*place, sample["frame_times_s"], tokenizer.resolution)
        if len(frames_FHW3) != codes_VFRC.shape[1]:
            continue
        if np.mean(tokenizer.encode(frames_FHW3) == codes_VFRC[0]) >= SAME_CODES:
            true[sample["clip_id"]] = frames_FHW3
    return true


def _clips(out: Path, clip_ids: list[str]) -> dict[str, tuple[ClipFrames, Clip, Framing]]:
    """Those of the clips whose run and media are still there, and how to open them."""
    run = RecordedRun(out)
    try:
        if not isinstance(run.pictures, ClipFrames) or not run.data.is_dir():
            return {}
        return {i: (run.pictures, *found) for i, found in run.find(clip_ids).items()}
    except UserError:  # no run lies there
        return {}


def _squares(
    pictures: ClipFrames, clip: Clip, framing: Framing, times_s: list[float], side: int
) -> Frames:
    """The squares that are encoded, uint8 [F, H, W, 3]; none where the file cannot be read."""
    try:
        frames = pictures.frames(clip, framing, np.array(times_s))
        return np.stack([center_square(frame_hwc, side) for frame_hwc in frames])
    except MediaError:
        return np.empty((0, side, side, 3), np.uint8)
