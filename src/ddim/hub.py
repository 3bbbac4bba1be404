"""Models on the hub of Hugging Face: fetched where the user names one, and pushed with a card."""

from __future__ import annotations

import re
from pathlib import Path

from ddim.extras import UnansweredError

PREFIX = "hf:"
_ID = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_FILES = ("*.json", "*.safetensors")
_PUSHED = ("README.md", "*.json", "*.safetensors")
_SILENT = {"ConnectionError", "TimeoutError", "TransportError"}
"""The kinds of error, of Python and of the hub's libraries, of who gets no answer."""


def is_id(path: str | Path) -> bool:
    """Whether this names a model of the hub, hf:owner/name, rather than a path."""
    return str(path).startswith(PREFIX)


def fetch(name: str) -> str:
    """The folder of hf:owner/name or hf:owner/name@revision in the local cache, downloaded if need
    be.

    HF_HUB_OFFLINE=1 keeps to the cache; HF_HOME and HF_TOKEN are honoured. Takes JSON and
    safetensors, and .bin only where there are none. Raises ValueError if it cannot be had; an
    UnansweredError if the hub does not answer.
    """
    match = _ID.fullmatch(name)
    if not match:
        raise ValueError(f"{name!r} is no model of the hub; write hf:owner/name")
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            match[1], revision=match[2], allow_patterns=list(_FILES)
        )
        if not any(Path(folder).rglob("*.safetensors")):
            huggingface_hub.snapshot_download(
                match[1], revision=match[2], allow_patterns=["*.json", "*.bin"]
            )
    except Exception as error:  # of the network, the hub or the cache
        words = " ".join(str(error).split())[:200]
        cached = "is not in the local cache, and HF_HUB_OFFLINE is set"
        where = cached if offline() else "cannot be had"
        raise refusal(error)(
            f"{name} {where}; check the name and the network ({type(error).__name__}: {words})"
        ) from error
    return folder


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub.constants import is_offline_mode

    return is_offline_mode()


def refusal(error: BaseException | None) -> type[ValueError]:
    """What to raise after an error of the hub's library: whether nobody answered, or somebody."""
    while error is not None and not offline():
        answer = getattr(error, "response", None)
        if getattr(answer, "status_code", 0) >= 500:
            return UnansweredError
        if answer is None and _SILENT & {kind.__name__ for kind in type(error).__mro__}:
            return UnansweredError
        error = error.__cause__ or error.__context__
    return ValueError


def checked(name: str) -> str:
    """The name, if it is owner/name. Raises ValueError otherwise."""
    if not _ID.fullmatch(f"{PREFIX}{name}") or "@" in name:
        raise ValueError(f"{name!r} is no name of a model on the hub; write owner/name")
    return name


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload a model's folder to owner/name, made if need be, and return its address.

    Takes the card, JSON and safetensors alone. Raises ValueError if the hub does not take it, an
    UnansweredError if it does not answer.
    """
    import huggingface_hub

    hub = huggingface_hub.HfApi()
    try:
        address = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(_PUSHED),
            commit_message="Upload a model of ddim",
        )
    except Exception as error:  # of the network or the hub
        words = " ".join(str(error).split())[:200]
        kind = refusal(error)
        login = "log in with hf auth login, or set HF_TOKEN"
        raise kind(
            f"{name} cannot be pushed ({type(error).__name__}: {words}); "
            f"{'check the network' if kind is UnansweredError else login}"
        ) from error
    return str(address)
