"""A diffusers VQModel that is still being trained, behind the methods of `network.Network`."""

from typing import Any

from torch import Tensor, nn

from handloom.tokenize.vqgan.network import Network
from handloom.tokenize.vqgan.search import ExactSearch


class Live:
    """A diffusers VQModel in training, measured by the code that will use it when it is saved."""

    unit_codes = False
    approximate = False  # diffusers' convolutions are torch's own
    search = ExactSearch()

    def __init__(self, model: Any) -> None:
        self.model = model

    def latents(self, x_bchw: Tensor) -> Tensor:
        """Latents before quantisation, [B, D, I, J]."""
        latents: Tensor = self.model.encode(x_bchw).latents  # not yet quantised
        return latents

    def codes(self) -> Tensor:
        """The codebook, [K, D]."""
        weight: Tensor = self.model.quantize.embedding.weight
        return weight

    def decode(self, ids_bij: Tensor) -> Tensor:
        """Pixels in the network's range, [B, 3, H, W]."""
        z = self.codes()[ids_bij].permute(0, 3, 1, 2).contiguous()
        spatial = z if self.model.config.norm_type == "spatial" else None
        decoded: Tensor = self.model.decoder(self.model.post_quant_conv(z), spatial)
        return decoded


def adapt(network: nn.Module) -> Network | Live:
    """The network itself, or a diffusers VQModel behind the same three methods."""
    return network if isinstance(network, Network) else Live(network)
