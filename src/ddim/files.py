"""Files: written whole or not at all; read with one sentence for what is wrong, and never run."""

from __future__ import annotations

import io
import json
import os
import re
import time
import warnings
import zipfile
from collections.abc import Hashable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

_LONGEST_JSON, _LONGEST_YAML = 64 << 20, 1 << 20
_NAMESPACE = "tag:yaml.org,2002:python/object:argparse.Namespace"


def cache_folder() -> Path:
    """Where what can be made anew is kept: DDIM_CACHE, or ddim in the user's cache folder."""
    above = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("DDIM_CACHE") or above / "ddim")


def write(path: Path, content: bytes) -> None:
    """Put content at path whole or not at all."""
    write_all(path.parent, {path.name: content})


def write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Put files into a folder: all as temporary files, synced, and then all renamed at once."""
    staged = [(folder / name, content) for name, content in contents.items()]
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path, _ in staged}
    try:
        for path, content in staged:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, _ in staged:
            temporary[path].replace(path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
    for parent in {path.parent for path, _ in staged}:
        sync(parent)


def sweep_temporary(folder: Path, age: float = 0.0) -> None:
    """Delete what killed processes were writing into a folder, if it is `age` seconds old."""
    for path in folder.glob(".*.tmp"):
        writer = re.search(r"\.(\d+)(\.\d+)?\.tmp$", path.name)
        with suppress(OSError):
            if writer and not _lives(int(writer[1])) and time.time() - path.stat().st_mtime >= age:
                path.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def sync(folder: Path) -> None:
    """Make the names in a folder last: fsync of the folder itself."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON document, indented."""
    write(path, to_json(content))


def to_json(content: Mapping[str, Any]) -> bytes:
    """A JSON document, indented."""
    return (json.dumps(content, indent=2) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError naming the file if it is missing or is not one."""
    if not path.exists():
        raise ValueError(f"{path} is missing")
    try:
        return _object(json.loads(_text(path, _LONGEST_JSON)))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({_line(error)})") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Of tags it knows that of argparse.Namespace alone, as a mapping.

    Raises ValueError naming the file for any other tag, for aliases, and for what is no mapping.
    """
    try:
        return _object(yaml.load(_text(path, _LONGEST_YAML), Loader=_Plain))
    except Exception as error:  # its reader raises what it meets
        raise ValueError(f"{path} cannot be read as YAML ({_line(error)})") from error


class _Plain(yaml.SafeLoader):
    """Mappings, lists and scalars."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few of them can stand for billions of entries
            raise yaml.YAMLError("it has an alias, which this reader does not follow")
        return super().compose_node(parent, index)

    def namespace(self, node: yaml.MappingNode) -> dict[Hashable, Any]:
        """What training programs dump of their arguments."""
        return self.construct_mapping(node, deep=True)


_Plain.add_constructor(_NAMESPACE, _Plain.namespace)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ValueError if it is missing or damaged."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({_line(error)}); the file is missing or damaged"
        ) from error


def read_checkpoint(path: Path) -> Any:
    """What torch.save wrote, if it is tensors, numbers, text, lists and dicts; nothing else is run.

    Raises ValueError otherwise.
    """
    try:
        _refuse_compressed(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its advice is to run what is in there
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        if type(error).__name__ == "UnpicklingError":
            foreign = re.search(r"GLOBAL (\S+)", str(error))
            what = f"asks to run {foreign[1]}" if foreign else "is a pickle of something else"
            raise ValueError(
                f"{path} {what}, and a checkpoint should hold nothing but weights, numbers and "
                "text; nothing was run: save its state dict instead"
            ) from error
        raise ValueError(
            f"{path} cannot be read as a checkpoint of torch ({_line(error)}); "
            "the file is missing or damaged"
        ) from error


def refuse_code(path: Path) -> None:
    """Raise ValueError for a .pt2 that holds more than tensors, since its reader would run it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any("/custom_obj_" in name or "/opaque_obj_" in name for name in names):
                raise ValueError("it holds objects beside its tensors")
            for name in names:
                if name.endswith("_config.json") and _pickled(json.loads(archive.read(name))):
                    raise ValueError("it holds pickled tensors")
                if name.endswith(".pt") and archive.getinfo(name).file_size:
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    except Exception as error:  # a damaged archive or pickle may raise anything
        raise ValueError(
            f"{path} is no .pt2 of plain tensors ({_line(error)}); nothing was run: export it anew"
        ) from error


def _pickled(config: Any) -> bool:
    """Whether the payloads that a .pt2 lists are pickles."""
    payloads = config.get("config", {}).values() if isinstance(config, dict) else ()
    return any(isinstance(entry, dict) and entry.get("use_pickle") for entry in payloads)


def _refuse_compressed(path: Path) -> None:
    """Raise ValueError for an archive that unfolds: torch.save stores what it writes as it is."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed, which no checkpoint of torch is")


def _text(path: Path, longest: int) -> str:
    if path.is_file() and path.stat().st_size > longest:
        raise ValueError(f"it has {path.stat().st_size} bytes, and {longest} is the most")
    return path.read_text(encoding="utf-8")


def _object(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not named entries")
    return content


def _line(error: BaseException) -> str:
    """What an error says, in one short line."""
    words = " ".join(str(error).split())
    return words[:160] + ("…" if len(words) > 160 else "") or type(error).__name__
