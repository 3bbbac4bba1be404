"""What the page may read: one folder, the models, runs and reports in it."""

from __future__ import annotations

import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from ddim.curves import METRICS
from ddim.model import Model
from ddim.recipes import Recipe, find_recipe
from ddim.store import holds_model, load

REPORT = "report.html"
_DEPTH, _OPEN, _KEPT = 3, 2, 32
_HERE = "."
KINDS: dict[str, Callable[[Path], bool]] = {
    "model": holds_model,
    "run": lambda folder: (folder / METRICS).is_file(),
    "report": lambda folder: (folder / REPORT).is_file(),
}
Stamp = tuple[tuple[str, int, int], ...]
"""The files of a model as they are: names, times and sizes."""


@dataclass
class Home:
    """A folder, and no path outside it; keeps the last two models open.

    root: a model's folder or one of many.   shown: how the user wrote it, for commands.
    made: where the files to download are written, the older of which go.
    """

    root: Path
    shown: str
    made: Path
    device: str = "cpu"
    _models: OrderedDict[tuple[str, Stamp], Model] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)
    _count: int = 0

    def names(self, kind: str) -> list[str]:
        """The folders of a kind, by their names from the root; "." is the root itself."""
        found = (path for path in self._walk(self.root, _DEPTH) if KINDS[kind](path))
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def folder(self, name: object, kind: str) -> Path:
        """A folder by its name. Raises ValueError for any other, wherever it leads."""
        parts = Path(name).parts if isinstance(name, str) and name and "\0" not in name else ("..",)
        path = self.root.joinpath(*parts)
        hidden = any(part.startswith(".") or part == os.sep for part in parts)
        if hidden or len(parts) > _DEPTH or not self.inside(path) or not KINDS[kind](path):
            known = ", ".join(self.names(kind))
            hint = f"choose one of {known}" if known else f"there is no {kind} in it now"
            raise ValueError(f"{str(name)[:80]!r} is no {kind} in {self.shown}; {hint}")
        return path

    def inside(self, path: Path) -> bool:
        """Whether a path leads to what is in the root, by whatever links."""
        return path.resolve().is_relative_to(self.root.resolve())

    def file(self, path: Path) -> Path:
        """A file in the root. Raises ValueError for a link that leads out."""
        if not self.inside(path):
            raise ValueError(f"{path.name} is a link that leads out of {self.shown}")
        return path

    def path(self, name: str) -> str:
        """How a command would name it."""
        return self.shown if name == _HERE else f"{self.shown.rstrip('/')}/{name}"

    def stamp(self, name: object) -> Stamp:
        """What a model's files are now. Raises ValueError if one of them leads out."""
        folder = self.folder(name, "model")
        files = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json")]
        rows = [(path, self.file(path).stat()) for path in sorted(files)]
        return tuple((str(path), each.st_mtime_ns, each.st_size) for path, each in rows)

    def model(self, name: object) -> Model:
        """A model, as its weights are now. Raises ValueError if it cannot be opened."""
        key = (str(name), self.stamp(name))
        with self._lock:
            if key not in self._models:
                self._models[key] = load(self.folder(name, "model"), self.device)
                while len(self._models) > _OPEN:
                    self._models.popitem(last=False)
            self._models.move_to_end(key)
            return self._models[key]

    def scratch(self) -> Path:
        """A new folder for files to download; those of the last runs stay until the end."""
        with self._lock:
            self._count += 1
            folder = self.made / str(self._count)
            folder.mkdir()
            shutil.rmtree(self.made / str(self._count - _KEPT), ignore_errors=True)
            return folder

    def recipe(self, name: str, calls: int, guidance: float, clip: float | None) -> Recipe:
        """The recipe of `ddim tune` for so many calls. Raises ValueError if there is none."""
        return find_recipe(self.folder(name, "model"), calls, guidance, clip)

    def _walk(self, folder: Path, depth: int) -> Iterator[Path]:
        """The folder, and those in it where it is nothing itself.

        Without what is hidden, what leads out, and what cannot be read.
        """
        yield folder
        if not depth or any(wanted(folder) for wanted in KINDS.values()):
            return
        try:
            with os.scandir(folder) as entries:
                inner = sorted(each.name for each in entries if each.is_dir())
        except OSError:
            return
        for name in inner:
            if not name.startswith(".") and self.inside(folder / name):
                yield from self._walk(folder / name, depth - 1)
