"""Curate videos that lie in a bucket into a bucket, from Python: `handloom curate` as a function.

    .venv/bin/python examples/curate_a_bucket.py s3://my-videos/ego4d s3://my-runs/ego4d

The first folder is one of Ego4D, as its own downloader writes it; the second is the run's. Keys,
region and endpoint come from the environment, as for any program that uses S3 (docs/storage.md).
Folders on this disk are named in the same way. Without names it takes the sample's videos:

    make curate && .venv/bin/python examples/curate_a_bucket.py

Run it again and it goes on where it stopped.
"""

import sys
from dataclasses import replace

from handloom.pipeline.commands import run_job
from handloom.pipeline.job import Job
from handloom.pipeline.recipes import recipe
from handloom.places import place
from handloom.tokenize.shards import ShardDataset


def main(data: str = "runs/sample/source", out: str = "runs/bucket") -> None:
    """Curate a folder of Ego4D's layout into another, and read the first of its samples."""
    config = recipe("ego4d")
    # A recipe is a frozen dataclass of stages, whose fields are the options of the command line.
    config = replace(config, tokens=replace(config.tokens, frames=3))
    run_job(Job("ego4d", place(data), place(out), config))

    clips = ShardDataset(f"{out}/shards")  # of a bucket, ranges of the files are read
    print(f"{len(clips)} clips to train on; the first:", clips[0]["caption"])
    print("codes [views, frames, rows, columns]:", clips[0]["tokens"].shape)


if __name__ == "__main__":
    main(*sys.argv[1:])
