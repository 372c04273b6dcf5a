"""Do a tokenizer's codes say where a block of a colour lies, nearly enough to touch it?

    python benchmarks/bench_touch_codes.py runs/claim/tokenizer

Tables of the scene `touch` are encoded. For each colour every code gets a score, the share of its
places at which a block of the colour lies; the block's place is estimated by least squares from the
mean place and mean squared place, weighted by squared scores. Scores and estimate are fitted on
some tables and judged on others. No network is trained: this is what codes and resolution allow.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from handloom.tokenize import vqgan
from handloom.tokenize.frames import center_square
from handloom.train.tabletop import touching
from handloom.train.tabletop.render import Camera, static_view
from handloom.train.tabletop.world import COLOURS, TableWorld

Floats = NDArray[np.float64]
UP = np.array([0.0, 0.0, 1.0])


def main() -> None:
    """Print, for each colour, how near the estimate comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", nargs="?", default="bundled")
    parser.add_argument("--tables", type=int, default=500, help="seven tenths are fitted on")
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    tokenizer = vqgan.load(args.tokenizer, "cpu", 1)
    rng, side = np.random.default_rng(args.seed), tokenizer.resolution
    worlds = [TableWorld.from_obs(*touching.start(rng)) for _ in range(args.tables)]
    codes = np.stack(
        [
            tokenizer.encode(center_square(static_view(world, near=True), side)[None])[0]
            for world in worlds
        ]
    )
    camera = Camera.look_at(touching.EYE, touching.TARGET, UP, touching.FOV, side)
    blocks = np.stack([world.blocks[:, :3] for world in worlds])
    patches = (camera.project(blocks) * codes.shape[1] / side).astype(int)  # column, row
    fitted = args.tables * 7 // 10
    for number, colour in enumerate(COLOURS):
        errors = estimate(codes, patches[:, number], blocks[:, number, :2], fitted)
        median, near = np.median(errors, 0), (errors < touching.ASIDE_M).all(1).mean()
        print(f"{colour:<5} median error {1000 * median[0]:.0f} and {1000 * median[1]:.0f} mm, "
              f"near enough to touch it {near:.0%} of {len(errors)}")  # fmt: skip


def estimate(codes: NDArray[np.uint16], patches: NDArray[np.int_], places: Floats,
             fitted: int) -> Floats:  # fmt: skip
    """Errors [M, 2] in metres on the tables behind the fitted ones.

    Args:
        codes: [N, R, C].
        patches: column and row of the block, [N, 2].
        places: of the block on the table, x and y, [N, 2].
        fitted: tables to fit on.
    """
    size = int(codes.max()) + 1
    all_places = np.bincount(codes[:fitted].ravel(), minlength=size)
    here = codes[np.arange(fitted), patches[:fitted, 1], patches[:fitted, 0]]
    score = (np.bincount(here, minlength=size) + 0.02) / (all_places + 1)
    weight = score[codes.reshape(len(codes), -1)] ** 2
    weight /= weight.sum(1, keepdims=True)
    rows, cols = codes.shape[1:]
    centre = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), -1).reshape(-1, 2)
    mean = weight @ centre
    features = np.column_stack([mean, mean**2, np.ones(len(mean))])
    solved = np.linalg.lstsq(features[:fitted], places[:fitted], rcond=None)[0]
    errors: Floats = np.abs(features[fitted:] @ solved - places[fitted:])
    return errors


if __name__ == "__main__":
    main()
