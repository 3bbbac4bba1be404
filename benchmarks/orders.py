"""The convergence order of every solver, measured: the table of docs/solvers.md.

Slope of the distance to the exact flow of a one-dimensional mixture between 96 and 384 intervals:
on uneven steps that ramp up, so that a method's warm-up does not show; on uneven steps without the
ramp, as every run of a few steps is; and on even ones.
"""

from __future__ import annotations

import ddim
from ddim.exact import order

SOLVERS = (
    "ddim",
    "heun",
    "dpmpp2s",
    "ipndm:order=2",
    "ipndm:order=3",
    "ipndm:order=4",
    "deis:order=2",
    "deis:order=3",
    "deis:order=4",
    "dpmpp:order=2",
    "dpmpp:order=3",
    "dpmpp:order=3,compat=True",
    "unipc:order=1",
    "unipc:order=2",
    "unipc:order=3",
)


def main() -> None:
    print("| solver | uneven | without the ramp | even, without it |\n|---|---|---|---|")
    for name in SOLVERS:
        solver = ddim.build(name)
        measured = (order(solver), order(solver, ramp=False), order(solver, False, (1,)))
        print(f"| `{name}` | {' | '.join(f'{value:.2f}' for value in measured)} |", flush=True)


if __name__ == "__main__":
    main()
