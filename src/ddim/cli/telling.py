"""What a command tells: a sentence on stderr or, with --json, one JSON document on stdout."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

INTERRUPTED, BROKEN_OFF = 75, 130
"""Exit statuses after Ctrl-C: the same command goes on; it begins anew."""


def told(sentence: str, facts: Mapping[str, Any], *, as_json: bool) -> None:
    """Tell what was made: by the sentence, or by the facts as a document."""
    if as_json:
        document(facts)
    else:
        print(sentence, file=sys.stderr)


def document(content: Any) -> None:
    """Print a JSON document that every parser reads: what is not finite is null."""
    print(json.dumps(plain(content), allow_nan=False, indent=2, ensure_ascii=False))


def plain(value: Any) -> Any:
    """The value in JSON's kinds."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, PurePath) else value
