"""Where many processes put files, each whole or not at all: a folder, or what fsspec knows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ddim.extras import needed
from ddim.files import sweep_temporary, write_all


class Place(Protocol):
    """A folder; names in it may have a folder of their own, as in shards/00000.json."""

    name: str

    def read(self, name: str) -> bytes:
        """A file. Raises FileNotFoundError where there is none."""
        ...

    def write(self, files: Mapping[str, bytes]) -> None:
        """Put files there, over others of their names."""
        ...

    def names(self) -> set[str]:
        """The files that are there."""
        ...

    def sweep(self, *, alone: bool) -> None:
        """Remove what killed processes were writing; alone: and whatever is half written."""
        ...

    def locked(self) -> Any:
        """A context in which no other process of this machine is in `locked` of the same place.

        Raises BlockingIOError where one is.
        """
        ...


class Local:
    """A folder of this machine, or one that machines share."""

    def __init__(self, folder: str | Path) -> None:
        self.name, self._folder = str(folder), Path(folder)

    def read(self, name: str) -> bytes:
        """See `Place`."""
        return (self._folder / name).read_bytes()

    def write(self, files: Mapping[str, bytes]) -> None:
        """See `Place`; synced."""
        write_all(self._folder, files)

    def names(self) -> set[str]:
        """See `Place`."""
        paths = (path for path in self._folder.rglob("*") if not path.is_dir())
        return {path.relative_to(self._folder).as_posix() for path in paths}

    def sweep(self, *, alone: bool) -> None:
        """See `Place`."""
        for folder in {self._folder, *(p.parent for p in self._folder.rglob(".*.tmp"))}:
            if not alone:
                sweep_temporary(folder)
                continue
            for path in folder.glob(".*.tmp"):
                path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See `Place`. The lock is on the folder itself: it leaves no file, and dies with us."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield
            return
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(
                    f"another run writes into {self.name}; wait for it, or choose another --out"
                ) from None
            except OSError:  # a file system without locks
                pass
            yield
        finally:
            os.close(descriptor)


class Remote:
    """A folder that fsspec knows, such as s3://bucket/folder; one write is one file, whole."""

    def __init__(self, url: str) -> None:
        core = needed("fsspec.core", "scale", f"--out {url}")
        self.name = url
        try:
            self._system, root = core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{url} cannot be opened ({error}); choose another --out") from error
        self._root = root.rstrip("/")

    def read(self, name: str) -> bytes:
        """See `Place`."""
        content: bytes = self._system.cat_file(f"{self._root}/{name}")
        return content

    def write(self, files: Mapping[str, bytes]) -> None:
        """See `Place`."""
        for name, content in files.items():
            path = f"{self._root}/{name}"
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._system.pipe_file(path, content)

    def names(self) -> set[str]:
        """See `Place`."""
        self._system.invalidate_cache()
        if not self._system.exists(self._root):
            return set()
        return {path.removeprefix(f"{self._root}/") for path in self._system.find(self._root)}

    def sweep(self, *, alone: bool) -> None:
        """See `Place`; there is nothing half written."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See `Place`; there is no lock."""
        yield


def place(path: str | Path) -> Place:
    """The place of a path or an address."""
    text = str(path)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    return Remote(text) if "://" in text else Local(text)
