"""The true frames of clips in shards, from the media that the shards were made of.

Codes cannot be turned back into true frames. Where `OUT/shards` still lies beside `OUT/run.yaml`
and the media where that file says, they can be read again. Episodes of robots are not read here.

Shapes: F frames, H x W pixels, R rows and C columns of codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from handloom.tokenize.frames import center_square
from handloom.tokenize.vqgan import VQGAN
from handloom.train.trainer.options import place_and_weight

Frames = NDArray[np.uint8]
SEEK_FROM_S = 2.0  # nearer to its start a file is read from there: not every one can be sought in
SAME_CODES = 0.9  # decoders differ in last digits; another crop or another moment differs in most


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
        are gone, or whose frames encode to other codes (because the pipeline cut borders off, or
        the file has changed), is left out.
    """
    found, places = {}, {}
    for folder in shards:
        run = Path(place_and_weight(folder)[0]).resolve().parent
        places.update(_media(run, [sample["clip_id"] for sample in samples]))
    for sample in samples:
        path, codes_VFRC = places.get(sample["clip_id"]), sample["tokens"]
        if path is None or len(codes_VFRC) != 1 or "frame_times_s" not in sample:
            continue
        frames = [
            center_square(f, tokenizer.resolution) for f in _at(path, sample["frame_times_s"])
        ]
        if len(frames) != codes_VFRC.shape[1]:
            continue
        frames_FHW3 = np.stack(frames)
        if np.mean(tokenizer.encode(frames_FHW3) == codes_VFRC[0]) >= SAME_CODES:
            found[sample["clip_id"]] = frames_FHW3
    return found


def _media(run: Path, clip_ids: list[str]) -> dict[str, Path]:
    """The file of each clip, as the tables of its run say."""
    import pyarrow.parquet as pq

    tables = run / "tables" / "ingest"
    if not (run / "run.yaml").is_file() or not tables.is_dir():
        return {}
    data = Path(str(yaml.safe_load((run / "run.yaml").read_text()).get("data", "")))
    columns, wanted = ["clip_id", "media_path"], [("clip_id", "in", clip_ids)]
    rows: list[dict[str, Any]] = []
    for path in sorted(tables.glob("*.parquet")):
        names = pq.read_schema(path).names
        if "place" not in names and {*columns} <= {*names}:
            rows += pq.read_table(path, columns=columns, filters=wanted).to_pylist()
    places = {row["clip_id"]: data / row["media_path"] for row in rows if row["media_path"]}
    return {clip_id: path for clip_id, path in places.items() if path.is_file()}


def _at(path: Path, times_s: list[float]) -> Iterator[Frames]:
    """The upright frame on screen at each of the ascending times; fewer where a file ends early."""
    import av

    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        begins_s = float((stream.start_time or 0) * stream.time_base)
        if times_s[0] > SEEK_FROM_S and container.duration:
            container.seek(int((times_s[0] + begins_s) / stream.time_base), stream=stream)
        waiting, shown = list(times_s), None
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
            # The frame before this one is on screen until this one begins.
            while waiting and float(frame.pts * stream.time_base) - begins_s > waiting[0] + 1e-4:
                yield _upright(shown or frame)
                waiting.pop(0)
            if not waiting:
                return
            shown = frame
        if shown is not None:
            yield from (_upright(shown) for _ in waiting)


def _upright(frame: Any) -> Frames:
    return np.rot90(frame.to_ndarray(format="rgb24"), k=int(frame.rotation) // 90 % 4)
