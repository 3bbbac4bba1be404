"""Libraries and services that only some users need: one sentence where one is not there."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any


class UnansweredError(ValueError):
    """A hub or a cluster that does not answer; what it refuses is a plain ValueError."""

    status = 1


def needed(module: str, extra: str, purpose: str) -> Any:
    """The module. Raises ImportError with the command that installs its extra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ImportError(
            f"{purpose} needs {package}; install it from the project's folder: "
            f'pip install -e ".[{extra}]" -c constraints.txt'
        ) from error


def present(module: str) -> bool:
    """Whether a library is installed; does not import it."""
    return importlib.util.find_spec(module) is not None
