"""What the page may read: one folder, the models, runs and reports in it."""

from __future__ import annotations

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
    _models: OrderedDict[tuple[str, float, int], Model] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)
    _count: int = 0

    def models(self) -> list[str]:
        """The folders of models, by their names from the root; "." is the root itself."""
        return self._folders(holds_model)

    def runs(self) -> list[str]:
        """The folders of training runs."""
        return self._folders(lambda folder: (folder / METRICS).is_file())

    def reports(self) -> list[str]:
        """The folders of reports of `ddim evaluate`."""
        return self._folders(lambda folder: (folder / REPORT).is_file())

    def folder(self, name: object, allowed: list[str]) -> Path:
        """One of those listed. Raises ValueError for any other, wherever it leads."""
        if name not in allowed or not isinstance(name, str):
            told = ", ".join(allowed) or "none is there yet; make one with ddim train"
            raise ValueError(f"{name!r} is not in {self.shown}; choose one of {told}")
        return self.root / name

    def path(self, name: str) -> str:
        """How a command would name it."""
        return self.shown if name == _HERE else f"{self.shown.rstrip('/')}/{name}"

    def model(self, name: object) -> Model:
        """One of `models`, as its weights are now. Raises ValueError if it cannot be opened."""
        folder = self.folder(name, self.models())
        files = [path.stat() for path in folder.rglob("*.safetensors")]
        key = (str(name), max((each.st_mtime for each in files), default=0.0), len(files))
        with self._lock:
            if key not in self._models:
                self._models[key] = load(folder, self.device)
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
        return find_recipe(self.folder(name, self.models()), calls, guidance, clip)

    def _folders(self, wanted: Callable[[Path], bool]) -> list[str]:
        found = (path for path in self._walk(self.root, _DEPTH) if wanted(path))
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def _walk(self, folder: Path, depth: int) -> Iterator[Path]:
        """The folder and those in it, unless they are hidden or links that lead out."""
        yield folder
        try:
            inner = sorted(folder.iterdir()) if depth else []
        except OSError:  # not ours to read
            return
        for path in inner:
            inside = path.is_dir() and path.resolve().is_relative_to(self.root.resolve())
            if inside and not path.name.startswith("."):
                yield from self._walk(path, depth - 1)
