"""Text for the entries of a table: "ddim:eta=0.5" to DDIM(eta=0.5) and back, for commands, recipes
and manifests.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ddim.solvers import DDPM, SOLVERS, Solver

V = TypeVar("V")


def build(text: str) -> Solver:
    """The solver that name:key=value,key=value describes; a tuple is written a/b/c.

    Raises ValueError naming what is allowed.
    """
    return choose(text, SOLVERS)


def choose(text: str, table: Mapping[str, Callable[..., V]]) -> V:
    """As `build`, for any table of names and functions, such as SCHEDULES."""
    name, _, options = text.partition(":")
    if name not in table:
        raise ValueError(f"{name!r} is unknown; choose one of {', '.join(table)}")
    allowed = list(inspect.signature(table[name]).parameters)
    chosen: dict[str, Any] = {}
    for option in filter(None, map(str.strip, options.split(","))):
        key, equals, value = option.partition("=")
        if key not in allowed or not equals or key in chosen:
            raise ValueError(
                f"{text!r}: {name} does not take {option!r}; "
                f"write {name}:key=value with {_listed(allowed)}"
            )
        chosen[key] = _value(value)
    missing = [
        key
        for key, option in inspect.signature(table[name]).parameters.items()
        if option.default is option.empty and key not in chosen
    ]
    if missing:
        raise ValueError(f"{text!r}: {name} needs {missing[0]}; write {name}:{missing[0]}=…")
    try:
        return table[name](**chosen)
    except TypeError as error:
        usual = [
            f"{key}={_text(option.default)}"
            for key, option in inspect.signature(table[name]).parameters.items()
            if option.default is not None and option.default is not option.empty
        ]
        example = f"; write values such as {name}:{','.join(usual)}" if usual else ""
        raise ValueError(f"{text!r}: a value has the wrong kind{example}") from error


def describe(solver: Solver) -> str:
    """The text that `build` reads back: the name, the first option, all that is not default."""
    if solver == DDPM():
        return "ddpm"
    name = next((name for name, kind in SOLVERS.items() if kind is type(solver)), None)
    if name is None:
        raise ValueError(f"{type(solver).__name__} has no name; put it into ddim.solvers.SOLVERS")
    options = [
        f"{option.name}={_text(getattr(solver, option.name))}"
        for i, option in enumerate(inspect.signature(type(solver)).parameters.values())
        if i == 0 or getattr(solver, option.name) != option.default
    ]
    return ":".join(filter(None, [name, ",".join(options)]))


def integers(text: str, most: int = 1_000_000) -> list[int]:
    """The numbers of a list such as 0-15,20.

    Raises ValueError for another text, one that names a number twice, or more than `most`.
    """
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise ValueError(
                f"{text!r} is not a list of seeds; write numbers and ranges such as 0-15,20"
            )
        if len(chosen) + int(last) - int(first) >= most:
            raise ValueError(f"{text!r} holds more than {most:,} seeds; ask for fewer at a time")
        chosen.extend(range(int(first), int(last) + 1))
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{text!r} names a seed twice; name each once")
    return chosen


def _listed(allowed: list[str]) -> str:
    return " or ".join(allowed) or "no options at all"


def _value(text: str) -> Any:
    if "/" in text:
        return tuple(_value(part) for part in text.split("/") if part)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join(map(_text, value)) + ("/" if len(value) == 1 else "")
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
