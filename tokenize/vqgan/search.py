"""Search for the nearest code of each latent, with the result of exact arithmetic.

B batch, I x J codes, D width of a code, K codes, N = B * I * J.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# A code is in doubt where the largest error that was seen, times this, could change it.
MARGIN = 2.0
ROUNDING = 4e-7  # of a squared distance, as a share of the squares it is the difference of
SEARCH_ROWS = 4096  # latents compared with the codebook at once: 256 MB for 16,384 codes
# a frame in doubt costs both ways: beyond this share the direct way alone is the faster one
WORTH_BELOW, AFTER_FRAMES = 0.4, 16
_direct: ContextVar[bool] = ContextVar("direct", default=False)


@contextlib.contextmanager
def direct_convolutions() -> Iterator[None]:
    """Within, CPU convolutions are computed directly: slower, and right to the last digits."""
    before = _direct.set(True)
    try:
        yield
    finally:
        _direct.reset(before)


def must_be_direct() -> bool:
    """True within `direct_convolutions`."""
    return _direct.get()


class Encodes(Protocol):
    """The methods of a network that the search calls."""

    unit_codes: bool

    def latents(self, x_bchw: Tensor) -> Tensor:
        """Latents before quantisation, [B, D, I, J]."""

    def codes(self) -> Tensor:
        """The codebook as latents are compared with it, [K, D]."""


class ExactSearch:
    """Encodes through fast convolutions, and once more where their error could decide.

    The first frame always goes both ways, which shows how large the error is; every other frame
    that does confirms or raises it. The ids do not depend on which way a frame went, so counting
    how often both were needed, and then staying with the direct one, changes nothing but the time.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.doubted = 0
        self.error = 0.0

    def ids(self, network: Encodes, x_1chw: Tensor) -> Tensor:
        """Ids, int64 [1, I, J], of one frame on a CPU."""
        fast = None
        if self.frames < AFTER_FRAMES or self.doubted < WORTH_BELOW * self.frames:
            fast = network.latents(x_1chw)
            ids_1ij, doubt = self._search(network, fast)
            self.frames += 1
            self.doubted += bool(doubt)
            if self.error and not doubt:
                return ids_1ij
        with direct_convolutions():
            z_1dij = network.latents(x_1chw)
        if fast is not None:
            self.error = max(self.error, error_of(network, fast, z_1dij))
        return nearest(network, z_1dij)

    def _search(self, network: Encodes, z_1dij: Tensor) -> tuple[Tensor, bool]:
        """Ids, and whether one of them could be another without the error."""
        codes_kd = network.codes()
        z_nd = _rows(network, z_1dij)
        first, second, least, following = _two_nearest(z_nd, codes_kd)
        # moving z by v changes the difference of two squared distances by 2 v (e1 - e2)
        between = (codes_kd[first] - codes_kd[second]).norm(dim=1)
        room = MARGIN * self.error * 2 * z_nd.norm(dim=1) * between
        room += ROUNDING * (z_nd.square().sum(1) + codes_kd[first].square().sum(1))
        doubt = (following.square() - least.square() < room) & (between > 0)
        return first.view(1, *z_1dij.shape[2:]), bool(doubt.any())


def error_of(network: Encodes, fast_1dij: Tensor, z_1dij: Tensor) -> float:
    """The largest error towards the second nearest code, as a share of the latent's length."""
    codes_kd, z_nd = network.codes(), _rows(network, z_1dij)
    first, second, _, _ = _two_nearest(z_nd, codes_kd)
    towards = F.normalize(codes_kd[first] - codes_kd[second], dim=1)
    moved = ((_rows(network, fast_1dij) - z_nd) * towards).sum(1) / z_nd.norm(dim=1)
    return float(moved.abs().max())


def nearest(network: Encodes, z_bdij: Tensor) -> Tensor:
    """Each latent's code, int64 [B, I, J], searched in float32; of equally near ones the first."""
    b, _, i, j = z_bdij.shape
    rows = torch.split(_rows(network, z_bdij), SEARCH_ROWS)
    codes_kd = network.codes()
    # cdist is what diffusers searches with: where float32 cannot decide, its digits do
    return torch.cat([torch.cdist(z_nd, codes_kd).argmin(1) for z_nd in rows]).view(b, i, j)


def _two_nearest(z_nd: Tensor, codes_kd: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First and second nearest code of each latent, and their distances: four times [N]."""
    apart_nk = torch.cdist(z_nd, codes_kd)
    first_n = apart_nk.argmin(1)
    least_n = apart_nk.gather(1, first_n[:, None])[:, 0]
    following_n, second_n = apart_nk.scatter_(1, first_n[:, None], torch.inf).min(1)
    return first_n, second_n, least_n, following_n


def _rows(network: Encodes, z_bdij: Tensor) -> Tensor:
    """Latents as rows, float32 [N, D], of length 1 where they are compared as directions."""
    z_nd = z_bdij.float().permute(0, 2, 3, 1).reshape(-1, z_bdij.shape[1])
    return F.normalize(z_nd, dim=-1) if network.unit_codes else z_nd
