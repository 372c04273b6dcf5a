"""From a checkpoint to a network that is ready, and a check that pixels come in the right range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handloom.errors import UserError
from handloom.tokenize.measure.pixels import psnr_db
from handloom.tokenize.vqgan.checkpoints import SIDECAR, Checkpoint
from handloom.tokenize.vqgan.network import Network
from handloom.tokenize.vqgan.search import ExactSearch

if TYPE_CHECKING:
    from handloom.tokenize.vqgan import VQGAN

RANGES = ((0.0, 1.0), (-1.0, 1.0))  # every published VQModel has one of these
PROBE_CODES = 4  # along each side: a sixteenth of a picture's work for a network of 256 pixels
# a network of [-1, 1] takes [0, 1] for a pale picture and loses no more than some quality: 3 dB for
# the bundled one; the other way round nothing comes back
BETTER_DB, ABOVE_FLOOR_DB = 1.5, 3.0


def build(found: Checkpoint) -> Network:
    """Read the weights into a network in eval mode, float32, on the CPU.

    Raises:
        UserError: a tensor's shape does not fit its neighbours'.
    """
    state = {name: torch.from_numpy(tensor.read()) for name, tensor in found.tensors.items()}
    try:
        with torch.device("meta"):  # shapes alone: random weights would take longer than reading
            network = Network(found.tensors, found.groups, found.layout.unit_codes)
            network.load_state_dict({name: values.to("meta") for name, values in state.items()})
            _check_widths(network)
        network.load_state_dict(state, assign=True)
    except (RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        raise UserError(
            f"{found.where} does not load as {found.layout.name} ({lines[-1].strip()}): its "
            "tensors do not fit each other"
        ) from error
    bad = next((name for name, values in state.items() if not values.isfinite().all()), None)
    if bad is not None:
        raise UserError(f"{found.where}: {bad} holds NaN or infinity: download it again")
    return network.eval().requires_grad_(False)


def _check_widths(network: Network) -> None:
    """Run a picture's shape through the network, whose widths all come from its own weights."""
    side = 4 * 2 ** (len(network.encoder.levels) - 1)
    with torch.inference_mode():
        latents = network.quant_conv(network.encoder(torch.empty(1, 3, side, side)))
        painted = network.paint(torch.zeros(1, 4, 4, dtype=torch.int64))
    if latents.shape[1:] != (network.codebook.shape[1], 4, 4) or painted.shape[2] != side:
        raise ValueError(f"latents are {list(latents.shape)}, pictures {list(painted.shape)}")


class Live:
    """A diffusers VQModel in training, measured by the code that will use it when it is saved."""

    unit_codes = False
    approximate = False  # diffusers' convolutions are torch's own
    search = ExactSearch()

    def __init__(self, model: Any) -> None:
        self.model = model

    def latents(self, x_bchw: Tensor) -> Tensor:
        """As `Network.latents`."""
        latents: Tensor = self.model.encode(x_bchw).latents  # not yet quantised
        return latents

    def codes(self) -> Tensor:
        """As `Network.codes`."""
        weight: Tensor = self.model.quantize.embedding.weight
        return weight

    def paint(self, ids_bij: Tensor) -> Tensor:
        """As `Network.paint`."""
        z = self.codes()[ids_bij].permute(0, 3, 1, 2).contiguous()
        spatial = z if self.model.config.norm_type == "spatial" else None
        painted: Tensor = self.model.decoder(self.model.post_quant_conv(z), spatial)
        return painted


def adapted(network: nn.Module) -> Network | Live:
    """The network itself, or a diffusers VQModel behind the same three methods."""
    return network if isinstance(network, Network) else Live(network)


def check_input_range(loaded: VQGAN, found: Checkpoint) -> None:
    """Refuse a range of pixels in which the network reconstructs clearly worse than in another.

    The reconstruction of a small drawn picture is compared. A network that reconstructs nothing,
    one with random weights for example, passes.

    Raises:
        UserError: another of the known ranges is the one that the network was trained with.
    """
    from dataclasses import replace

    side = PROBE_CODES * loaded.downsample
    probe = _probe(side)
    flat = np.broadcast_to(probe.mean((0, 1)), probe.shape)
    given = replace(loaded, resolution=side, exact=False)
    floor, quality = psnr_db(flat, probe), _reconstruction_db(given, probe)
    for other in RANGES:
        if other == loaded.input_range:
            continue
        better = _reconstruction_db(replace(given, input_range=other), probe)
        if better > max(quality + BETTER_DB, floor + ABOVE_FLOOR_DB):
            low, high = loaded.input_range
            raise UserError(
                f"{found.where} was not trained with pixels in [{low:g}, {high:g}]: a picture "
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
