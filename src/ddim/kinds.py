"""Dataclasses from JSON: every field is held against its annotation before it is used."""

from __future__ import annotations

import math
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotation made of int, float, bool, str, None, tuple and |.

    An int is a float too, a bool is no number, and a float is finite.
    """
    if isinstance(hint, types.UnionType):
        return any(fits(value, each) for each in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        if not isinstance(value, tuple):
            return False
        if inner[-1] is Ellipsis:
            return all(fits(each, inner[0]) for each in value)
        return len(value) == len(inner) and all(map(fits, value, inner))
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) < 1e300 and math.isfinite(value)
    return type(value) is (type(None) if hint is None else hint)


def built(kind: type[T], entries: Mapping[str, Any]) -> T:
    """The dataclass with these fields, lists as tuples.

    Raises ValueError for a key that it does not have or a value of another kind.
    """
    hints = typing.get_type_hints(kind)
    known = {field.name for field in fields(typing.cast(Any, kind))}
    if unknown := entries.keys() - known:
        raise ValueError(
            f"{listed(map(short, sorted(unknown)))} is not an option here; "
            f"known are {listed(sorted(known))}"
        )
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in entries.items()}
    for key, value in values.items():
        if not fits(value, hints[key]):
            raise ValueError(f"{key}={short(value)} must be {spoken(hints[key])}")
    return kind(**values)


def spoken(hint: Any) -> str:
    """An annotation in words, for those who write JSON."""
    words = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    if isinstance(hint, types.UnionType):
        return " or ".join(map(spoken, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        count = "" if inner[-1] is Ellipsis else f" {len(inner)}"
        return f"a list of{count} {spoken(inner[0])}s"
    return words.get(hint, "null")


def short(value: Any) -> str:
    """A value for a sentence: its repr, cut where it is long."""
    return reprlib.repr(value)


def listed(names: Iterable[Any]) -> str:
    """Names, with commas between."""
    return ", ".join(map(str, names))
