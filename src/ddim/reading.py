"""Training images from wherever they are: read, and decoded once."""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from ddim import columns, sources
from ddim.data import Images, digits, read_npz
from ddim.decoding import MOST_BYTES, SUFFIXES, Array, Content, decode, printable, quiet
from ddim.files import cache_folder
from ddim.pixels import Room, kept
from ddim.sources import Listing, Source

LIMIT = 2 << 30  # bytes of pixels held in memory
_VERSION = 1  # of the files in the cache
_LONGEST_SIDE, _SHOWN = 16_384, 5
_THREADS = min(4, os.cpu_count() or 1)
_SIZE = re.compile(r"(\d{1,5})(?:[x×](\d{1,5}))?")


def read(
    source: str | Path,
    size: int | tuple[int, int] | None = None,
    *,
    skip_bad: bool = False,
    limit: int = LIMIT,
    cache: Path | None = None,
    tick: Callable[[int], None] | None = None,
) -> Images:
    """The images of a source, in order of their names.

    source: a folder (searched through), a .zip, .tar, .tar.gz or .tgz, a picture, an .npz, the word
    digits (the bundled ones), hf:owner/name[@revision], or a folder that datasets or parquet are
    in. An .npz holds `images`, uint8 (N, H, W) or (N, H, W, 1 or 3), and perhaps `labels` (N,).
    Images are grey if all are, else RGB, the first frame of each, transparency on white.
    size: a side or (H, W); the middle of each picture is cropped to that aspect and resized.
    Labels: the folders below the first, if all pictures are in one and there are two or more; of
    a data set, its column of classes.
    skip_bad leaves pictures that cannot be read out, and `skipped` says which and why.
    Above `limit` bytes of pixels they are in a mapped file in `cache` (DDIM_CACHE, or
    ~/.cache/ddim), which the next call finds if no file has changed. tick(1) after each picture.
    Raises FileNotFoundError or ValueError that names the offending files, after a look at all.
    """
    path, wanted = Path(source), _extent(size)
    if str(source) == "digits" and not path.exists():
        if size is not None:
            raise ValueError(f"size={size} is for folders of images; the digits are 8×8")
        return digits()
    if path.suffix == ".npz" and path.is_file():
        if size is not None:
            raise ValueError(
                f"size={size} is for folders of images; {path} holds arrays, so resize them there"
            )
        return read_npz(path)
    found = _found(str(source), path)
    known = repr((_VERSION, wanted, found.origin)).encode(errors="surrogateescape")
    place = (cache or cache_folder()) / f"pixels-{hashlib.sha256(known).hexdigest()[:32]}.bin"
    before = kept(place) if found.origin else None
    if before is not None and (skip_bad or not before.skipped):
        return before
    listing = found.listing()
    room = Room(len(listing.names), place, limit)
    try:
        return room.keep(_filled(room, listing, wanted, skip_bad=skip_bad, tick=tick))
    finally:
        room.leave()


def parse_size(text: str) -> int | tuple[int, int]:
    """A side from 64, or (H, W) = (64, 96) from 96x64. Raises ValueError for anything else."""
    match = _SIZE.fullmatch(text.strip().lower())
    sides = [int(side) for side in match.groups() if side] if match else []
    if not sides or not all(1 <= side <= _LONGEST_SIDE for side in sides):
        raise ValueError(
            f"{text!r} is no size; write a side such as 64, or WIDTHxHEIGHT such as 96x64, of 1 to "
            f"{_LONGEST_SIDE} pixels"
        )
    return sides[0] if len(sides) == 1 else (sides[1], sides[0])


def _extent(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if not (1 <= height <= _LONGEST_SIDE and 1 <= width <= _LONGEST_SIDE):
        raise ValueError(f"size={size}; choose at least 1 pixel, and at most {_LONGEST_SIDE}")
    return height, width


def _found(source: str, path: Path) -> Source:
    """Raises FileNotFoundError or ValueError if there are no images."""
    if source.startswith("hf:"):
        return columns.from_hub(source)
    if path.is_dir():
        found = sources.folder(path) or columns.from_folder(path)
        if found is None:
            raise ValueError(
                f"{path} holds no images; it needs files ending in {', '.join(SUFFIXES)}"
            )
        return found
    if path.is_file() and sources.is_archive(path):
        return sources.archive(path)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return sources.picture(path)
    missing = "does not exist" if not path.exists() else "is neither a folder nor images"
    raise FileNotFoundError(
        f"{path} {missing}; give a folder of images, a .zip or .tar of them, a picture, an .npz, "
        "hf:owner/name, or the word digits"
    )


def _filled(
    room: Room,
    listing: Listing,
    size: tuple[int, int] | None,
    *,
    skip_bad: bool,
    tick: Callable[[int], None] | None,
) -> Images:
    """Decode everything into the room. Raises ValueError for bad pictures and differing sizes."""
    bad: dict[int, str] = {}
    first: tuple[int, Array] | None = None
    with quiet():
        for place, picture in _decoded(listing.contents(), size):
            if isinstance(picture, ValueError):
                bad[place] = str(picture)
            else:
                first = first or (place, picture)
                if picture.shape[1:] != first[1].shape[1:]:
                    raise ValueError(_unlike(listing, (place, picture), first))
                room.put(place, picture)
            if tick is not None:
                tick(1)
    count = len(listing.names)
    named = [(printable(listing.names[place]), bad[place]) for place in sorted(bad)]
    if bad and (not skip_bad or len(bad) == count):
        raise ValueError(_refusal(named, count, skip_bad=skip_bad))
    good = [place for place in range(count) if place not in bad]
    labels = None if listing.labels is None else torch.tensor(listing.labels)[good]
    return Images(room.pixels(good), labels, listing.classes, tuple(map(": ".join, named)))


def _decoded(
    contents: Iterable[tuple[int, Content]], size: tuple[int, int] | None
) -> Iterator[tuple[int, Array | ValueError]]:
    """Each place with its picture or what is wrong, in order; few of them wait in memory."""

    def attempt(content: Content) -> Array | ValueError:
        try:
            return decode(content, size)
        except ValueError as error:
            return error

    waiting: deque[tuple[int, int, Future[Array | ValueError]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for place, content in contents:
            weight = len(content) if isinstance(content, bytes) else 0
            while waiting and (
                len(waiting) > _THREADS or sum(w for _, w, _ in waiting) + weight > MOST_BYTES
            ):
                done, _, future = waiting.popleft()
                yield done, future.result()
            waiting.append((place, weight, pool.submit(attempt, content)))
        for place, _, future in waiting:
            yield place, future.result()


def _refusal(bad: list[tuple[str, str]], count: int, *, skip_bad: bool) -> str:
    if count == 1:
        (name, reason), *_ = bad
        return f"{name} cannot be read as an image ({reason}); mend it or take it out"
    shown = ", ".join(f"{name} ({reason})" for name, reason in bad[:_SHOWN])
    more = ", …" if len(bad) > _SHOWN else ""
    cure = "" if skip_bad else ", or leave them out with --skip-bad (skip_bad=True)"
    return f"{len(bad):,} of {count:,} images cannot be read: {shown}{more}; mend them{cure}"


def _unlike(listing: Listing, one: tuple[int, Array], first: tuple[int, Array]) -> str:
    (name, extent), (first_name, first_extent) = (
        (printable(listing.names[place]), "×".join(map(str, array.shape[:0:-1])))
        for place, array in (one, first)
    )
    return (
        f"{name} is {extent} and {first_name} {first_extent}; give images of one size, or --size N "
        "to crop and resize them"
    )
