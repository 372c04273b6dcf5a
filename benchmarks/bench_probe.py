"""Ingest of many small files on Ray: how many are probed in a second, and that none is twice.

    python benchmarks/bench_probe.py [--files 100000] [--workers 2]

Lays out files of ten seconds of H.264 (340x256; hard links of 64 different ones) as Kinetics-700,
runs the ingest stage, then once more with another setting, which must not open a single file: all
of them are blanked before it, their sizes and times kept.
"""

import argparse
import os
import resource
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg

from handloom.pipeline import dag
from handloom.pipeline.crew import Crew
from handloom.pipeline.job import Job
from handloom.pipeline.output import claimed
from handloom.pipeline.recipes import RECIPES
from handloom.pipeline.session import session
from handloom.stages.ingest.card import read

DISTINCT = 64


def write_sources(folder: Path) -> list[Path]:
    """Different ten-second videos, encoded as crawlers do."""
    folder.mkdir()
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    for i in range(DISTINCT):
        picture = f"testsrc2=s=340x256:r=25:d=10,hue=h={360 * i // DISTINCT}"
        command = [ffmpeg, "-loglevel", "error", "-f", "lavfi", "-i", picture, "-c:v", "libx264"]
        options = ["-preset", "ultrafast", "-pix_fmt", "yuv420p", str(folder / f"{i:02d}.mp4")]
        subprocess.run(command + options, check=True)
    return sorted(folder.iterdir())


def lay_out(root: Path, sources: list[Path], files: int) -> None:
    """`train/<id>_000000_000010.mp4` and train.csv."""
    (root / "annotations").mkdir(parents=True)
    (root / "train").mkdir()
    with (root / "annotations/train.csv").open("w") as table:
        table.write("label,youtube_id,time_start,time_end,split\n")
        for i in range(files):
            os.link(sources[i % DISTINCT], root / f"train/{i:011d}_000000_000010.mp4")
            table.write(f"juggling balls,{i:011d},0,10,train\n")


def blank(sources: list[Path]) -> None:
    """Replace every file's content, keeping size and time: whoever opens one now will notice."""
    for path in sources:
        stat = path.stat()
        path.write_bytes(b"\0" * stat.st_size)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def ingest(job: Job) -> float:
    """Run the ingest stage alone; returns seconds."""
    started = time.perf_counter()
    with claimed(job):
        dag.run_stage("ingest", job, {}, Crew())
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "data", Path(folder) / "out"
        sources = write_sources(Path(folder) / "sources")
        lay_out(root, sources, args.files)
        config = RECIPES["kinetics700"]()
        config = replace(config, run=replace(config.run, num_cpus=args.workers))
        job = Job("kinetics700", root, out, config)
        shorter = replace(config, ingest=replace(config.ingest, min_seconds=2.0))
        with session(job):
            seconds = ingest(job)
            rate = args.files / seconds
            print(f"{args.files:,} files probed in {seconds:.1f} s: {rate:.0f} files/s")
            blank(sources)
            again = ingest(replace(job, config=shorter))
            print(f"another setting, from the cache: {args.files / again:.0f} files/s")
        card = read(out / "tables/ingest")
        assert card["rows"]["train"] == {"ok": args.files}, card["rows"]
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"largest process: {peak:.0f} MB")


if __name__ == "__main__":
    main()
