"""What the figures of an evaluation say, in sentences: the verdict, and what to beware of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddim.significance import difference, figure_of
from ddim.sketches import KEPT

Document = Mapping[str, Any]
_SMALL = 10_000


def warnings(document: Document, trained: bool) -> list[str]:
    """What a reader of the figures should know; trained: the data is the model's training data."""
    num, said = document["num"], []
    for space in document["spaces"]:
        title = space["titles"]["fd"]
        if num < 10 * space["dimension"]:
            said.append(
                f"{num} images are few for the {space['dimension']} dimensions of {space['name']}: "
                f"{title} is biased upwards, its floor with it, and comparable only at N = {num}"
            )
        if not space["floors"]:
            said.append(
                f"statistics alone give no floor: what {title} real images would have at N = {num} "
                "is not known"
            )
        fine = document["cells"][0]
        fd = fine["figures"][space["name"]]["fd"]
        if fd.get("p", 1.0) <= 0.05:
            said.append(
                f"the run of {fine['steps']} steps itself is told from real images: {title} is "
                f"{fd['value']:.3g}, and {space['floors']['fd']['mean']:.3g} between two real sets "
                "on average; more steps of it do not mend that"
            )
    if num > KEPT and document["spaces"]:
        said.append(
            f"figures of pairs of images (all but the Fréchet distance) are of {KEPT} images"
        )
    found = document["memorisation"]
    if found is None:
        return said
    if found["data"] < _SMALL:
        said.append(
            f"the data has {found['data']} images, few enough to be learned by heart: look at the "
            "nearest pairs before you call the samples new"
        )
    if found["share"] > 0.05 + 3 * (0.05 * 0.95 / found["n"]) ** 0.5:
        said.append(
            f"{100 * found['share']:.0f} % of the samples lie nearer to a real image than 95 % of "
            "real images do to another: they may be copies, or smoother than real images"
        )
    if trained:
        said.append(
            "the data is what the model was trained on, so that a model that copies it would score "
            "best; held-out images say more"
        )
    return said


def verdict(document: Document) -> dict[str, Any]:
    """The fewest calls whose Fréchet distance exceeds the fine run's by no more than the floor's
    spread, at 97.5 % confidence over seeds, in the first space.
    """
    fine, *rows = document["cells"]
    space = document["spaces"][0]
    title, name = space["titles"]["fd"], space["name"]
    if "fd" not in space["floors"]:
        return {"text": f"Without a floor for {title} it cannot be said how many calls are enough."}
    spread = space["floors"]["fd"]["spread"]
    judged = []
    for row in rows:
        gap, low, high = difference(*(figure_of(r["figures"][name]["fd"]) for r in (row, fine)))
        judged.append({**_named(row), "difference": gap, "low": low, "high": high})
    about = {"space": name, "spread": spread, "fine": _named(fine), "judged": judged}
    within = [entry for entry in judged if entry["high"] <= spread]
    best = min(within, key=lambda entry: (entry["calls"], entry["difference"]), default=None)
    if best is not None:
        return {"text": f"For this model, {_sentence(best, about, title)}.", **about, "best": best}
    nearest = min(judged, key=lambda entry: entry["high"], default=None)
    text = (
        "No other setting of this sweep is shown to be within the floor's spread of "
        f"{fine['steps']} steps"
    )
    if nearest is not None:
        text += f"; the nearest is {_setting(nearest)}: {_gap(nearest, spread, title)}"
    return {"text": f"{text}.", **about}


def _sentence(best: Document, about: Document, title: str) -> str:
    return (
        f"{_setting(best)} are within the floor's spread of {about['fine']['steps']} steps: "
        f"{_gap(best, about['spread'], title)}"
    )


def _setting(entry: Document) -> str:
    return f"{entry['calls']} calls of {entry['solver']} ({entry['spacing']})"


def _gap(entry: Document, spread: float, title: str) -> str:
    return (
        f"{title} differs by {entry['difference']:+.3g} (95 %: {entry['low']:+.3g} to "
        f"{entry['high']:+.3g}), and the floor spreads by {spread:.3g}"
    )


def _named(row: Document) -> dict[str, Any]:
    return {name: row[name] for name in ("solver", "spacing", "steps", "calls")}
