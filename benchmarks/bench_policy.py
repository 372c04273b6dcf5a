"""How long a policy takes to decide: `Policy.act`, warm, p50 and p99, and where the time goes.

    python benchmarks/bench_policy.py                                      tiny, on a CPU
    python benchmarks/bench_policy.py --size b --device cuda --bf16        B, on a GPU

Two views of 128 and of 256 pixels, 64 and 256 codes a frame; two frames are seen, ten actions come
out. The weights are random: they do not change what is computed. The tokenizer is the bundled one,
also where pictures are smaller than those it was trained with. A call encodes the two new pictures;
the frame before was encoded by the call before it. Parts are timed in calls of their own. On a
shared machine the time on the clock is not the policy's alone; with one thread the CPU time is what
a machine of its own would take.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from handloom.tokenize import vqgan
from handloom.train.finetune.config import HeadOptions
from handloom.train.finetune.model import RobotModel, RobotShape
from handloom.train.finetune.space import Space
from handloom.train.model import text
from handloom.train.model.shape import SIZES, Shape
from handloom.train.policy.policy import Policy

VIEWS = ("static", "wrist")
STATE = np.zeros(7)
SAYS = "open the drawer"


def tokenizer(side: int, args: argparse.Namespace) -> vqgan.VQGAN:
    """The bundled tokenizer, told to take pictures of another side than it was trained with."""
    return replace(vqgan.load("bundled", args.device, args.threads), resolution=side)


def build(side: int, args: argparse.Namespace) -> Policy:
    loaded, encoder = tokenizer(side, args), text.load("seeded", 24, args.device)
    grid = side // loaded.downsample
    trunk = Shape(
        **SIZES[args.size]._asdict(), codebook_size=loaded.codebook_size, views=len(VIEWS),
        frames=3, rows=grid, cols=grid, text_length=24, text_width=encoder.width,
    )  # fmt: skip
    space = Space("ee_delta", 10.0, (0.0,) * 7, (1.0,) * 7, (0.0,) * 7, (0.01,) * 7)
    torch.manual_seed(0)
    shape = RobotShape(trunk, VIEWS, 2, 10, space.state_width, 7, space.grippers, HeadOptions())
    model = RobotModel(shape).to(args.device).eval()
    return Policy(model, space, 5, loaded, encoder)


def images(side: int, count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    return [
        {view: random.integers(0, 256, (side, side, 3), dtype=np.uint8) for view in VIEWS}
        for _ in range(count)
    ]


def timed(work: Callable[[int], object], args: argparse.Namespace) -> np.ndarray:
    """Milliseconds of each call on the clock and of all CPU threads, after a few that warm up."""
    found = []
    for call in range(args.warmup + args.calls):
        began, cpu = time.perf_counter(), time.process_time()
        work(call)
        if args.device != "cpu":
            torch.cuda.synchronize()
        found.append((time.perf_counter() - began, time.process_time() - cpu))
    return 1000 * np.array(found[args.warmup :])


def measure(side: int, args: argparse.Namespace) -> None:
    policy = build(side, args)
    seen = images(side, args.warmup + args.calls)
    with torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.bf16):
        parts = {"act": timed(lambda call: policy.act(SAYS, seen[call], STATE), args)}
        parts |= breakdown(policy, seen, args)
    codes = policy.model.shape.trunk.codes_per_frame // len(VIEWS)
    millions = sum(p.numel() for p in policy.model.parameters()) / 1e6
    print(f"\n{side} px, {codes} codes a frame and view, {millions:.1f} M parameters")
    for name, ms in parts.items():
        (p50, cpu50), (p99, cpu99) = np.percentile(ms, [50, 99], axis=0)
        print(
            f"  {name:<28} p50 {p50:7.1f} ms   p99 {p99:7.1f} ms   least {ms[:, 0].min():7.1f} ms"
            f"   CPU time p50 {cpu50:7.1f} ms   p99 {cpu99:7.1f} ms"
        )


@torch.no_grad()
def breakdown(
    policy: Policy, seen: list[dict[str, Any]], args: argparse.Namespace
) -> dict[str, np.ndarray]:
    model = policy.model

    def encode(call: int) -> None:
        for image in seen[call].values():
            policy.tokenizer.encode(image[None])

    policy.reset()
    policy.act(SAYS, seen[0], STATE)
    policy._remember(seen[1], STATE)
    inputs = policy._inputs(SAYS)
    features = model.features(inputs)

    def head(_: int) -> None:
        policy.space.denormalise(model.act(model.context(features, inputs))).cpu()

    return {
        "of it: encode two pictures": timed(encode, args),
        "of it: trunk": timed(lambda _: model.features(inputs), args),
        "of it: head": timed(head, args),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="tiny", choices=SIZES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256])
    for name, default in (("threads", 1), ("calls", 100), ("warmup", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    kind = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    threads = "" if args.device.startswith("cuda") else f", {args.threads} threads"
    print(f"{args.size} on {kind}{threads}, {'bfloat16' if args.bf16 else 'float32'}, "
          f"{args.calls} calls")  # fmt: skip
    for side in args.sides:
        measure(side, args)


if __name__ == "__main__":
    main()
