"""Whether an evaluation with --table 1 has the order of the paper's Table 1, with intervals.

python benchmarks/paper_order.py report/results.json

Prints, in every feature space, each difference of Fréchet distances on the same seeds that the
paper's table has a sign for, with its 95 % interval: "as in the paper" or "the reverse" where 0 is
outside it, else "undecided".
"""

from __future__ import annotations

import sys
from pathlib import Path

from ddim.comparison import read_results
from ddim.significance import difference, figure_of

ETAS = ("ddim:eta=0", "ddim:eta=0.2", "ddim:eta=0.5", "ddpm", "ddim:eta=1,added=hat")
HAT = ETAS[-1]
CLAIMS = [  # the paper has the first of two settings above the second
    *(((solver, 10), ("ddim:eta=0", 10)) for solver in ETAS[1:]),
    ((HAT, 10), ("ddpm", 10)),
    *(((solver, 10), (solver, 100)) for solver in ETAS),
    *(((solver, 100), (solver, 1000)) for solver in ETAS),
    (("ddim:eta=0", 1000), (HAT, 1000)),
]


def main() -> None:
    document = read_results(Path(sys.argv[1] if len(sys.argv) > 1 else "report"))
    rows = {(row["solver"], row["steps"]): row["figures"] for row in document["cells"]}
    for space in document["spaces"]:
        print(f"{space['titles']['fd']}, N = {document['num']}")
        for worse, better in CLAIMS:
            if worse in rows and better in rows:
                pair = [figure_of(rows[key][space["name"]]["fd"]) for key in (worse, better)]
                gap, low, high = difference(*pair)
                found = "as in the paper" if low > 0 else "the reverse" if high < 0 else "undecided"
                words = f"{worse[0]} in {worse[1]} - {better[0]} in {better[1]}"
                print(f"  {words:52} {gap:+7.3f} ({low:+.3f} to {high:+.3f})  {found}")


if __name__ == "__main__":
    main()
