"""Caption numbered clips as a worker does, going on where a killed run stopped.

python -m tests.helpers.caption_run VIDEOS OUT URL CLIPS
"""

import sys
from pathlib import Path

from handloom.pipeline.batch import Batch
from handloom.pipeline.worker import work
from handloom.stages.caption.stage import Caption
from handloom.stages.stage import clip_order
from handloom.stages.tables.parts import Table
from tests.helpers.caption_server import MODEL
from tests.helpers.numbered_clips import clip
from tests.helpers.whole_clip import whole

BATCH = 64  # two of a run's usual ones


def table_of(out: Path) -> Table:
    """The caption table of a run."""
    return Table(out / "caption", "f" * 64)


def caption_all(
    videos: Path, out: Path, url: str, clips: int, batch: int = BATCH, **options: float
) -> Table:
    """Write the caption table of the clips 0 to `clips`, less what it already holds."""
    settings = {"frames": 4, "in_flight": 64, "timeout_s": 60.0} | options
    stage = Caption(route="server", model=MODEL, url=url, **settings)  # type: ignore[arg-type]
    stage = stage.at(videos, out / "cache")
    table = table_of(out)
    done = table.values("clip_id")
    left = sorted((clip(n) for n in range(clips)), key=clip_order)
    left = [one for one in left if one.clip_id not in done]
    stage.setup()
    for bucket in sorted({one.bucket for one in left}):
        members = [one for one in left if one.bucket == bucket]
        for start in range(0, len(members), batch):
            part = members[start : start + batch]
            keys = tuple(one.clip_id for one in part)
            work(stage, table, Batch(bucket, keys, tuple(map(whole, part)), len(part)), {})
    return table


if __name__ == "__main__":
    caption_all(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
