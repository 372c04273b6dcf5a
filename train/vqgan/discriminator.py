"""PatchGAN: a discriminator that tells real from decoded pictures, patch by patch.

Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (arXiv 1611.07004),
as VQGAN uses it, with group instead of batch normalisation: batches are small here, and an answer
about one picture should not depend on its neighbours.
"""

import math

import torch
from torch import Tensor, nn

from handloom.train.vqgan.losses import hinge

NORM_GROUPS = 4


class PatchGAN(nn.Module):
    """Logits of patches, above zero for real ones.

    Args:
        width: channels of the first layer, a multiple of 4; they double with every halving.
        side: of the smallest pictures that come, in pixels; below 32 there are fewer halvings.
    """

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        halvings = max(1, min(3, int(math.log2(side)) - 2))
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for number in range(1, halvings + 1):
            before, after = width * 2 ** (number - 1), width * 2**number
            stride = 2 if number < halvings else 1
            layers += [
                nn.Conv2d(before, after, 4, stride, 1, bias=False),
                nn.GroupNorm(NORM_GROUPS, after),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(width * 2**halvings, 1, 4, 1, 1))
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Logits [B, 1, rows, columns] of pictures float [B, 3, H, W] in [-1, 1]."""
        logits: Tensor = self.layers(x_bchw)
        return logits

    def loss(self, real_bchw: Tensor, fake_bchw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hinge loss, and the mean logits of real and of decoded pictures."""
        real, fake = self(real_bchw).float(), self(fake_bchw).float()
        return hinge(real, fake), real.mean(), fake.mean()
