"""Models on the hub of Hugging Face: fetched where the user names one, and pushed with a card."""

from __future__ import annotations

import re
from pathlib import Path

PREFIX = "hf:"
_ID = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_FILES = ("*.json", "*.safetensors")


def is_id(path: str | Path) -> bool:
    """Whether this names a model of the hub, hf:owner/name, rather than a path."""
    return str(path).startswith(PREFIX)


def fetch(name: str) -> str:
    """The folder of hf:owner/name or hf:owner/name@revision in the local cache, downloaded if need
    be.

    HF_HUB_OFFLINE=1 keeps to the cache; HF_HOME and HF_TOKEN are honoured. Takes JSON and
    safetensors, and .bin only where there are none. Raises ValueError if it cannot be had.
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
        offline = huggingface_hub.constants.is_offline_mode()
        where = (
            "is not in the local cache, and HF_HUB_OFFLINE is set" if offline else "cannot be had"
        )
        raise ValueError(f"{name} {where} ({type(error).__name__}: {words})") from error
    return folder
