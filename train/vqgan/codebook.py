"""A codebook that follows its latents, after VQ-VAE (van den Oord et al., arXiv 1711.00937).

Each code moves to the running mean of the latents nearest to it (appendix A.1). One that no latent
chose for a while is dead: no mean would ever bring it back, so it starts again at a recent latent,
as in Jukebox (Dhariwal et al., arXiv 2005.00341, section 3.1).

Shapes: B pictures, D code width, I x J codes, K codes, M = B*I*J latents.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

RECENT = 4096  # latents that dead codes start again from
TOO_FEW = 1e-9  # running counts too small to compute a mean from


class Codebook:
    """The codes of a VQModel, which learn by their own rule and not by gradient.

    Args:
        weight_kd: the model's codes; changed in place.
        shares_k: share of latents nearest to each code.
        latents: number of latents of a step, about; the running counts start from it.
        decay: of the running means.
        dead_after: steps without a latent after which a code starts again.
    """

    def __init__(
        self, weight_kd: Tensor, shares_k: Tensor, latents: int, decay: float, dead_after: int
    ) -> None:
        self.weight_kd, self.decay, self.dead_after = weight_kd, decay, dead_after
        self.counts_k = (shares_k * latents).clamp_min(TOO_FEW).to(weight_kd)
        self.sums_kd = weight_kd.detach() * self.counts_k[:, None]
        never = torch.zeros(len(weight_kd), dtype=torch.int64, device=weight_kd.device)
        self.chosen_at_k, self.alive_at_k = never, never.clone()  # steps, of which 1 is the first
        self.recent_md = weight_kd.detach().clone()
        self.restarted = 0

    def quantize(self, latents_bdij: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Replace latents by their nearest codes.

        Returns:
            The codes' vectors [B, D, I, J], through which gradients pass as if nothing had been
            replaced; ids int64 [B, I, J]; the commitment loss, the mean squared distance.
        """
        flat_md = latents_bdij.permute(0, 2, 3, 1).flatten(0, 2)
        with torch.no_grad():
            ids_m = nearest(flat_md, self.weight_kd)
            codes_md = self.weight_kd[ids_m]
        b, _, i, j = latents_bdij.shape
        codes_bdij = codes_md.view(b, i, j, -1).permute(0, 3, 1, 2)
        commitment = F.mse_loss(latents_bdij, codes_bdij)
        passed_bdij = latents_bdij + (codes_bdij - latents_bdij).detach()
        return passed_bdij, ids_m.view(b, i, j), commitment

    @torch.no_grad()
    def update(self, latents_bdij: Tensor, ids_bij: Tensor, step: int, learn: bool) -> None:
        """Count a step's latents; with `learn` move the codes and restart dead ones."""
        flat_md, ids_m = latents_bdij.permute(0, 2, 3, 1).flatten(0, 2), ids_bij.flatten()
        counts_k = torch.bincount(ids_m, minlength=len(self.weight_kd)).to(flat_md)
        self.counts_k.lerp_(counts_k, 1 - self.decay)
        self.chosen_at_k[counts_k > 0] = step
        self.alive_at_k[counts_k > 0] = step
        if not learn:
            self.sums_kd = self.weight_kd * self.counts_k[:, None]  # for when learning begins
            return
        sums_kd = torch.zeros_like(self.sums_kd).index_add_(0, ids_m, flat_md)
        self.sums_kd.lerp_(sums_kd, 1 - self.decay)
        self.recent_md = torch.cat([flat_md, self.recent_md])[:RECENT]
        counted = self.counts_k > TOO_FEW
        self.weight_kd[counted] = self.sums_kd[counted] / self.counts_k[counted, None]
        self._restart(step)

    def _restart(self, step: int) -> None:
        dead = (step - self.alive_at_k >= self.dead_after).nonzero()[:, 0]
        if not len(dead):
            return
        generator = torch.Generator().manual_seed(step)
        drawn = torch.randperm(len(self.recent_md), generator=generator)[: len(dead)]
        dead = dead[: len(drawn)]
        latents_nd = self.recent_md[drawn.to(dead.device)]
        # as much weight as an average code, so that a few latents do not carry it far
        mean = float(self.counts_k.mean())
        self.weight_kd[dead], self.counts_k[dead] = latents_nd, mean
        self.sums_kd[dead] = latents_nd * mean
        self.alive_at_k[dead] = step
        self.restarted += len(dead)

    def usage(self, step: int) -> float:
        """Share of the codes that were chosen within the last `dead_after` steps."""
        recent_k = (self.chosen_at_k > 0) & (step - self.chosen_at_k < self.dead_after)
        return float(recent_k.float().mean())

    def perplexity(self) -> float:
        """Perplexity of the running counts: so many equally frequent codes would carry as much."""
        share_k = self.counts_k / self.counts_k.sum()
        return float(torch.exp(-(share_k * (share_k + 1e-12).log()).sum()))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that the next step depends on, but the codes: they are the model's.

        `restore` follows when a checkpoint has been read into them.
        """
        missing = RECENT - len(self.recent_md)  # one shape for all checkpoints
        self._padded_md = F.pad(self.recent_md, (0, 0, 0, missing))
        names = ("counts_k", "sums_kd", "chosen_at_k", "alive_at_k")
        return {"recent_md": self._padded_md, **{name: getattr(self, name) for name in names}}

    def facts(self) -> dict[str, int]:
        """The rest that the next step depends on, as plain JSON."""
        return {"recent": len(self.recent_md), "restarted": self.restarted}

    def restore(self, facts: dict[str, int]) -> None:
        """Go on with the facts of a checkpoint whose tensors have been loaded."""
        self.recent_md = self._padded_md[: facts["recent"]].clone()
        self.restarted = facts["restarted"]


def nearest(latents_md: Tensor, weight_kd: Tensor) -> Tensor:
    """Index of the nearest code of each latent, int64 [M]."""
    squares_k = weight_kd.square().sum(1)
    return (squares_k - 2 * latents_md @ weight_kd.T).argmin(1)
