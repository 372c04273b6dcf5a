"""How fast `handloom view` answers, and the memory of its server, on generated tables.

    python benchmarks/bench_view.py [FOLDER...] [--clips 100000 1000000]

FOLDERs are runs as `benchmarks/scale_tables.py` writes them; by default they are written first. For
each run a server of its own is started as `handloom view` starts it. Times are medians of five
requests over loopback, each with filters that were not asked for before; memory is the largest
that the server had. With Chromium and playwright the first paint is timed too: from opening the
address, once the tables are read, until the first caption stands on the page.
"""

import argparse
import itertools
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

TIMES = 5
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def main() -> None:
    """Measure each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--clips", type=int, nargs="*", default=[100_000, 1_000_000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for folder in options.folders or written(Path(scratch), options.clips):
            measure(folder)


def written(scratch: Path, sizes: list[int]) -> Iterator[Path]:
    """Runs of so many clips each; of their codes only a few."""
    script = Path(__file__).with_name("scale_tables.py")
    for clips in sizes:
        out = scratch / f"{clips}"
        words = [str(out), "--clips", str(clips), "--codes", "16"]
        subprocess.run([sys.executable, str(script), *words], check=True)
        yield out


def measure(out: Path) -> None:
    """Print what a server of one run needs."""
    started = time.perf_counter()
    with server(out) as (address, ask, pid):
        while not (state := ask("/api/run"))["ready"]:
            time.sleep(0.05)
        read_s = time.perf_counter() - started
        print(f"{out.name}: {state['clips']:,} clips, listed {read_s:.1f} s after the start")
        for name, queries in QUERIES.items():
            print(f"  {name:<36}{median_ms(ask, queries):8.0f} ms")
        if paint := first_paint_ms(address):
            print(f"  {'first paint':<36}{paint:8.0f} ms")
        print(f"  {'memory':<36}{peak_mb(pid):8.0f} MB", flush=True)


Ask = Any  # (path) -> JSON
LIST, COUNT, JUDGE = "/api/clips?limit=120&", "/api/facets?", "/api/judge?"
DRAWN = [0.3 + 0.07 * i for i in range(TIMES)]
QUERIES: dict[str, list[list[str]]] = {
    "a reason: list and counts": [
        [LIST + f"reason={r}", COUNT + f"reason={r}"]
        for r in ("still", "blurred", "no_hands", "stereo", "duplicate")
    ],
    "a range of scores": [
        [LIST + f"min.sharpness={x:.2f}", COUNT + f"min.sharpness={x:.2f}"] for x in DRAWN
    ],
    "words of captions": [
        [LIST + urlencode({"text": word}), COUNT + urlencode({"text": word})]
        for word in ("cup", "red box", "wheel", "door", "stirs the")
    ],
    "verb and object": [
        [LIST + f"verb={verb}&object=cup", COUNT + f"verb={verb}&object=cup"]
        for verb in ("puts", "cuts", "picks", "holds", "turns")
    ],
    "all clips by a score": [
        [LIST + f"sort=-{score}"]
        for score in ("change", "sharpness", "bar_share", "stereo_score", "hand_share")
    ],
    "a sample of 200": [[LIST + f"sample=200&seed={seed}"] for seed in range(TIMES)],
    "a threshold moved": [[JUDGE + f"select.min_sharpness={x:.2f}"] for x in DRAWN],
    "the clips that it moves": [
        [LIST + f"select.min_change={x:.2f}&moved=newly+rejected"] for x in DRAWN
    ],
}


def median_ms(ask: Ask, queries: list[list[str]]) -> float:
    """Median time of some sets of requests."""
    times = []
    for paths in queries:
        started = time.perf_counter()
        for path in paths:
            ask(path)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


@contextmanager
def server(out: Path) -> Iterator[tuple[str, Ask, int]]:
    """A server: its address, a function that asks it, and its process."""
    command = [sys.executable, "-m", "handloom", "view", str(out), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        found = re.search(r"http://\S+", "".join(itertools.islice(process.stdout, 1)))
        assert found, "handloom view printed no address"
        address = found.group()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        opener.open(address).read()
        root = address.partition("/?")[0]
        try:
            yield address, lambda path: json.load(opener.open(root + path)), process.pid
        finally:
            process.terminate()


def peak_mb(pid: int) -> float:
    """Largest resident memory that a process had so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def first_paint_ms(address: str) -> float | None:
    """Median time from opening the page to its first caption; None without a browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if not CHROMIUM:
        return None
    times = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for _ in range(TIMES):
            page = browser.new_context().new_page()  # nothing cached
            started = time.perf_counter()
            page.goto(address, wait_until="commit")
            page.wait_for_selector(".card .text:not(:empty)")
            times.append(1000 * (time.perf_counter() - started))
        browser.close()
    return statistics.median(times)


if __name__ == "__main__":
    main()
