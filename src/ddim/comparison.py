"""Two evaluations side by side: another model, or the same after more training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddim.evaluation import FORMAT
from ddim.files import read_json
from ddim.significance import apart, difference, figure_of
from ddim.tables import Table

Document = Mapping[str, Any]


def read_results(path: Path) -> dict[str, Any]:
    """A results.json. Raises ValueError for any other file."""
    document = read_json(path / "results.json" if path.is_dir() else path)
    if document.get("format") != FORMAT or not {"cells", "spaces", "data"} <= set(document):
        raise ValueError(f"{path} is no evaluation; give a results.json of ddim evaluate")
    return document


def compare(a: Document, b: Document) -> list[dict[str, Any]]:
    """b − a of the Fréchet distance, for each setting and feature space that both have.

    Each with its 95 % interval: over the same seeds paired, else as of independent samples. Raises
    ValueError where the two cannot be compared.
    """
    for name, one, other in (
        ("data", a["data"]["fingerprint"], b["data"]["fingerprint"]),
        ("number of images", a["num"], b["num"]),
    ):
        if one != other:
            raise ValueError(
                f"the two are against another {name} ({str(one)[:12]} and {str(other)[:12]}), so "
                "that their distances cannot be compared; evaluate both alike"
            )
    paired = a["first_seed"] == b["first_seed"]
    digests = {space["name"]: space["digest"] for space in a["spaces"]}
    spaces = [s for s in b["spaces"] if digests.get(s["name"]) == s["digest"]]
    known = {_setting(row): row for row in a["cells"]}
    rows = []
    for row in b["cells"]:
        other = known.get(_setting(row))
        if other is None:
            continue
        for space in spaces:
            one, two = (figure_of(r["figures"][space["name"]]["fd"]) for r in (other, row))
            gap, low, high = difference(two, one) if paired else apart(two, one)
            times = {"ms_per_image_a": other["ms_per_image"], "ms_per_image_b": row["ms_per_image"]}
            rows.append(
                {
                    **{name: row[name] for name in ("solver", "spacing", "steps", "calls")},
                    "space": space["name"],
                    "title": space["titles"]["fd"],
                    "a": one.value,
                    "b": two.value,
                    "difference": gap,
                    "low": low,
                    "high": high,
                    "paired": paired,
                    **times,
                }
            )
    if not rows:
        raise ValueError(
            "the two have no setting in a feature space in common; evaluate both with the same "
            "--solvers, --calls and --features"
        )
    return rows


def listed(rows: list[dict[str, Any]]) -> Table:
    """The comparison as text."""
    how = "the same seeds, paired" if rows[0]["paired"] else "other seeds, unpaired"
    return Table(
        "comparison",
        f"Fréchet distances, B − A with its 95 % interval ({how}); a * where 0 is outside it",
        ["solver", "spacing", "calls", "space", "A", "B", "B − A", "95 %", "", "ms A", "ms B"],
        [
            [
                row["solver"],
                row["spacing"],
                str(row["calls"]),
                row["title"],
                f"{row['a']:.3g}",
                f"{row['b']:.3g}",
                f"{row['difference']:+.3g}",
                f"{row['low']:+.3g} to {row['high']:+.3g}",
                "*" if row["low"] > 0 or row["high"] < 0 else "",
                f"{row['ms_per_image_a']:.3g}",
                f"{row['ms_per_image_b']:.3g}",
            ]
            for row in rows
        ],
    )


def _setting(row: Document) -> tuple[str, str, int]:
    return row["solver"], row["spacing"], row["steps"]
