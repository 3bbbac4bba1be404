"""Two-step solvers that run both ways: O-BELM in floating point, the leapfrog in integers.

Two neighbouring states determine the next one, up or down:

    x_below = A x_above + B x_t + C eps(x_t)

Whatever A, constant x0 and eps are carried exactly if B and C suit it. O-BELM (Wang et al. 2024,
arXiv:2410.07273) has the A of second order. A = 1 is the leapfrog (BDIA, Zhang et al. 2023,
arXiv:2307.10829, at γ = 1), and rounded to integers,

    X_below = X_above + round((B x_t + C eps)/unit),

it is a bijection: what the network says of x_t is the same on the way back, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.plans import Plan
from ddim.process import Denoiser, Level
from ddim.sampling import step

UNIT = 2.0**-24
"""Of the lattice. Float32 images made of 8-bit pixels lie on it."""

_FAR = 16.0
_MOST = 2.0**52  # beyond, float64 skips integers


@dataclass(frozen=True)
class Pair:
    """Two neighbouring states (B, ...), x at plan[0] and previous at plan[1].

    Floating-point numbers for O-BELM, int64 in units of 2^-24 for the lattice.
    """

    x: Tensor
    previous: Tensor

    def __getitem__(self, index: slice | list[int]) -> Pair:
        """Some of the batch."""
        return Pair(self.x[index], self.previous[index])

    def to(self, device: str | torch.device) -> Pair:
        """Both on a device."""
        return Pair(self.x.to(device), self.previous.to(device))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def lattice(self) -> bool:
        """Whether these are points of the lattice."""
        return not self.x.is_floating_point()


Triple = tuple[Level, Level, Level]


def triples(plan: Plan) -> list[Triple]:
    """The neighbouring levels (above, t, below) of a falling plan."""
    return list(zip(plan, plan[1:], plan[2:], strict=False))


def coefficients(above: Level, t: Level, below: Level) -> tuple[float, float, float]:
    """A, B and C of O-BELM: A = (h_t/h_above)² signal_below/signal_above, h_t = r_t − r_below.

    An error multiplies by −1/A on the way up and by −A on the way down, so where A is outside 1/16
    to 16, as over the last interval of the cosine schedule, this is the leapfrog. Second order
    downwards; upwards only between levels with noise, for from clean data the first step wakes an
    error that grows as (h_T/h_1)² however many steps there are.
    """
    a = float((_apart(t, below) / _apart(above, t)) ** 2 * above.signal / below.signal)
    return _suited(a if 1 / _FAR <= a <= _FAR else 1.0, above, t, below)


def leapfrog(above: Level, t: Level, below: Level) -> tuple[float, float, float]:
    """A = 1, and its B and C."""
    return _suited(1.0, above, t, below)


def _suited(a: float, above: Level, t: Level, below: Level) -> tuple[float, float, float]:
    b = float((below.signal - a * above.signal) / t.signal)
    return a, b, float(below.noise - a * above.noise - b * t.noise)


def _apart(t: Level, s: Level) -> float:
    """(r_t − r_s) signal_t signal_s."""
    return float(t.noise * s.signal - s.noise * t.signal)


def moved(denoiser: Denoiser, x: Tensor, levels: Triple) -> tuple[float, Tensor]:
    """A, and B x + C eps(x), of O-BELM at the middle level."""
    a, b, c = coefficients(*levels)
    p = denoiser(x, levels[1])
    return a, b * p.x + c * p.eps


def ascend(denoiser: Denoiser, x: Tensor, plan: Plan) -> Pair:
    """Images x (B, ...) at plan[-1] to the pair at the top of a falling plan, one call a step.

    The first step is DDIM's.
    """
    below, t = x, step(denoiser, x, plan[-1], plan[-2])
    for levels in reversed(triples(plan)):
        a, move = moved(denoiser, t, levels)
        below, t = t, (below - move) / a
    return Pair(t, below)


def descend(denoiser: Denoiser, pair: Pair, plan: Plan) -> Tensor:
    """The pair at the top of a falling plan to images at its end: `ascend`, undone."""
    above, t = pair.x, pair.previous
    for levels in triples(plan):
        a, move = moved(denoiser, t, levels)
        above, t = t, a * above + move
    return t


def ascend_lattice(denoiser: Denoiser, x: Tensor, plan: Plan) -> Pair:
    """As `ascend`, by the leapfrog in integers; the denoiser is asked in float32.

    Raises FloatingPointError if a state leaves the lattice.
    """
    below = _whole(x.double() / UNIT)
    first = step(denoiser, (below.double() * UNIT).float(), plan[-1], plan[-2])
    t = _whole(first.double() / UNIT)
    for levels in reversed(triples(plan)):
        below, t = t, below - _moved_whole(denoiser, t, levels)
    return Pair(t, below)


def descend_lattice(denoiser: Denoiser, pair: Pair, plan: Plan) -> Tensor:
    """`ascend_lattice`, undone, float32; to the bit by the same network, device and batch."""
    above, t = pair.x, pair.previous
    for levels in triples(plan):
        above, t = t, above + _moved_whole(denoiser, t, levels)
    return (t.double() * UNIT).float()


def _moved_whole(denoiser: Denoiser, t: Tensor, levels: Triple) -> Tensor:
    """X_below − X_above, a function of the state between them alone."""
    _, b, c = leapfrog(*levels)
    x = t.double() * UNIT
    p = denoiser(x.float(), levels[1])
    return _whole((b * x + c * p.eps.double()) / UNIT)


def _whole(x: Tensor) -> Tensor:
    if not (x.abs() < _MOST).all():  # a nan too
        raise FloatingPointError(
            "a state has left the lattice of numbers below 2^28; the network or the plan is broken"
        )
    return x.round().long()
