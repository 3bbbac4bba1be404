"""Samples to files as the tools of the field read them, the same bytes for the same; FORMATS."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ddim.extras import needed
from ddim.pictures import picture

Files = dict[str, bytes]


@dataclass(frozen=True)
class Part:
    """Samples (N, ...) whose first is image `begin` of all: uint8 images, else float32.

    labels: a class for each, or None.   seeds: one for each.   digits: of their names.
    """

    begin: int
    samples: Tensor
    seeds: Sequence[int]
    labels: Sequence[int] | None = None
    digits: int = 8

    @property
    def keys(self) -> list[str]:
        """The names of its samples."""
        return [f"{self.begin + j:0{self.digits}d}" for j in range(len(self.samples))]


def npz(stem: str, part: Part) -> Files:
    """arr_0 (N, H, W, C) uint8 and, with classes, arr_1 (N,): guided-diffusion's evaluator and EDM.

    Of what is no image, arr_0 (N, ...) float32.
    """
    array = part.samples.numpy()
    if array.dtype == np.uint8:
        array = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    arrays = {"arr_0": array}
    if part.labels is not None:
        arrays["arr_1"] = np.array(part.labels, dtype=np.int64)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return {f"{stem}.npz": buffer.getvalue()}


def png(stem: str, part: Part) -> Files:
    """00000000.png and so on, side by side in the folder."""
    return {f"{key}.png": _png(image) for key, image in zip(part.keys, part.samples, strict=True)}


def webdataset(stem: str, part: Part) -> Files:
    """A tar of KEY.png, KEY.json with the seed and, with classes, KEY.cls."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for j, (key, image) in enumerate(zip(part.keys, part.samples, strict=True)):
            entries = {"png": _png(image), "json": json.dumps({"seed": part.seeds[j]}).encode()}
            if part.labels is not None:
                entries["cls"] = str(part.labels[j]).encode()
            for kind, content in entries.items():
                entry = tarfile.TarInfo(f"{key}.{kind}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return {f"{stem}.tar": buffer.getvalue()}


def parquet(stem: str, part: Part) -> Files:
    """Columns image, seed and, with classes, label, which `datasets` reads as images."""
    arrow = needed("pyarrow", "parquet", "--format parquet")
    names = [f"{key}.png" for key in part.keys]
    pictures = [{"bytes": _png(x), "path": n} for n, x in zip(names, part.samples, strict=True)]
    image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    columns = {"image": arrow.array(pictures, image)}
    columns["seed"] = arrow.array(list(part.seeds), arrow.uint64())
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    features["seed"] = {"dtype": "uint64", "_type": "Value"}
    if part.labels is not None:
        columns["label"] = arrow.array(list(part.labels), arrow.int64())
        features["label"] = {"dtype": "int64", "_type": "Value"}
    table = arrow.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    buffer = io.BytesIO()
    needed("pyarrow.parquet", "parquet", "--format parquet").write_table(table, buffer)
    return {f"{stem}.parquet": buffer.getvalue()}


FORMATS: Mapping[str, Callable[[str, Part], Files]] = {
    "npz": npz,
    "png": png,
    "webdataset": webdataset,
    "parquet": parquet,
}
_SUFFIXES = {"npz": ".npz", "webdataset": ".tar", "parquet": ".parquet"}


def file_names(kind: str, stem: str, span: range, digits: int = 8) -> list[str]:
    """The files that a format makes of some samples."""
    if kind == "png":
        return [f"{j:0{digits}d}.png" for j in span]
    return [stem + _SUFFIXES[kind]]


def digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 of some files: of that of each, in the order of their names."""
    parts = (hashlib.sha256(files[name]).digest() for name in sorted(files))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    picture(image).save(buffer, format="PNG")
    return buffer.getvalue()
