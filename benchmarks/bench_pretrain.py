"""A training step of the stage-1 model beside that of a plain GPT, on the CPU, in turns.

    python benchmarks/bench_pretrain.py [--size tiny] [--batch 2] [--codebook 1024] [--threads 2]

The baseline is GPT-2 as nanoGPT publishes it, written anew: learned positions, LayerNorm before
attention and MLP, one projection for queries, keys and values, an MLP four times as wide with exact
GELU, the input table as output layer, no biases, no dropout. It gets as many positions as ours (the
caption's included), the same depth, width, heads, codebook, batch and threads. A step is forward,
loss, backward, clipping and AdamW. Two things are nanoGPT's own choice: it pays for logits at every
position, and its AdamW is the fused one on CUDA only; a third side has the fused one here too.

Steps alternate in one process and swap places every round, so that a noisy machine disturbs both
sides; the medians of CPU time and of wall time are compared, and the median of the rounds' ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handloom.train.model.gpt import GPT
from handloom.train.model.shape import SIZES, Shape

Step = Callable[[], None]


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm_1(x_BTD)).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        y_BHTS = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.out(y_BHTS.transpose(1, 2).flatten(2))
        return x_BTD + self.down(F.gelu(self.up(self.norm_2(x_BTD))))


class PlainGPT(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, vocabulary: int, length: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def loss(self, ids_BT: Tensor, target_BT: Tensor) -> Tensor:
        x_BTD = self.token(ids_BT) + self.position.weight[: ids_BT.shape[1]]
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTK = F.linear(self.norm(x_BTD), self.token.weight)
        return F.cross_entropy(logits_BTK.flatten(0, 1), target_BT.flatten())


def step_of(model: nn.Module, loss: Callable[[], Tensor], fused: bool) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=fused)

    def step() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds(step: Step) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    step()
    return time.process_time() - cpu, time.perf_counter() - wall


def shape_of(args: argparse.Namespace) -> Shape:
    return Shape(
        **SIZES[args.size]._asdict(),
        codebook_size=args.codebook,
        views=1,
        frames=args.frames,
        rows=16,
        cols=16,
        text_length=24,
        text_width=512,
    )


def sides(args: argparse.Namespace) -> dict[str, Step]:
    torch.manual_seed(0)
    shape = shape_of(args)
    ours = GPT(shape)
    codes_BN = torch.randint(args.codebook, (args.batch, shape.codes))
    text_BLE = torch.randn(args.batch, shape.text_length, shape.text_width)
    length = shape.length
    plain, fused = (
        PlainGPT(shape.layers, shape.width, shape.heads, args.codebook, length) for _ in range(2)
    )
    ids_BT = torch.randint(args.codebook, (args.batch, length + 1))
    print(
        f"{args.size}, batch {args.batch}, {length} positions, codebook {args.codebook:,}, "
        f"{args.threads} threads, torch {torch.__version__}"
    )
    inputs, targets = ids_BT[:, :-1], ids_BT[:, 1:]
    return {
        "handloom": step_of(ours, lambda: ours.loss(codes_BN, text_BLE).mean(), True),
        "plain GPT": step_of(plain, lambda: plain.loss(inputs, targets), False),
        "plain GPT, fused": step_of(fused, lambda: fused.loss(inputs, targets), True),
    }


def compare(steps: dict[str, Step], rounds: int) -> None:
    for step in steps.values():
        step()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for i in range(rounds):
        for name in sorted(steps, reverse=i % 2 == 1):
            times[name].append(seconds(steps[name]))
    for name, values in times.items():
        cpu, wall = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{name:<17} {cpu * 1e3:>8.0f} ms CPU {wall * 1e3:>8.0f} ms wall a step")
    for name in list(steps)[1:]:
        pairs = list(zip(times["handloom"], times[name], strict=True))
        for i, kind in enumerate(("CPU", "wall")):
            ratio = statistics.median(ours[i] / plain[i] for ours, plain in pairs)
            print(f"handloom / {name}, {kind}: {ratio:.3f} (median of {rounds} rounds)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--codebook", type=int, default=1024)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    compare(sides(options), options.rounds)
