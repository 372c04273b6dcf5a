"""A check that pixels are scaled to the range that a network was trained with."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from handloom.errors import UserError
from handloom.tokenize.measure.pixels import psnr_db
from handloom.tokenize.vqgan.checkpoints import SIDECAR, Checkpoint
from handloom.tokenize.vqgan.codec import VQGAN

RANGES = ((0.0, 1.0), (-1.0, 1.0))  # every published VQModel has one of these
PROBE_CODES = 4  # along each side: a sixteenth of a picture's work for a network of 256 pixels
# a network of [-1, 1] takes [0, 1] for a pale picture and loses no more than some quality: 3 dB for
# the bundled one; the other way round nothing comes back
BETTER_DB, ABOVE_FLOOR_DB = 1.5, 3.0


def check_input_range(loaded: VQGAN, checkpoint: Checkpoint) -> None:
    """Refuse a range of pixels in which the network reconstructs clearly worse than in another.

    The reconstruction of a small drawn picture is compared. A network that reconstructs nothing,
    one with random weights for example, passes.

    Raises:
        UserError: another of the known ranges is the one that the network was trained with.
    """
    side = PROBE_CODES * loaded.downsample
    probe = _probe(side)
    flat = np.broadcast_to(probe.mean((0, 1)), probe.shape)
    small = replace(loaded, resolution=side, exact=False)
    floor, quality = psnr_db(flat, probe), _reconstruction_db(small, probe)
    for other in RANGES:
        if other == loaded.input_range:
            continue
        better = _reconstruction_db(replace(small, input_range=other), probe)
        if better > max(quality + BETTER_DB, floor + ABOVE_FLOOR_DB):
            low, high = loaded.input_range
            raise UserError(
                f"{checkpoint.where} was not trained with pixels in [{low:g}, {high:g}]: a picture "
                f"comes back with {quality:.1f} dB, and with {better:.1f} dB in "
                f"[{other[0]:g}, {other[1]:g}]: pass that as the input range, or write it to "
                f"{SIDECAR} beside its config.json"
            )


def _reconstruction_db(tokenizer: VQGAN, frame_hwc: NDArray[np.uint8]) -> float:
    return psnr_db(tokenizer.decode(tokenizer.encode(frame_hwc[None]))[0], frame_hwc)


def _probe(side: int) -> NDArray[np.uint8]:
    """A soft picture with dark and bright parts: a lit wall, a table and a ball on it."""
    y, x = np.mgrid[0:side, 0:side] / side
    wall = np.stack([0.95 - 0.3 * x, 0.9 - 0.25 * x, 0.8 - 0.1 * y], -1)
    table = np.stack([0.45 - 0.2 * x, 0.3 - 0.15 * x, 0.15 + 0 * x], -1)
    ball = np.hypot(x - 0.6, y - 0.55)[..., None] < 0.22
    picture = np.where(y[..., None] > 0.6, table, wall)
    return (np.where(ball, [0.75, 0.15, 0.1], picture) * 255).astype(np.uint8)
