"""A step of stage 2 beside a step of a plain GPT with the same trunk, on the CPU, in turns.

    python benchmarks/bench_finetune_step.py [--size tiny] [--batch 16] [--side 8] [--threads 1]

The plain GPT is that of bench_pretrain.py: equal depth, width, heads, codebook, positions and
windows, fused AdamW; it pays for logits at every position, as nanoGPT does. Ours predicts the last
frame alone, and has a readout and an action head beside it; `head alone` is what these cost.

    complete            every window has all its pictures
    behind the end      one window in four has no next frame, as the last ones of an episode
    before the start    one window in eight lacks its first frame, as the first ones of an episode
    all before          every window lacks its first frame: the mask on the whole batch
"""

import argparse
import statistics

import torch
from bench_finetune import CONFIG, random_inputs
from bench_pretrain import PlainGPT, Step, seconds, step_of

from handloom.train.finetune.config import HeadOptions
from handloom.train.finetune.inputs import DeviceWindows
from handloom.train.finetune.model import RobotModel, RobotShape
from handloom.train.model.shape import SIZES, Shape
from handloom.train.trainer.optimizer import make_optimizer, update

VIEWS, FRAMES, TEXT = 2, 3, 24


def shape_of(args: argparse.Namespace) -> RobotShape:
    grid = {"views": VIEWS, "frames": FRAMES, "rows": args.side, "cols": args.side}
    trunk = Shape(
        **SIZES[args.size]._asdict(), codebook_size=args.codebook, **grid,
        text_length=TEXT, text_width=128,
    )  # fmt: skip
    return RobotShape(trunk, ("static", "gripper"), FRAMES - 1, 10, 10, 7, (6,), HeadOptions())


def hidden_pictures(case: str, batch: int) -> torch.Tensor:
    """bool [B, F, V]: the pictures that there are."""
    visible = torch.ones(batch, FRAMES, VIEWS, dtype=torch.bool)
    if case == "behind the end":
        visible[::4, -1] = False
    if case == "before the start":
        visible[::8, 0] = False
    if case == "all before":
        visible[:, 0] = False
    return visible


def ours(args: argparse.Namespace, case: str) -> Step:
    torch.manual_seed(0)
    model = RobotModel(shape_of(args))
    inputs = random_inputs(model.shape, args.batch)
    visible = hidden_pictures("" if case == "head alone" else case, args.batch)
    inputs = inputs._replace(visible_BFV=visible, all_visible=False)
    windows = DeviceWindows.of(inputs, visible.numpy())
    if case == "head alone":
        model.trunk.requires_grad_(False)
        with torch.no_grad():
            features = model.features(windows.part(slice(None)))
        windows = windows._replace(inputs=windows.inputs._replace(features_BMX=features))
    optimizer = make_optimizer(model, CONFIG)

    def step() -> None:
        losses = model.loss(windows.part(slice(None)), CONFIG.loss, case != "head alone")
        model.total(losses, CONFIG.loss, CONFIG.loss.kl_warmup).backward()
        update(list(model.parameters()), optimizer, CONFIG.clip)

    return step


def plain(args: argparse.Namespace) -> Step:
    shape = shape_of(args).trunk
    model = PlainGPT(shape.layers, shape.width, shape.heads, args.codebook, shape.length)
    ids_BT = torch.randint(args.codebook, (args.batch, shape.length + 1))
    return step_of(model, lambda: model.loss(ids_BT[:, :-1], ids_BT[:, 1:]), fused=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="tiny", choices=SIZES)
    for name, default in (("batch", 16), ("side", 8), ("codebook", 1024), ("threads", 1),
                          ("rounds", 7)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cases = ("complete", "behind the end", "before the start", "all before", "head alone")
    steps = {"plain GPT": plain(args), **{case: ours(args, case) for case in cases}}
    for step in steps.values():
        step()  # warms up
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(args.rounds):
        for name in sorted(steps, reverse=i % 2 == 1):
            times[name].append(seconds(steps[name])[0])
    positions = shape_of(args).trunk.length
    print(f"{args.size}, {args.batch} windows of {positions} positions, {args.rounds} rounds")
    print(f"{'':<18}{'CPU ms a step':>14}{'/ plain GPT':>13}{'without head':>14}{'/ complete':>12}")
    head, whole, base = (times[name] for name in ("head alone", "complete", "plain GPT"))
    for name, found in times.items():
        rounds = list(zip(found, head, whole, base, strict=True))
        ratios = (
            statistics.median(own / gpt for own, _, _, gpt in rounds),
            statistics.median((own - extra) / gpt for own, extra, _, gpt in rounds),
            statistics.median(own / full for own, _, full, _ in rounds),
        )
        numbers = f"{ratios[0]:>13.3f}{ratios[1]:>14.3f}{ratios[2]:>12.3f}"
        print(f"{name:<18}{1000 * statistics.median(found):>14.0f}{numbers}")


if __name__ == "__main__":
    main()
