"""Whole runs of `handloom curate` against a plain script that does the same job, in turn.

    python benchmarks/bench_run.py --videos DIR … --clips 30 300 3000 [--rounds 2] [--model bundled]

Each number of clips is a folder of its own with clips.csv (`listed_videos.py`). Up to 99 clips are
the videos below each DIR, whole; more are those of a miniature Ego4D, so many hand actions in
rendered videos. Without --videos all are the miniature's. Then, round by round:

script     `plain_run.py`: two frames a second, MediaPipe on each, five frames of what shows hands
handloom   `handloom curate listed_videos:ADAPTER`, options as they are, cold, a process of its own;
           it also writes what the script does not: tables, near-duplicates, quality, captions, how
           much of the pictures the codes keep, the report
alone      this process: only decoding, detector and encoder of handloom on the same clips, one
           thread; its CPU seconds over the cores are what a run could take at best

Prints seconds of wall time, CPU seconds of all processes (as they were last seen, every fifth of a
second), the peak of their memory, where what several share counts once (PSS), and CPU seconds that
all else on the machine took meanwhile: more than a few make a round worthless. `--processes` adds
each process of handloom with its CPU seconds. docs/decisions.md quotes it.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from listed_videos import Row, read, write

from handloom.errors import MediaError
from handloom.pipeline.configuration import read_command
from handloom.pipeline.session import WORKER_ENV
from handloom.stages.datasets import ego4d
from handloom.stages.datasets.source import CutRule
from handloom.stages.hands.rows import Framing
from handloom.stages.media.video import probe
from handloom.stages.miniatures import ego4d as miniature
from handloom.stages.select import Select
from handloom.stages.tables.rows import Clip

HERE = Path(__file__).parent
EVERY_S, MEMORY_EVERY_S = 0.2, 1.0
MOST_VIDEOS = 99
CORES = os.cpu_count() or 1


@dataclass
class Used:
    """What a command used."""

    wall_s: float = 0.0
    peak_bytes: int = 0
    machine_s: float = 0.0
    """CPU seconds of everything on the machine meanwhile."""
    cpu_s: dict[tuple[int, float], float] = field(default_factory=dict)
    """By process: its id and when it began."""
    names: dict[tuple[int, float], str] = field(default_factory=dict)


def measure(command: list[str], log: Path) -> Used:
    """Run a command and watch its processes until it ends."""
    used, began, weighed = Used(machine_s=-busy_s()), time.monotonic(), 0.0
    with log.open("w") as out:
        running = subprocess.Popen(command, stdout=out, stderr=out)
    while running.poll() is None:
        heavy = time.monotonic() - weighed > MEMORY_EVERY_S
        weighed = time.monotonic() if heavy else weighed
        _watch(used, running.pid, heavy)
        time.sleep(EVERY_S)
    used.wall_s = time.monotonic() - began
    used.machine_s += busy_s()
    if running.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {running.returncode}; see {log}")
    return used


def busy_s() -> float:
    """CPU seconds that all processes of the machine have used."""
    import psutil  # comes with Ray

    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice)


def _watch(used: Used, pid: int, heavy: bool) -> None:
    import psutil  # comes with Ray

    memory = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return
    for process in processes:
        try:
            key, times = (process.pid, process.create_time()), process.cpu_times()
            used.cpu_s[key] = times.user + times.system
            used.names[key] = " ".join(process.cmdline())
            memory += process.memory_full_info().pss if heavy else 0
        except psutil.Error:
            continue
    used.peak_bytes = max(used.peak_bytes, memory)


def lay_out(root: Path, clips: int, videos: list[Path]) -> int:
    """Write a folder of videos with clips.csv; returns the number of clips."""
    root.mkdir(parents=True)
    rows = _real(root, videos) if videos and clips <= MOST_VIDEOS else _rendered(root, clips)
    write(root, rows)
    return len(rows)


def _real(root: Path, videos: list[Path]) -> list[Row]:
    rows = []
    files = sorted(path for folder in videos for path in folder.rglob("*") if path.is_file())
    for number, path in enumerate(files):
        try:
            end_s = probe(path).duration_s
        except MediaError:
            continue
        name = f"{number:02d}-{path.stem}.mp4"  # readers go by the content
        shutil.copyfile(path, root / name)
        rows.append((name, 0.0, end_s, f"working with {path.stem.replace('_', ' ')}"))
    return rows


def _rendered(root: Path, clips: int) -> list[Row]:
    miniature.write(root, clips=clips)
    return [
        (video.media_path, span.start_s, span.end_s, span.text)
        for video in ego4d.ADAPTER.videos(root, CutRule())
        if video.media_path and not video.reason
        for span in video.spans
        if not span.reason
    ]


def alone(out: Path, data: Path) -> tuple[float, float, int]:
    """CPU seconds of `hands` and of `tokens` on the clips of a finished run, and clips encoded."""
    job = read_command(["listed_videos:ADAPTER", "--data", str(data), "--out", str(out)], "curate")
    hands, tokens, tables = job.stages["hands"], job.stages["tokens"], job.tables
    clips = [clip for clip in tables["ingest"].read(Clip) if clip.status == "ok"]
    kept = {row.clip_id for row in tables["select"].read(Select.row_type) if row.status == "ok"}
    framing = {row.clip_id: row for row in tables["hands"].read(Framing)}
    hands.setup()
    tokens.setup()
    began = time.process_time()
    for clip in clips:
        list(hands(clip))
    detected = time.process_time()
    for clip in clips:
        if clip.clip_id in kept:
            list(tokens(clip, framing[clip.clip_id]))
    return detected - began, time.process_time() - detected, len(kept)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=Path, nargs="+", default=[])
    parser.add_argument("--clips", type=int, nargs="+", default=[30])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--processes", action="store_true")
    parser.add_argument("--folder", type=Path, help="keeps the videos and runs")
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *sys.path[1:]])
    with tempfile.TemporaryDirectory() as scratch:
        for clips in args.clips:
            compare(args, (args.folder or Path(scratch)) / str(clips), clips)


def compare(args: argparse.Namespace, root: Path, clips: int) -> None:
    """Measure both sides on a folder of clips, and print."""
    data, out = root / "data", root / "out"
    count = len(read(data)) if data.is_dir() else 0
    count = count or lay_out(data, clips, args.videos)
    plain = [sys.executable, str(HERE / "plain_run.py"), str(data), str(root / "out.tar")]
    curate = [sys.executable, "-m", "handloom", "curate", "listed_videos:ADAPTER", "--data"]
    commands = {
        "script": [*plain, "--model", args.model],
        "handloom": [*curate, str(data), "--out", str(out), "--tokens.model", args.model],
    }
    used: dict[str, list[Used]] = {name: [] for name in commands}
    print(
        f"{count} clips, {CORES} cores\n{'':10}{'wall s':>8}{'CPU s':>8}{'MB':>7}{'else':>7}",
        flush=True,
    )
    for _ in range(args.rounds):
        shutil.rmtree(out, ignore_errors=True)
        for name, command in commands.items():
            used[name].append(measure(command, root / f"{name}.log"))
            print(line(name, used[name][-1]), flush=True)
    if args.processes:
        print_processes(used["handloom"][-1])
    pairs = zip(used["handloom"], used["script"], strict=True)
    ratio = statistics.median(ours.wall_s / theirs.wall_s for ours, theirs in pairs)
    hands_s, tokens_s, encoded = alone(out, data)
    best_s = (hands_s + tokens_s) / CORES
    least_s = min(one.wall_s for one in used["handloom"])
    print(
        f"handloom / script: {ratio:.2f} of the wall time (median of pairs)\n"
        f"alone: {hands_s:.1f} CPU s for hands, {tokens_s:.1f} for codes of {encoded} clips, over "
        f"{CORES} cores {best_s:.1f} s; handloom's quickest run took {least_s / best_s:.2f} x that"
    )


def line(name: str, used: Used) -> str:
    cpu_s, memory = sum(used.cpu_s.values()), used.peak_bytes / 1e6
    others_s = used.machine_s - cpu_s
    return f"{name:10}{used.wall_s:8.1f}{cpu_s:8.1f}{memory:7.0f}{others_s:7.1f}"


def print_processes(used: Used) -> None:
    for key, cpu_s in sorted(used.cpu_s.items(), key=lambda one: -one[1]):
        if cpu_s > 0.2:
            print(f"{cpu_s:18.1f}  {used.names[key].strip()[-70:]}")


if __name__ == "__main__":
    if os.environ.get("OMP_NUM_THREADS") != "1":  # read when libraries load: as in the workers
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | WORKER_ENV)
    main()
