"""DDIM and DDPM: the family q_σ, Eq. (12)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ddim.noise import Noise
from ddim.plans import Plan
from ddim.process import Level, Scalar
from ddim.solvers.base import Run, fall, falling, noised


@dataclass(frozen=True)
class DDIM:
    """Eq. (12): eta = 0 is DDIM, eta = 1 is DDPM, and sigmas reach the whole family q_σ.

    eta: the η of Eq. (16), at least 0, or one per image of the batch; above 1 only while
        σ² <= noise² of the next level.
    sigmas: instead of eta, σ itself, one per step.
    added: "sigma", or "hat" for the paper's σ̂ (with eta = 1), or one std per step, such as
        `analytic_sigmas` estimates: the mean keeps σ(eta), the noise added has this std.
    An inadmissible σ raises ValueError before the network is called.
    """

    eta: float | tuple[float, ...] = 0.0
    sigmas: tuple[float, ...] | None = None
    added: str | tuple[float, ...] = "sigma"

    def __post_init__(self) -> None:
        if not self._etas:
            raise ValueError("eta=(); give one number, or one per image")
        for eta in self._etas:
            if not isinstance(eta, int | float) or not 0 <= eta < math.inf:
                raise ValueError(f"eta={eta}; choose 0 (DDIM) to 1 (DDPM), or a tuple")
        if self.added not in ("sigma", "hat") and not _are_stds(self.added):
            raise ValueError(
                f"added={self.added!r}; choose 'sigma' or 'hat', or a tuple of numbers from 0, "
                "one per step"
            )
        if self.added == "hat" and self.eta != 1:
            raise ValueError(f"added='hat' is defined for eta=1; got eta={self.eta}")
        if self.sigmas is None:
            return
        if not _are_stds(self.sigmas):
            raise ValueError(f"sigmas={self.sigmas}; give a tuple of numbers from 0, one per step")
        if self.eta != 0 or self.added != "sigma":
            other = f"eta={self.eta}" if self.eta != 0 else f"added={self.added!r}"
            raise ValueError(f"{other} and sigmas both set σ; give one of them")

    def __call__(self, x: Tensor, plan: Plan, noise: Noise) -> Run[Tensor]:
        """Begin a run; see `Solver`."""
        steps, draws = zip(pairwise(plan), self._weights(x, plan), strict=True), self._draws
        for k, ((t, s), (kept, std)) in enumerate(steps):
            p = yield x, t
            x = p.mixed(s.signal, kept)  # Eq. (12): √α_s x̂_0 + kept ε̂, kept = √(1 − α_s − σ²)
            del p  # whose memory the next network call may use
            if draws and s.noise:
                x = noised(x, std, noise(x, k))  # σ z
        return x

    @property
    def _draws(self) -> bool:
        return any(self._etas) or any(self.sigmas or ()) or isinstance(self.added, tuple)

    @property
    def _etas(self) -> tuple[float, ...]:
        return self.eta if isinstance(self.eta, tuple) else (self.eta,)

    def _weights(self, x: Tensor, plan: Plan) -> list[tuple[Scalar, Scalar]]:
        """(kept, std) of every step: floats, or (B, 1, ..., 1) if each image has its own eta."""
        steps = list(pairwise(plan))
        if self._draws:
            falling(plan)
        if self.sigmas is not None:
            given = zip(steps, self._admitted(steps), strict=True)
            return [(math.sqrt(float(s.noise) ** 2 - std**2), std) for (_, s), std in given]
        if isinstance(self.eta, tuple) and len(self.eta) != len(x):
            raise ValueError(
                f"{len(self.eta)} values of eta for a batch of {len(x)}; "
                "give one per image, or one number"
            )
        if not self._draws:
            return [(s.noise, 0.0) for _, s in steps]
        highest, most = max(self._etas), largest_eta(plan)
        if highest > most:
            raise ValueError(
                f"eta={highest:g} asks for more variance than this plan has; "
                f"choose 0 to {math.floor(1e4 * most) / 1e4:g}"
            )
        eta: Scalar = torch.tensor(self._etas, dtype=torch.float64).reshape(-1, *[1] * (x.ndim - 1))
        if not isinstance(self.eta, tuple):
            eta = self.eta
        means = [s.noise * kept_share(fall(t, s), eta) for t, s in steps]
        stds = self._stds(steps, eta)
        return [(_like(x, mean), _like(x, std)) for mean, std in zip(means, stds, strict=True)]

    def _stds(self, steps: list[tuple[Level, Level]], eta: Scalar) -> list[Scalar]:
        """The std of the noise that each step adds."""
        if self.added == "hat":
            return [sigma_hat(t, s) for t, s in steps]
        if not isinstance(self.added, tuple):
            return [eta * sigma(t, s) for t, s in steps]
        if len(self.added) != len(steps):
            raise ValueError(
                f"added has {len(self.added)} values for {len(steps)} steps; give one per step"
            )
        for k, (std, (_, s)) in enumerate(zip(self.added, steps, strict=True)):
            if std and not s.noise:
                raise ValueError(
                    f"added[{k}]={std} but the step ends at clean data; the last step returns x0, "
                    "so give 0"
                )
        return list(self.added)

    def _admitted(self, steps: list[tuple[Level, Level]]) -> tuple[float, ...]:
        sigmas = self.sigmas or ()
        if len(sigmas) != len(steps):
            raise ValueError(f"{len(sigmas)} sigmas for {len(steps)} steps; give one per step")
        for k, (value, (_, s)) in enumerate(zip(sigmas, steps, strict=True)):
            if not 0 <= value <= float(s.noise):
                raise ValueError(
                    f"sigmas[{k}]={value} but the next level has noise {s.noise:.6g}; "
                    f"choose 0..{s.noise:.6g}"
                )
        return sigmas


def DDPM() -> DDIM:
    """The ancestral sampler of Ho et al. 2020 on any sub-sequence: DDIM at eta = 1."""
    return DDIM(eta=1.0)


def kept_share(q: float, eta: Scalar) -> Scalar:
    """√(noise² − σ²)/noise, free of the cancellation that a σ near noise brings."""
    rest = (1 - eta) * (1 + eta) + (eta * q) ** 2
    return rest.clamp(min=0).sqrt() if isinstance(rest, Tensor) else math.sqrt(max(rest, 0.0))


def sigma(t: Level, s: Level, eta: float = 1.0) -> float:
    """σ(η) of Eq. (16) from t down to s, for any (signal, noise).

    At η = 1 it is the std of q(x_s | x_t, x_0).
    """
    q = fall(t, s)
    return eta * float(s.noise) * math.sqrt((1 - q) * (1 + q))


def sigma_hat(t: Level, s: Level) -> float:
    """The paper's σ̂: the std of q(x_t | x_s), √(1 − α_t/α_s) when variance is preserved."""
    return math.sqrt(max(0.0, float(t.noise**2 - (t.signal / s.signal) ** 2 * s.noise**2)))


def largest_eta(plan: Plan) -> float:
    """The largest eta whose σ keeps the marginals on every step of a falling plan.

    At least 1, and inf for a single step into data. Raises ValueError for a rising plan.
    """
    bounds = ((float(s.noise), sigma(t, s)) for t, s in pairwise(falling(plan)))
    return min((noise / std for noise, std in bounds if std), default=math.inf)


def _are_stds(value: object) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(std, int | float) and 0 <= std < math.inf for std in value
    )


def _like(x: Tensor, value: Scalar) -> Scalar:
    """Tensor coefficients are computed in float64 and applied in the dtype of x."""
    return value.to(x) if isinstance(value, Tensor) else value
