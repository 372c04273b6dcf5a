"""Bring your own dataset: a folder of videos, and a table clips.csv of file,start_s,end_s,text.

    make curate && .venv/bin/python examples/own_dataset.py             # a few of the sample's
    .venv/bin/python examples/own_dataset.py ~/videos runs/mine         # your own

An adapter lists what lies in a folder; reading, checks, splits and resuming are the pipeline's. The
file can lie anywhere: `curate own_dataset:ADAPTER --data ~/videos` takes it too, where the file
lies in the present folder. More of this in docs/adding-a-dataset.md.
"""

import csv
import shutil
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from handloom.pipeline.commands import run_job
from handloom.pipeline.job import Job
from handloom.pipeline.recipes import recipe
from handloom.stages.datasets.source import Adapter, CutRule, SourceVideo, Span
from handloom.stages.media.runs import RecordedRun


def videos(root: Path, rule: CutRule) -> Iterator[SourceVideo]:
    """The videos that the table names, each with its spans and their texts."""
    with (root / "clips.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["file"], float(row["start_s"])))
    for name, group in groupby(rows, key=lambda row: row["file"]):
        spans = [Span(float(row["start_s"]), float(row["end_s"]), row["text"]) for row in group]
        is_there = (root / name).is_file()
        yield SourceVideo(
            video_id=name,
            media_path=name if is_there else "",
            split="",  # there is no official one: a hash of the video's id decides
            version="1",
            spans=tuple(spans),
            reason="" if is_there else "missing_file",  # counted, never dropped silently
        )


ADAPTER = Adapter(
    videos=videos,
    annotations=lambda root: [root / "clips.csv"],  # when these change, it is ingested again
    text_kind="narration",
    licence="my-own-videos",
    terms="Mine to use.",
    how_to_get="Film something, and write down in clips.csv what happens when.",
)


def lay_out(folder: Path, run: Path) -> None:
    """Copy three videos of a run into a folder, and write its table."""
    clips = [clip for clip, _ in RecordedRun(run).kept()]
    files = sorted({clip.media_path for clip in clips})[:3]
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy2(run / "source" / file, folder)
    with (folder / "clips.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(("file", "start_s", "end_s", "text"))
        for c in (clip for clip in clips if clip.media_path in files):
            rows.writerow((Path(c.media_path).name, c.start_s, c.end_s, c.text))


def main(data: str = "", out: str = "runs/own_dataset") -> None:
    """Curate a folder of videos."""
    if not data:
        data = "runs/own_videos"
        lay_out(Path(data), Path("runs/sample"))
    folder = Path(__file__).absolute().parent  # where the workers find this module
    config = recipe("own_dataset:ADAPTER")
    run_job(Job("own_dataset", Path(data), Path(out), config, folders=(folder,)))


if __name__ == "__main__":
    main(*sys.argv[1:])
