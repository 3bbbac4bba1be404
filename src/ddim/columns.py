"""Pictures in tables: data sets of Hugging Face, from the hub or a folder, and parquet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddim.decoding import MOST_BYTES, Content, printable, said
from ddim.extras import needed
from ddim.hub import offline, refusal
from ddim.sources import Listing, Source, stamp

_ID = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_LABELS = ("label", "labels")


def from_hub(name: str) -> Source:
    """The pictures of hf:owner/name or hf:owner/name@revision, downloaded if need be.

    Of several splits, train. HF_HUB_OFFLINE=1 keeps to the cache. Raises ImportError without the
    library, and ValueError if it cannot be had; an UnansweredError if the hub does not answer.
    """
    match = _ID.fullmatch(name)
    if not match:
        raise ValueError(f"{printable(name)!r} is no data set of the hub; write hf:owner/name")
    library = _library(name)
    try:
        table = library.load_dataset(match[1], revision=match[2])
    except Exception as error:  # of the network, the hub, the cache or a parser
        cached = "is not in the local cache, and HF_HUB_OFFLINE is set"
        where = cached if offline() else "cannot be had"
        raise refusal(error)(
            f"{name} {where}; check the name and the network ({said(error)})"
        ) from error
    return _source(library, _split(table, name), name)


def from_folder(path: Path) -> Source | None:
    """The pictures of what save_to_disk wrote, or of a folder of parquet; None if it is neither.

    Raises ImportError without the library, and ValueError if it cannot be read.
    """
    saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    parquet = sorted(path.rglob("*.parquet"))
    if not saved and not parquet:
        return None
    library = _library(str(path))
    try:
        table = (
            library.load_from_disk(path)
            if saved
            else library.Dataset.from_parquet(_training(path, parquet))
        )
    except Exception as error:  # a damaged table may raise anything
        raise ValueError(
            f"{path} cannot be read as a data set ({said(error)}); write it with save_to_disk"
        ) from error
    return _source(library, _split(table, str(path)), str(path))


def _library(name: str) -> Any:
    return needed("datasets", "hf", f"reading {printable(name)}")


def _training(path: Path, files: list[Path]) -> list[str]:
    """All parquet files, or those called train where some are: others are of other splits."""
    train = [file for file in files if "train" in file.relative_to(path).as_posix().lower()]
    return list(map(str, train or files))


def _split(table: Any, name: str) -> Any:
    """The only split, or train. Raises ValueError where there are only others."""
    if not isinstance(table, dict):
        return table
    if len(table) == 1:
        return next(iter(table.values()))
    if "train" not in table:
        raise ValueError(f"{name} has the splits {', '.join(table)}; save one of them alone")
    return table["train"]


def _source(library: Any, table: Any, name: str) -> Source:
    """Raises ValueError where no column holds pictures."""
    column = next((k for k, kind in table.features.items() if _is_image(library, kind)), None)
    if column is None or not len(table):
        columns = ", ".join(table.features)
        raise ValueError(f"{name} has {len(table)} rows of {columns}; it needs a column of images")
    files = [Path(entry["filename"]) for entry in table.cache_files]
    origin = (*(stamp(file, str(file)) for file in files), (column, len(table), 0))
    return Source(origin if files else (), lambda: _listing(library, table, column))


def _listing(library: Any, table: Any, column: str) -> Listing:
    pictures = table.select_columns([column])
    if isinstance(table.features[column], library.Image):
        pictures = pictures.cast_column(column, library.Image(decode=False))

    def contents() -> Iterator[tuple[int, Content]]:
        for place, row in enumerate(pictures):
            yield place, _content(row[column])

    names = [f"row {place}" for place in range(len(table))]
    return Listing(names, contents, *_labels(library, table))


def _content(cell: dict[str, Any] | None) -> Content:
    if not cell or (cell["bytes"] is None and not cell.get("path")):
        return ValueError("it is empty")
    data = cell["bytes"]
    if data is None:
        return Path(cell["path"])
    if len(data) > MOST_BYTES:
        return ValueError(f"it has {len(data):,} bytes, and {MOST_BYTES:,} is the most")
    return bytes(data)


def _is_image(library: Any, kind: Any) -> bool:
    """Whether a column's type is that of images, or of {bytes, path}, as other programs write."""
    return isinstance(kind, library.Image) or (isinstance(kind, dict) and "bytes" in kind)


def _labels(library: Any, table: Any) -> tuple[list[int] | None, tuple[str, ...]]:
    """Those of the first column of classes, or of whole numbers called label; None if any lacks."""
    kinds = table.features
    column = next((k for k, kind in kinds.items() if isinstance(kind, library.ClassLabel)), None)
    names = () if column is None else tuple(kinds[column].names or ())
    if column is None:
        column = next((k for k in _LABELS if "int" in getattr(kinds.get(k), "dtype", "")), None)
    labels = None if column is None else list(table[column])
    if labels is None or any(label is None or label < 0 for label in labels):
        return None, ()
    return labels, names
