"""Where many processes put files, each whole or not at all: a folder, or what fsspec knows."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from ddim.extras import needed
from ddim.files import write_all


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

    def sweep(self, names: Container[str], age: float = 0.0) -> None:
        """Remove what is half written of files of these names, if it is `age` seconds old."""
        ...

    def locked(self, *, shared: bool = False) -> Any:
        """A context that no other process of this machine is in, unless both are in it shared.

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

    def sweep(self, names: Container[str], age: float = 0.0) -> None:
        """See `Place`."""
        for path in [*self._folder.glob(".*.tmp"), *self._folder.glob("*/.*.tmp")]:
            of = re.fullmatch(r"\.(.+)\.\d+\.tmp", path.name)
            if of and path.relative_to(self._folder).with_name(of[1]).as_posix() in names:
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime >= age:
                        path.unlink()

    @contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
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
                how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(
                    f"another run writes into {self.name}; wait for it, or choose another --out"
                ) from None
            except OSError:  # a file system without locks
                pass
            yield
        finally:
            os.close(descriptor)


class UnreachableError(OSError):
    """A place that does not answer, or that does not let us in."""

    status = 1


class Remote:
    """A folder that fsspec knows, such as s3://bucket/folder; one write is one file, whole."""

    def __init__(self, url: str) -> None:
        core = needed("fsspec.core", "scale", f"--out {url}")
        self.name = url
        try:
            with self._reached():
                self._system, root = core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{url} cannot be opened ({error}); choose another --out") from error
        self._root = root.rstrip("/")

    def read(self, name: str) -> bytes:
        """See `Place`."""
        with self._reached():
            content: bytes = self._system.cat_file(f"{self._root}/{name}")
        return content

    def write(self, files: Mapping[str, bytes]) -> None:
        """See `Place`."""
        for name, content in files.items():
            path = f"{self._root}/{name}"
            with self._reached():
                try:
                    self._system.pipe_file(path, content)
                except FileNotFoundError:  # of a system with folders
                    self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
                    self._system.pipe_file(path, content)

    def names(self) -> set[str]:
        """See `Place`."""
        with self._reached():
            self._system.invalidate_cache()
            found = self._system.find(self._root) if self._system.exists(self._root) else ()
        return {path.removeprefix(f"{self._root}/") for path in found}

    def sweep(self, names: Container[str], age: float = 0.0) -> None:
        """See `Place`; there is nothing half written."""

    @contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """See `Place`; there is no lock."""
        yield

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Let the errors of a system's library, such as botocore's, be ones that users can read."""
        try:
            yield
        except (OSError, ImportError, ValueError):
            raise
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(".: ")
            raise UnreachableError(
                f"{self.name} cannot be reached ({why}); check the address, the credentials and "
                "the network"
            ) from error


def place(path: str | Path) -> Place:
    """The place of a path or an address."""
    text = str(path)
    for scheme in ("file://", "local://"):
        text = text.removeprefix(scheme)
    return Remote(text) if "://" in text else Local(text)
