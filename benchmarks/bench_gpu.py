"""All that only a GPU can show, in one script of under 8 minutes.

    python benchmarks/bench_gpu.py                          on a GPU
    python benchmarks/bench_gpu.py mfu --sizes b            one part
    python benchmarks/bench_gpu.py --device cpu --tiny      every part at a toy size, to test it

mfu         Stage 1, compiled, bfloat16, flash attention and no other kernel allowed: clips a
            second, MFU by train/trainer/flops.py, memory. Aims: S 30 %, B 40 %.
stage2      Stage 2 in the same way: all pictures there, then one window in eight before the start.
fsdp        A step of FSDP2 in one process beside the same step without: the losses must agree.
bf16        The same training in float32, TF32 and bfloat16: the loss of the last steps, in percent
            of float32's. Clips are of drifting patterns, which a model can learn.
generate    Codes a second, one clip and 16 at a time.
act         `Policy.act`, warm, p50 and p99. Aim: 50 ms.

Weights are random where they do not change what is computed. Parts run one after the other, and
each says how long it took.
"""

import argparse
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from bench_finetune import CONFIG, random_inputs
from bench_finetune_step import hidden_pictures
from bench_policy import SAYS, STATE, build, images, timed
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from handloom.train.finetune.config import HeadOptions
from handloom.train.finetune.flops import flops_per_window
from handloom.train.finetune.inputs import DeviceWindows
from handloom.train.finetune.model import RobotModel, RobotShape
from handloom.train.model.gpt import GPT
from handloom.train.model.sampling import continue_frames
from handloom.train.model.shape import SIZES, Shape
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.trainer.distributed import World, distribute, join
from handloom.train.trainer.flops import flops_per_clip, peak_flops
from handloom.train.trainer.optimizer import make_optimizer, update
from handloom.train.trainer.task import device_name

AIMS = {"s": 0.30, "b": 0.40}


@dataclass(frozen=True)
class Scale:
    """Sizes of everything, on a GPU or as a toy."""

    batch: int
    side: int
    frames: int
    codebook: int
    steps: int
    learning_steps: int
    calls: int
    pixels: int

    def shape(self, size: str, views: int = 1, frames: int | None = None) -> Shape:
        """A GPT of a named size."""
        return Shape(
            **SIZES[size]._asdict(), codebook_size=self.codebook, views=views,
            frames=frames or self.frames, rows=self.side, cols=self.side, text_length=24,
            text_width=512,
        )  # fmt: skip


FULL = Scale(16, 16, 5, 8192, 20, 150, 50, 256)
TINY = Scale(2, 4, 3, 64, 2, 30, 2, 64)


def synchronize(args: Namespace) -> None:
    if args.device.startswith("cuda"):
        torch.cuda.synchronize()


def autocast(args: Namespace, enabled: bool = True) -> torch.autocast:
    return torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=enabled)


def flash(args: Namespace) -> Any:
    """Within it attention is flash attention or an error."""
    on_gpu = args.device.startswith("cuda")
    return sdpa_kernel(SDPBackend.FLASH_ATTENTION) if on_gpu else nullcontext()


def stepper(model: nn.Module, args: Namespace, loss: Callable[[Any], Tensor], **how: Any) -> Any:
    """A step of training as the trainer takes it; returns the loss."""
    world = how.pop("world", args.world)
    config = replace(PretrainConfig(shards=("",)), compile=args.compile, **how)
    objective = distribute(model, config, world)
    optimizer = make_optimizer(model, config)

    def step() -> Tensor:
        with autocast(args):
            found = loss(objective)
        found.backward()
        update(list(model.parameters()), optimizer, config.clip)
        return found.detach()

    return step


def seconds_a_step(step: Callable[[], object], args: Namespace) -> float:
    for _ in range(3):
        step()
    synchronize(args)
    began = time.perf_counter()
    for _ in range(args.scale.steps):
        step()
    synchronize(args)
    return (time.perf_counter() - began) / args.scale.steps


def tell_speed(name: str, size: str, seconds: float, flops: float, args: Namespace) -> None:
    each, peak = args.scale.batch, peak_flops(device_name(args.world.device), torch.bfloat16)
    share = "no MFU, for the peak of this device is not known"
    if peak is not None:
        aim = f" (aim {AIMS[size]:.0%})" if size in AIMS else ""
        share = f"MFU {flops * each / seconds / peak:.1%}{aim}"
    held = torch.cuda.max_memory_allocated() / 2**30 if args.device.startswith("cuda") else 0.0
    print(f"  {size:<6}{name:<28}{1000 * seconds:8.1f} ms a step of {each}   {share}   "
          f"{held:.1f} GiB", flush=True)  # fmt: skip


def clips(shape: Shape, args: Namespace) -> tuple[Tensor, Tensor]:
    codes = torch.randint(shape.codebook_size, (args.scale.batch, shape.codes), device=args.device)
    return codes, torch.randn(args.scale.batch, shape.text_length, shape.text_width).to(args.device)


def mfu(args: Namespace) -> None:
    for size in args.sizes:
        torch.manual_seed(0)
        model = GPT(args.scale.shape(size)).to(args.device)
        given = clips(model.shape, args)
        step = stepper(model, args, lambda objective: objective(*given).mean())  # noqa: B023
        with flash(args):
            seconds = seconds_a_step(step, args)
        tell_speed("stage 1", size, seconds, flops_per_clip(model.shape), args)


def stage2(args: Namespace) -> None:
    for size in args.sizes:
        for case in ("complete", "before the start"):
            windows = robot_windows(robot(size, args), case, args)
            model = RobotModel(robot(size, args)).to(args.device)

            def loss(objective: Any, part: Any = windows, model: RobotModel = model) -> Tensor:
                losses = objective(part.part(slice(None)), CONFIG.loss, True)
                return model.total(losses, CONFIG.loss, CONFIG.loss.kl_warmup)

            seconds = seconds_a_step(stepper(model, args, loss), args)
            flops = flops_per_window(model.shape, "full")
            tell_speed(f"stage 2, {case}", size, seconds, flops, args)


def robot(size: str, args: Namespace) -> RobotShape:
    trunk = args.scale.shape(size, views=2, frames=3)
    return RobotShape(trunk, ("static", "gripper"), 2, 10, 10, 7, (6,), HeadOptions())


def robot_windows(shape: RobotShape, case: str, args: Namespace) -> DeviceWindows:
    inputs = random_inputs(shape, args.scale.batch)
    visible = hidden_pictures(case, args.scale.batch)
    inputs = inputs._replace(visible_BFV=visible, all_visible=False)
    moved = {n: v.to(args.device) for n, v in inputs._asdict().items() if isinstance(v, Tensor)}
    return DeviceWindows.of(inputs._replace(**moved), visible.numpy())


def fsdp(args: Namespace) -> None:
    losses = {}
    for parallel in ("ddp", "fsdp"):
        with join(args.device, sharded=parallel == "fsdp") as world:
            torch.manual_seed(0)
            model = GPT(args.scale.shape(args.sizes[-1])).to(args.device)
            given = clips(model.shape, args)
            step = stepper(
                model, args, lambda objective: objective(*given).mean(),  # noqa: B023
                parallel=parallel, world=world,
            )  # fmt: skip
            losses[parallel] = [float(step()) for _ in range(3)]
    (plain, parts) = losses.values()
    apart = max(abs(a - b) / b for a, b in zip(parts, plain, strict=True))
    print(f"  {args.sizes[-1]}: losses {plain} without, {parts} with FSDP2: {apart:.2%} apart")
    assert apart < 0.01, "FSDP2 learns something else"


def bf16(args: Namespace) -> None:
    shape = args.scale.shape(args.sizes[0])
    text = torch.randn(args.scale.batch, shape.text_length, shape.text_width).to(args.device)
    ways = {"float32": (False, "highest"), "TF32": (False, "high"), "bfloat16": (True, "highest")}
    ends: dict[str, float] = {}
    for name, (low, precision) in ways.items():
        torch.set_float32_matmul_precision(precision)
        torch.manual_seed(0)
        model = GPT(shape).to(args.device)
        optimizer = make_optimizer(model, PretrainConfig(shards=("",), lr=3e-4))
        found = []
        for step in range(args.scale.learning_steps):
            codes = drifting(shape, args, seed=step)
            with autocast(args, low):
                loss = model.loss(codes, text).mean()
            loss.backward()
            update(list(model.parameters()), optimizer, 1.0)
            found.append(loss.detach())
        ends[name] = float(torch.stack(found[-10:]).mean())
        if name == "float32":
            print(f"  {args.sizes[0]}: {float(found[0]):.4f} nats in the first step")
        print(f"  {name:<10}{ends[name]:.4f} nats in the last ten of {len(found)} steps, "
              f"{ends[name] / ends['float32'] - 1:+.3%}", flush=True)  # fmt: skip
    torch.set_float32_matmul_precision("highest")


def drifting(shape: Shape, args: Namespace, seed: int) -> Tensor:
    """Clips of a random picture that moves by one code a frame: int64 [B, N]."""
    generator = torch.Generator().manual_seed(seed)
    size = (args.scale.batch, shape.rows, shape.cols)
    picture = torch.randint(shape.codebook_size, size, generator=generator)
    frames = [picture.roll(shift, -1).flatten(1) for shift in range(shape.frames)]
    return torch.cat(frames, 1).to(args.device)


def generate(args: Namespace) -> None:
    model = GPT(args.scale.shape(args.sizes[-1])).to(args.device).eval()
    shape = model.shape
    for batch in (1, 16):
        given = torch.randint(shape.codebook_size, (batch, shape.codes_per_frame))
        text = torch.randn(batch, shape.text_length, shape.text_width).to(args.device)
        seconds = []
        for frames in (2, 2, 3):
            synchronize(args)
            began = time.perf_counter()
            with autocast(args):
                continue_frames(model, given.to(args.device), text, frames)
            synchronize(args)
            seconds.append((time.perf_counter() - began) / (frames - 1))
        codes = batch * shape.codes_per_frame / statistics.median(seconds[1:])
        print(f"  {args.sizes[-1]}, {batch:>2} at a time: {codes:,.0f} codes/s, "
              f"{statistics.median(seconds[1:]):.2f} s a frame", flush=True)  # fmt: skip


def act(args: Namespace) -> None:
    calls = args.scale.calls
    of_policy = Namespace(
        device=args.device, threads=1, size=args.sizes[-1], warmup=3, calls=calls, bf16=True
    )
    policy = build(args.scale.pixels, of_policy)
    seen = images(args.scale.pixels, 3 + calls)
    with autocast(args):
        ms = timed(lambda call: policy.act(SAYS, seen[call], STATE), of_policy)[:, 0]
    p50, p99 = np.percentile(ms, [50, 99])
    print(f"  {args.sizes[-1]}, two views of {args.scale.pixels} px: p50 {p50:.1f} ms, "
          f"p99 {p99:.1f} ms (aim 50 ms)")  # fmt: skip


PARTS = {part.__name__: part for part in (mfu, stage2, fsdp, bf16, generate, act)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="by default all")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="by default s and b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a toy size, not compiled")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print(
            f"bench_gpu.py needs a GPU, and torch {torch.__version__} finds none here: run it on a "
            "machine with one, or test it with --device cpu --tiny.",
            file=sys.stderr,
        )
        return 2
    args.scale, args.compile = TINY if args.tiny else FULL, not args.tiny
    args.sizes = args.sizes or (["nano", "micro"] if args.tiny else ["s", "b"])
    args.world = World(torch.device(args.device))
    print(f"{device_name(args.world.device)}, torch {torch.__version__}")
    began = time.perf_counter()
    for name in args.parts or PARTS:
        print(f"{name}", flush=True)
        start = time.perf_counter()
        PARTS[name](args)
        print(f"  {name} took {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{time.perf_counter() - began:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
