"""Power laws L(N) = L_inf + a * N^-b through final losses (arXiv 2001.08361, with the irreducible
loss of arXiv 2010.14701)."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit


@dataclass(frozen=True)
class PowerLaw:
    """A fit, or the reason why there is none."""

    floor: float = float("nan")
    """L_inf, nats."""
    scale: float = float("nan")
    """a, nats: what one parameter would lose above the floor."""
    exponent: float = float("nan")
    """b."""
    exponent_error: float = float("nan")
    """One standard deviation of b."""
    undetermined: str = ""
    """Why the points do not fix the law; empty where they do."""

    def __call__(self, parameters: float) -> float:
        """The loss it foresees for a number of parameters."""
        return float(self.floor + self.scale * parameters**-self.exponent)

    def as_json(self) -> dict[str, Any]:
        """Plain values; what is not known is None."""
        return {k: None if v != v else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        if self.undetermined:
            return f"power law not determined: {self.undetermined}"
        error = f" (b +- {self.exponent_error:.2f})"
        return f"L = {self.floor:.3f} + {self.scale:.3g} * N^-{self.exponent:.3f}{error}"


def fit(parameters: Sequence[int], losses: Sequence[float]) -> PowerLaw:
    """Fit a power law by least squares.

    Args:
        parameters: trainable ones, of each run.
        losses: final ones in nats, of the same runs.

    Returns:
        The law; undetermined with fewer than four sizes, losses that do not fall, a floor that the
        points do not reach down to, or an exponent less sure than half its value.
    """
    n, loss = np.asarray(parameters, float), np.asarray(losses, float)
    sizes = np.unique(n)
    if len(sizes) < 4:
        return PowerLaw(undetermined=f"{len(sizes)} sizes for three unknowns, at least 4 wanted")
    if np.corrcoef(np.log(n), loss)[0, 1] > -0.5:
        return PowerLaw(undetermined="the loss does not fall with size")
    # In units of the smallest model a is the loss above the floor there, of order one.
    unit = sizes[0]
    start = (loss.min() * 0.9, np.ptp(loss) + 0.1 * loss.min(), 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            found, covariance = curve_fit(
                lambda n, floor, a, b: floor + a * (n / unit) ** -b,
                n,
                loss,
                start,
                bounds=([0, 0, 0], [loss.min(), np.inf, 5]),
                max_nfev=20_000,
            )
        except RuntimeError:
            return PowerLaw(undetermined="least squares did not converge")
    floor, a, b = map(float, found)
    error = float(np.sqrt(covariance[2, 2]))
    if not np.isfinite(error) or error > 0.5 * b:
        return PowerLaw(undetermined=f"exponent {b:.2f} +- {error:.2f} from {len(n)} runs")
    return PowerLaw(floor, a * unit**b, b, error)
