"""RePaint's schedule of steps down and back up."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, pairwise

from torch import Tensor

from ddim.noise import Noise
from ddim.plans import Plan
from ddim.solvers.base import Run, fall, falling, noised
from ddim.solvers.ddim import kept_share, sigma, sigma_hat


@dataclass(frozen=True)
class Resample:
    """Eq. (12) from t to s, and `repeats` − 1 times back up by q(x_t | x_s) and down again.

    For inpainting: what is new has the time to agree with what is known. Lugmayr et al. 2022
    (arXiv:2201.09865), with a jump length of one step.
    eta: 0 to 1, as in DDIM.   repeats: network calls per interval, at least 1.
    """

    eta: float = 1.0
    repeats: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta}; choose 0 (DDIM) to 1 (DDPM)")
        if type(self.repeats) is not int or self.repeats < 1:
            raise ValueError(f"repeats={self.repeats!r}; choose a whole number from 1")

    def __call__(self, x: Tensor, plan: Plan, noise: Noise) -> Run[Tensor]:
        """Begin a run; see `Solver`."""
        draws = count()
        if self.eta or self.repeats > 1:
            falling(plan)
        for t, s in pairwise(plan):
            kept = s.noise * (kept_share(fall(t, s), self.eta) if self.eta else 1)
            for repeat in range(self.repeats):
                if repeat:  # back up
                    risen = t.signal / s.signal * x
                    x = noised(risen, sigma_hat(t, s), noise(x, next(draws)))
                    del risen
                p = yield x, t
                x = p.mixed(s.signal, kept)
                del p
                if self.eta and s.noise:
                    x = noised(x, sigma(t, s, self.eta), noise(x, next(draws)))
        return x
