"""What samples are held against: real images in a feature space, or the statistics of some."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ddim import __version__
from ddim.data import Images
from ddim.features import Features, sum_of_moments
from ddim.files import read_tensors, write
from ddim.metrics import Moments, frechet_gaussians
from ddim.noise import stream
from ddim.significance import Figure, Floor, floors, measured, without_one
from ddim.sketches import BLOCKS, FEWEST, FIGURES, KEPT, Sketch, sketch

_READ = 256


@dataclass(frozen=True, eq=False)
class Reference:
    """num real images in a feature space, and the floor: what two such sets differ by."""

    space: Features
    real: Sketch
    floors: dict[str, Floor]

    def figures(self, samples: Sketch) -> dict[str, Figure]:
        """Every figure of samples, as many as there are real images."""
        return measured(samples, self.real, self.space, exchanged(self.space))


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean (D,) and covariance (D, D), float64, of the features of `count` real images.

    count is 0 where the file does not say; name and digest are of the feature space, if it says.
    """

    mean: Tensor
    covariance: Tensor
    count: int = 0
    name: str = ""
    digest: str = ""

    @property
    def content(self) -> str:
        """SHA-256 of the mean and the covariance."""
        both = self.mean.numpy().tobytes() + self.covariance.numpy().tobytes()
        return hashlib.sha256(both).hexdigest()


@dataclass(frozen=True, eq=False)
class Published:
    """Statistics in their feature space: a Fréchet distance follows, and no floor."""

    space: Features
    statistics: Statistics
    floors: dict[str, Floor] = field(default_factory=dict)

    def figures(self, samples: Sketch) -> dict[str, Figure]:
        """The Fréchet distance of samples."""
        blocks = samples.moments
        whole, *parts = [
            sum_of(blocks[k] for k in chosen)
            for chosen in (list(range(len(blocks))), *without_one())
        ]
        return {"fd": Figure(self._fd(whole), samples.count, tuple(map(self._fd, parts)))}

    def _fd(self, moments: Moments) -> float:
        real = self.statistics
        return frechet_gaussians(moments.mean, moments.covariance, real.mean, real.covariance)


def halves(images: Images, num: int) -> tuple[Tensor, Tensor]:
    """The places of num real images for reference, and of num others for the floor.

    Raises ValueError where there are not so many.
    """
    most = len(images) // 2
    if num < FEWEST or num > most:
        raise ValueError(
            f"{num} samples want twice as many real images, half of them for the floor, and the "
            f"data has {len(images)}; "
            + (f"choose --num {FEWEST} to {most}" if most >= FEWEST else "give it more")
        )
    order = torch.from_numpy(stream(0, 0).permutation(len(images)))
    return order[:num], order[num : 2 * num]


def reference(images: Images, num: int, space: Features, cache: Path) -> Reference:
    """num real images and their floor, from the folder `cache` or put there."""
    key = f"{__version__} {images.fingerprint} {space.digest} {num} {FIGURES}"
    path = cache / f"reference-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    if not path.exists():
        a, b = (sketch(space, _read(images, places), num) for places in halves(images, num))
        tensors = {"rows": torch.cat(a.rows), "count": torch.tensor([m.count for m in a.moments])}
        for name in ("mean", "scatter"):
            tensors[name] = torch.stack([getattr(block, name) for block in a.moments])
        for name, floor in floors(a, b, space, exchanged(space)).items():
            tensors[f"floor {name}"] = torch.tensor(floor.values, dtype=torch.float64)
        write(path, safetensors.torch.save(tensors))
    kept = read_tensors(path)
    counts = kept["count"].tolist()
    moments = tuple(map(Moments, counts, kept["mean"], kept["scatter"]))
    rows = torch.split(kept["rows"], [min(count, KEPT // BLOCKS) for count in counts])
    real = Sketch(moments, rows)
    known = {
        name: Floor(num if name == "fd" else real.kept, tuple(kept[f"floor {name}"].tolist()))
        for name in FIGURES
        if f"floor {name}" in kept
    }
    return Reference(space, real, known)


def exchanged(space: Features) -> int:
    """How many exchanges a distribution is of: fewer where a Fréchet distance takes seconds."""
    return 99 if space.dimension <= 512 else 19


def published(statistics: Statistics, space: Features) -> Published:
    """Statistics with the feature space that they are of. Raises ValueError for another space."""
    given = len(statistics.mean)
    if given != space.dimension or statistics.digest not in ("", space.digest):
        raise ValueError(
            f"the statistics are of {given} features called {statistics.name or 'nothing'}, and "
            f"{space.name} has {space.dimension} of its own; name the space that they are of with "
            "--features"
        )
    return Published(space, statistics)


def statistics_of(images: Images, space: Features) -> Statistics:
    """Those of all images."""
    moments = sum_of_moments(space.of(part) for part in _read(images, torch.arange(len(images))))
    return Statistics(moments.mean, moments.covariance, moments.count, space.name, space.digest)


def write_statistics(statistics: Statistics, path: Path) -> None:
    """Write an .npz with `mu` and `sigma`, as programs for FID read them, and their origin."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        mu=statistics.mean.numpy(),
        sigma=statistics.covariance.numpy(),
        count=statistics.count,
        name=statistics.name,
        digest=statistics.digest,
    )
    write(path, buffer.getvalue())


def read_statistics(path: Path) -> Statistics | None:
    """The statistics in an .npz with `mu` and `sigma`, of any program; None if it has none.

    Raises ValueError for those of no Gaussian.
    """
    if path.suffix.lower() != ".npz" or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if not {"mu", "sigma"} <= set(arrays.files):
                return None
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}); export the statistics anew") from error
    mean, sigma = (torch.from_numpy(np.asarray(found[k], np.float64)) for k in ("mu", "sigma"))
    if (
        mean.ndim != 1
        or sigma.shape != (len(mean), len(mean))
        or not (torch.isfinite(mean).all() and torch.isfinite(sigma).all())
        or not torch.allclose(sigma, sigma.T, atol=1e-6 * float(sigma.abs().max() + 1e-300))
    ):
        raise ValueError(
            f"{path} holds mu {tuple(mean.shape)} and sigma {tuple(sigma.shape)}; give a finite "
            "mean (D,) and a symmetric covariance (D, D)"
        )
    said = {name: str(found[name]) for name in ("name", "digest") if name in found}
    return Statistics(mean, (sigma + sigma.T) / 2, int(found.get("count", 0)), **said)


def sum_of(parts: Iterator[Moments]) -> Moments:
    """All of one or more moments together."""
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def _read(images: Images, places: Tensor | Sequence[int]) -> Iterator[Tensor]:
    return (images.pixels[part] for part in torch.split(torch.as_tensor(places), _READ))
