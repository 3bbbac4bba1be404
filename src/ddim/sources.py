"""Where pictures are: a folder, a .zip or a .tar, listed by name and handed out one by one."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ddim.decoding import MOST_BYTES, SUFFIXES, Content, printable, said

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_UNFOLDED = 1 << 30, 100  # bytes, and times the size of the file: the most of a .tar.gz
_BLOCK = 512
_TORN = (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, tarfile.TarError)
_UNREADABLE = (*_TORN, NotImplementedError, RuntimeError, OverflowError)

Stamp = tuple[str, int, int]  # a file: name, bytes, time of change in ns


@dataclass(frozen=True)
class Listing:
    """The names of pictures in order, and `contents`, which hands out (place, content) in any.

    labels: the class of each, or None.   classes: the names of the classes.
    """

    names: Sequence[str]
    contents: Callable[[], Iterator[tuple[int, Content]]]
    labels: Sequence[int] | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Files by which a change is noticed, and the listing, which may take time."""

    origin: tuple[Stamp, ...]
    listing: Callable[[], Listing]


def stamp(path: Path, name: str) -> Stamp:
    """What a file is known by."""
    found = path.stat() if path.exists() else path.lstat()
    return name, found.st_size, found.st_mtime_ns


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive."""
    return path.name.lower().endswith(ARCHIVES)


def picture(path: Path) -> Source:
    """One picture."""
    return Source(
        (stamp(path, path.name),), lambda: Listing((str(path),), lambda: iter(((0, path),)))
    )


def folder(path: Path) -> Source | None:
    """The pictures of a folder and its sub-folders, in order of their names; None if it has none.

    Links to folders are not followed.
    """
    found = {
        file.relative_to(path).as_posix(): file
        for file in path.rglob("*")
        if _is_picture(file.name) and (file.is_file() or not file.exists())
    }
    names = _in_order(found)
    if not names:
        return None
    files = [found[name] for name in names]
    return Source(
        tuple(map(stamp, files, names)),
        lambda: Listing(names, lambda: iter(enumerate(files)), *_classes(names)),
    )


def archive(path: Path) -> Source:
    """The pictures of a .zip, .tar, .tar.gz or .tgz, in order of their names.

    They are read into memory; nothing is written and no link followed. Of two members of one name
    the later counts. A folder that holds all else is left out of the names. The listing raises
    ValueError for an archive that is torn or holds no pictures.
    """
    listed = _zipped if path.suffix.lower() == ".zip" else _tarred
    return Source((stamp(path, path.name),), lambda: listed(path))


def _zipped(path: Path) -> Listing:
    with _named(path), zipfile.ZipFile(path) as opened:
        members = {
            info.filename: info
            for info in opened.infolist()
            if _is_picture(info.filename)
            and not info.is_dir()
            and stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
        }
    order = _in_order(members)

    def contents() -> Iterator[tuple[int, Content]]:
        with zipfile.ZipFile(path) as opened:
            for place, name in enumerate(order):
                yield place, _unzipped(opened, members[name])

    return _listing(path, order, contents)


def _unzipped(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Content:
    refused = _refused(info.filename, info.file_size)
    if refused:
        return refused
    try:
        return opened.read(info)
    except _UNREADABLE as error:
        return ValueError(said(error))


def _tarred(path: Path) -> Listing:
    with _named(path):
        offsets = {info.name: info.offset for _, info in _members(path)}
    order = _in_order(offsets)
    places = {offsets[name]: place for place, name in enumerate(order)}

    def contents() -> Iterator[tuple[int, Content]]:
        for opened, info in _members(path):
            if info.offset in places:
                yield places[info.offset], _untarred(opened, info)

    return _listing(path, order, contents)


def _untarred(opened: tarfile.TarFile, info: tarfile.TarInfo) -> Content:
    refused = _refused(info.name, info.size)
    if refused:
        return refused
    file = opened.extractfile(info)
    if file is None:
        return ValueError("it is no file")
    with file:
        return file.read()


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The pictures in the order of the file, so that a compressed one is unfolded once.

    Raises ValueError if it ends before its end mark: tarfile takes any damage for the end.
    """
    size, packed = path.stat().st_size, not path.name.lower().endswith(".tar")
    least, times = _UNFOLDED
    with gzip.open(path) if packed else path.open("rb") as file:
        bounded = _Bounded(file, max(least, times * size) if packed else size)
        with tarfile.open(fileobj=bounded, mode="r:") as opened:
            while (info := opened.next()) is not None:
                if info.isreg() and _is_picture(info.name):
                    yield opened, info
        if bounded.last != bytes(_BLOCK):
            raise ValueError("it is torn or damaged: there is no end mark")


class _Bounded(io.RawIOBase):
    """A file for tarfile, whose headers may ask for any amount: no more than so many bytes."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, most: int) -> None:
        self._file, self._most = file, most
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_BYTES:
            raise ValueError(f"a header asks for {size:,} bytes, and {MOST_BYTES:,} is the most")
        self.last = self._file.read(size)
        return self.last

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        if place > self._most:
            raise ValueError(f"it unfolds to more than {self._most:,} bytes, or is torn")
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """With the archive's name in the sentence about what is wrong with it."""
    try:
        yield
    except _UNREADABLE as error:
        raise ValueError(
            f"{printable(str(path))} cannot be read as an archive ({said(error)}); make it anew"
        ) from error


def _refused(name: str, size: int) -> ValueError | None:
    """Why a member is not looked at."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        return ValueError("its name leads out of the archive")
    if size > MOST_BYTES:
        return ValueError(f"its header tells of {size:,} bytes, and {MOST_BYTES:,} is the most")
    return None


def _is_picture(name: str) -> bool:
    """By its name; what macOS puts beside each file is none."""
    path = PurePosixPath(name)
    return (
        path.suffix.lower() in SUFFIXES
        and not path.name.startswith("._")
        and "__MACOSX" not in path.parts
    )


def _listing(
    path: Path, order: Sequence[str], contents: Callable[[], Iterator[tuple[int, Content]]]
) -> Listing:
    if not order:
        raise ValueError(f"{path} holds no images; it needs files ending in {', '.join(SUFFIXES)}")

    def named() -> Iterator[tuple[int, Content]]:
        with _named(path):
            yield from contents()

    parts = [PurePosixPath(name).parts for name in order]
    while len(parts[0]) > 1 and all(len(part) > 1 and part[0] == parts[0][0] for part in parts):
        parts = [part[1:] for part in parts]
    names = ["/".join(part) for part in parts]
    return Listing(names, named, *_classes(names))


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: PurePosixPath(name).parts)


def _classes(names: Sequence[str]) -> tuple[list[int] | None, tuple[str, ...]]:
    """Labels by the first folder of each name, if all have one and there are two or more."""
    parts = [name.split("/") for name in names]
    folders = sorted({part[0] for part in parts})
    if len(folders) < 2 or any(len(part) < 2 for part in parts):
        return None, ()
    places = {name: place for place, name in enumerate(folders)}
    return [places[part[0]] for part in parts], tuple(folders)
