"""The site of these pages: python -m sphinx -W docs site."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from typing import Any

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.inspect import stringify_signature

import ddim

project = "ddim"
release = ddim.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "ddim"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
smartquotes = False
highlight_language = "bash"  # of the blocks that name none: commands
myst_heading_anchors = 3
autodoc_default_options = {"members": True, "exclude-members": "past"}  # of Multistep
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88

_TERM = re.compile(r"(\w+(?:\[\w\])?(?:(?:, | and )\w+)*): (?=\S)")
_AND = re.compile(", | and ")
_NEXT = re.compile(r"(?<=\.) (?=(?:Raises|Returns|Costs) )")


def restructured(lines: Iterable[str], names: Collection[str] = ()) -> Iterator[str]:
    """A docstring of ours as reStructuredText.

    Ours are plain text. A line, or what follows three spaces, that begins with `name:` is about
    that one of the names; indented paragraphs are programs; `this` is code.
    """
    for blank, group in groupby(lines, lambda line: not line.strip()):
        block = list(group)
        if blank:
            continue
        if all(line.startswith(" ") for line in block):
            yield from ("::", "", *block, "")
            continue
        for about, text in _entries(block, names):
            first, *rest = _NEXT.split(text) if about else [text]
            if about:
                yield ", ".join(f"``{name}``" for name in _AND.split(about))
            yield from (f"{'    ' if about else ''}{_inline(first)}", "")
            for paragraph in rest:
                yield from (_inline(paragraph), "")


def _entries(block: list[str], names: Collection[str]) -> Iterator[tuple[str, str]]:
    """What a paragraph says of each name; ("", text) is about none."""
    about, text = "", ""
    for line in block:
        for part in re.split(r" {3,}(?=\S)", line) if line[:1] != " " else [line]:
            found = _TERM.match(part)
            if found and not {each.partition("[")[0] for each in _AND.split(found[1])} <= {*names}:
                found = None
            ended = part[:1] != " " and text.endswith(".")
            if text and (found or (ended and (about or part.startswith(("Raises ", "Returns "))))):
                yield about, text
                about, text = "", ""
            about = found[1] if found else about
            text = f"{text} {part[found.end() :] if found else part.strip()}".strip()
    yield about, text


def _inline(text: str) -> str:
    """Code in double backticks, public names as links, and the rest as it stands."""
    pieces = re.split(r"`([^`]+)`", text)
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            pieces[i] = re.sub(r"[\\*|]|_(?!\w)", r"\\\g<0>", piece)
        elif (name := piece.removeprefix("ddim.")) in ddim._MODULE:
            pieces[i] = f":py:obj:`{piece} <ddim.{name}>`"
        else:
            pieces[i] = f"``{piece}``"
    return "".join(pieces)


def _docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    home = ddim._MODULE.get(name.removeprefix("ddim."))
    if what == "data" and home:  # an alias of types, whose docstring stands below it
        lines[:] = ModuleAnalyzer.for_module(f"ddim.{home}").find_attr_docs()["", name[5:]]
    lines[:] = restructured(lines, inspect.signature(obj).parameters if _made(obj) else ())


def _signature(app: Sphinx, what: str, name: str, obj: Any, *others: Any) -> tuple[str, str] | None:
    """The signature with its types as they are written in the source."""
    if inspect.isclass(obj) and not _made(obj):
        return "", ""
    if not _made(obj):
        return None
    signature = inspect.signature(obj)
    if what == "method" and not inspect.ismethod(obj):
        signature = signature.replace(parameters=[*signature.parameters.values()][1:])
    text = stringify_signature(signature, unqualified_typehints=True).replace("<factory>", "...")
    arguments, _, returned = text.partition(" -> ")
    return arguments, "" if what == "class" else returned


def _made(obj: Any) -> bool:
    """Whether it is a function, or a class of which there are objects."""
    return (
        inspect.isfunction(obj)
        or inspect.ismethod(obj)
        or (inspect.isclass(obj) and not obj.__dict__.get("_is_protocol"))
    )


def setup(app: Sphinx) -> None:
    """Read our docstrings."""
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-process-signature", _signature)
