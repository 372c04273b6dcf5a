"""Captions from a server: how much slower a run is than the server itself.

    python benchmarks/bench_captions.py [--clips 1200] [--slots 16] [--latency-s 0.4]

The fake server of the tests works on `slots` requests at a time and takes `latency_s` for each on
average, so that it cannot give more than slots / latency_s captions a second. Its own rate is what
a bare client gets that keeps twice as many requests under way and posts bodies made beforehand. The
run decodes videos, checks answers, and writes journal and table, in a pool of two workers on Ray
with batches of 32 clips. Both rates are counted by the server, from its first answer to its last.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from handloom.pipeline.batch import Batch
from handloom.pipeline.pool import Pool
from handloom.stages.caption.server import _body, _data_url
from handloom.stages.caption.stage import Caption
from handloom.stages.stage import clip_order
from handloom.stages.tables.parts import Table
from tests.helpers.caption_server import MODEL, fake_server, tally
from tests.helpers.numbered_clips import clip, write_videos
from tests.helpers.whole_clip import whole

BATCH = 32


def own_rate(url: str, stage: Caption, clips: int, in_flight: int) -> float:
    request = stage._request(clip(1))
    body = _body(request, [_data_url(frame_hwc) for frame_hwc in request.frames_hwc])
    asyncio.run(post_all(url, body, clips, in_flight))
    return rate(url)


async def post_all(url: str, body: bytes, clips: int, in_flight: int) -> None:
    left = iter(range(clips))

    async def post() -> None:
        for _ in left:
            async with session.post(f"{url}/chat/completions", data=body) as reply:
                await reply.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(post() for _ in range(in_flight)))


def run_rate(url: str, stage: Caption, clips: int, out: Path) -> float:
    ordered = sorted((clip(number) for number in range(clips)), key=clip_order)
    batches = []
    for start in range(0, clips, BATCH):
        part = ordered[start : start + BATCH]
        keys = tuple(one.clip_id for one in part)
        batches.append(Batch(part[0].bucket, keys, tuple(whole(one) for one in part), len(part)))
    table = Table(out, "f" * 64)
    done = sum(sum(c.values()) for c in Pool(stage, table, {}, 2, 120.0).run(iter(batches)))
    assert done == clips, f"{done} rows of {clips} clips"
    return rate(url)


def rate(url: str) -> float:
    times_s = [time_s for times_s in tally(url)["told"].values() for time_s in times_s]
    return (len(times_s) - 1) / (max(times_s) - min(times_s))


def main() -> None:
    import ray

    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=1200)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--latency-s", type=float, default=0.4)
    args = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    root = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_videos(folder / "videos", args.clips)
        rates = {}
        for side in ("server alone", "run"):
            with fake_server(slots=args.slots, latency_s=args.latency_s) as url:
                stage = Caption(route="server", model=MODEL, url=url)
                stage = stage.at(folder / "videos", folder / "cache")
                if side == "run":
                    rates[side] = run_rate(url, stage, args.clips, folder / "table")
                else:
                    rates[side] = own_rate(url, stage, args.clips, 2 * args.slots)
            print(f"{side}: {rates[side]:.2f} requests/s", flush=True)
    print(f"bound: {args.slots / args.latency_s:.2f} requests/s")
    print(f"overhead over the server's own rate: {rates['server alone'] / rates['run'] - 1:.1%}")
    ray.shutdown()


if __name__ == "__main__":
    main()
