"""The losses of VQGAN (Esser et al., arXiv 2012.09841).

Differences are of pixels from 0 to 1. Shapes: B pictures, C = 3 channels, H x W pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Perceptual = Callable[[Tensor, Tensor], Tensor]
MOST = 1e4  # of the adaptive weight, as in VQGAN's code


def gradient_difference(decoded_bchw: Tensor, target_bchw: Tensor, scales: int = 3) -> Tensor:
    """Difference of the edges of two pictures; it takes LPIPS's place without its weights.

    The absolute difference between the pictures' gradients, at halving scales, as in the gradient
    difference loss of Mathieu et al. (arXiv 1511.05440). It rewards sharp edges, where L1 and L2
    settle for their mean; texture does not count.
    """
    difference_bchw = (decoded_bchw - target_bchw) / 2
    total = difference_bchw.new_zeros(())
    for scale in range(scales):
        if scale:
            difference_bchw = F.avg_pool2d(difference_bchw, 2)
        total = total + difference_bchw.diff(dim=2).abs().mean()
        total = total + difference_bchw.diff(dim=3).abs().mean()
    return total / scales


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss (Lim and Ye, arXiv 1705.02894): no gain beyond a margin of one."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def adaptive_weight(
    reconstruction: Tensor,
    adversarial: Tensor,
    last_layer: Tensor,
    mean: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> Tensor:
    """VQGAN's lambda (eq. 7): the ratio of both losses' gradients at the decoder's last layer.

    With it the discriminator pulls as strongly as the reconstruction, whatever its logits. `mean`
    averages gradients over the processes.
    """
    (ours,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (theirs,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    ratio: Tensor = mean(ours).norm() / (mean(theirs).norm() + 1e-6)
    return ratio.clamp(0, MOST).detach()
