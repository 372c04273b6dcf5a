"""Generation with the cache of keys and values, and with a fresh pass for every code, on a CPU.

    python benchmarks/bench_generate.py [--size tiny] [--codebook 1024] [--frames 5] [--threads 1]

Both sides continue one frame of 16 x 16 codes, with the likeliest code each time; at 5 frames that
is 1,024 codes. The side without a cache runs the same model over exactly the codes so far, and pays
for the logits of the last place only, so the cache is all that differs. A third side has the cache,
and makes the tables of codes and places anew for every code. All must give the same codes. Times
are of the CPU, since the machine may be shared.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from handloom.train.model.gpt import GPT, Cache
from handloom.train.model.sampling import continue_frames
from handloom.train.model.shape import SIZES, Shape


def build(args: argparse.Namespace) -> GPT:
    grid = {"views": 1, "frames": args.frames, "rows": 16, "cols": 16}
    text = {"text_length": 24, "text_width": 128}
    torch.manual_seed(0)
    shape = Shape(**SIZES[args.size]._asdict(), codebook_size=args.codebook, **grid, **text)
    model = GPT(shape).eval()
    # As it starts out, a model gives one code again and again; with random weights codes differ.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def without_cache(model: GPT, codes_Bn: Tensor, text_BLE: Tensor) -> Tensor:
    while codes_Bn.shape[1] < model.shape.codes:
        nothing = Cache(model.shape, len(codes_Bn), codes_Bn.device)
        logits_BK = model.extend(codes_Bn, nothing, text_BLE)
        codes_Bn = torch.cat([codes_Bn, logits_BK.argmax(-1, keepdim=True)], dim=1)
    return codes_Bn


@torch.no_grad()
def tables_anew(model: GPT, codes_Bn: Tensor, text_BLE: Tensor) -> Tensor:
    cache = Cache(model.shape, len(codes_Bn), codes_Bn.device)
    logits_BK = model.extend(codes_Bn, cache, text_BLE)
    while True:
        codes_Bn = torch.cat([codes_Bn, logits_BK.argmax(-1, keepdim=True)], dim=1)
        if codes_Bn.shape[1] == model.shape.codes:
            return codes_Bn
        cache.tables = None
        logits_BK = model.extend(codes_Bn[:, -1:], cache)


def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float, float]:
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    codes = work()
    return codes, time.process_time() - cpu_s, time.perf_counter() - wall_s


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="tiny", choices=SIZES)
    for name, default in (("codebook", 1024), ("frames", 5), ("threads", 1), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tables", action="store_true", help="leave out the side without a cache")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = build(args)
    given_1n = torch.randint(0, args.codebook, (1, model.shape.codes_per_frame))
    text_1LE = torch.randn(1, 24, 128)
    count = model.shape.codes - model.shape.codes_per_frame
    print(f"{args.size}, codebook {args.codebook:,}, {args.threads} threads, {count:,} codes")
    for _ in range(args.rounds):
        fast, fast_s, fast_wall_s = timed(
            lambda: continue_frames(model, given_1n, text_1LE, args.frames)
        )
        anew, anew_s, _ = timed(lambda: tables_anew(model, given_1n, text_1LE))
        tables = "" if torch.equal(fast, anew) else ", OTHER CODES"
        print(f"tables made anew for every code: {anew_s:.2f} s of CPU, once: {fast_s:.2f} s, "
              f"{1 - fast_s / anew_s:.1%} less{tables}")  # fmt: skip
        if args.tables:
            continue
        slow, slow_s, slow_wall_s = timed(lambda: without_cache(model, given_1n, text_1LE))
        same = "the same codes" if torch.equal(fast, slow) else "OTHER CODES"
        kinds = len(fast[:, model.shape.codes_per_frame :].unique())
        print(
            f"with cache {fast_s:.2f} s of CPU ({count / fast_wall_s:,.0f} codes/s), without "
            f"{slow_s:.2f} s ({count / slow_wall_s:,.0f} codes/s): {slow_s / fast_s:.1f} times "
            f"faster; {same}, {kinds} different ones"
        )


if __name__ == "__main__":
    main()
