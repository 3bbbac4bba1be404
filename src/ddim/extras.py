"""Libraries and services that only some users need: one sentence where one is not there."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any


class UnansweredError(ValueError):
    """A hub or a cluster that does not answer; what it refuses is a plain ValueError."""

    status = 1


def broken_off(error: BaseException) -> bool:
    """Whether an error comes of a Ctrl-C: one in the midst of the import of a library written in
    C++ turns into an ImportError.
    """
    seen, cause = list[BaseException](), error.__cause__
    while cause is not None and cause not in seen:  # an error may be its own cause
        seen.append(cause)
        cause = cause.__cause__
    return any(isinstance(each, KeyboardInterrupt) for each in (error, *seen))


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
    except ImportError as error:
        if broken_off(error):
            raise KeyboardInterrupt from error
        raise


def present(module: str) -> bool:
    """Whether a library is installed; does not import it."""
    return importlib.util.find_spec(module) is not None
