"""Many samples of one model: what makes them, whole, as numbers; and the worker that makes some.

Sample i is always computed in the batch of the samples ⌊i/m⌋·m to ⌊i/m⌋·m + m − 1, of a fixed
size m and with a fixed number of threads, whatever was asked for beside it. So on one kind of
machine its bytes depend on the job and i alone: not on shards, workers, order or restarts.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddim import __version__
from ddim.cells import Setting
from ddim.data import to_pixels
from ddim.drawing import at_hand
from ddim.identity import fingerprint
from ddim.kinds import built, listed, short
from ddim.model import Model
from ddim.nets.kernels import Kernels, kernels
from ddim.nets.optimized import trained
from ddim.noise import Seeded
from ddim.packing import FORMATS, Part, digest, file_names
from ddim.places import Place
from ddim.sampling import calls, sample
from ddim.store import load

MANIFEST = "manifest.json"
_FORMAT, _MOST = 1, 2**64 - 1


def software() -> str:
    """What the bytes depend on of what is installed here: versions, and whether kernels are."""
    compiled = "with" if isinstance(kernels(), Kernels) else "without"
    return (
        f"ddim {__version__}, torch {torch.__version__}, numpy {np.__version__}, {compiled} kernels"
    )


@dataclass(frozen=True)
class Job:
    """All that decides the bytes of a set of samples, and where its model is.

    weights: `fingerprint` of the model.   labels: those of sample i are labels[i % len(labels)].
    way: a precision and a backend.   device: cpu, cuda or mps.   batch_size: of a network call.
    threads: of a worker.   format: a key of FORMATS.   images: whether samples become uint8.
    config: of the network, see `configured`.   made_by: see `software`.
    """

    model: str
    weights: str
    num: int
    setting: Setting
    seed: int = 0
    labels: tuple[int, ...] | None = None
    guidance: float = 1.0
    clip: float | None = None
    way: tuple[str, str] = ("fp32", "eager")
    device: str = "cpu"
    batch_size: int = 16
    threads: int = 1
    format: str = "npz"
    shard_size: int = 1024
    images: bool = True
    config: str = ""
    made_by: str = field(default_factory=software)

    def __post_init__(self) -> None:
        for name, least in (("num", 1), ("batch_size", 1), ("threads", 1), ("shard_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}; choose a whole number from 1")
        if not 0 <= self.seed <= _MOST - self.num + 1:
            raise ValueError(f"seed={self.seed}; choose seeds from 0 to 2^64 − 1, the last one too")
        if self.format not in FORMATS:
            raise ValueError(f"format={short(self.format)}; choose one of {listed(FORMATS)}")
        if not self.images and self.format != "npz":
            raise ValueError(f"format={self.format} is for images; choose npz")
        for name in ("guidance", "clip"):
            if not math.isfinite(getattr(self, name) or 0.0):
                raise ValueError(f"{name}={getattr(self, name)}; choose a finite number")
        if self.labels is not None and not self.labels:
            raise ValueError("labels=(); give at least one")

    @property
    def shards(self) -> int:
        """Their number."""
        return -(-self.num // self.shard_size)

    def span(self, shard: int) -> tuple[int, int]:
        """Its first sample, and the one after its last."""
        begin = shard * self.shard_size
        return begin, min(begin + self.shard_size, self.num)

    def stem(self, shard: int) -> str:
        """The name of its file, without a suffix."""
        digits = max(5, len(str(self.shards)))
        return f"samples-{shard:0{digits}d}-of-{self.shards:0{digits}d}"

    @property
    def digits(self) -> int:
        """Of the name of a sample, so that names sort as numbers do."""
        return max(8, len(str(self.num)))

    def names(self, shard: int) -> list[str]:
        """Its files."""
        return file_names(self.format, self.stem(shard), range(*self.span(shard)), self.digits)

    def sidecar(self, shard: int) -> str:
        """The file that says, in JSON, what its files should be."""
        return f"shards/{shard:0{max(5, len(str(self.shards)))}d}.sidecar"

    def label(self, i: int) -> int | None:
        """The class of sample i."""
        return None if self.labels is None else self.labels[i % len(self.labels)]

    @cached_property
    def settings(self) -> str:
        """SHA-256 of all that decides the bytes."""
        return hashlib.sha256(_canonical(self.content())).hexdigest()

    def content(self) -> dict[str, Any]:
        """All of it but the place of the model, as JSON."""
        found = {**asdict(self), "labels": self.labels and list(self.labels), "way": list(self.way)}
        del found["model"]
        return found

    def manifest(self) -> bytes:
        """manifest.json; its last entry is the SHA-256 of the others."""
        entries = {"manifest": _FORMAT, "model": self.model, **self.content()}
        entries["sha256"] = hashlib.sha256(_canonical(entries)).hexdigest()
        return (json.dumps(entries, indent=2) + "\n").encode()

    @classmethod
    def of(cls, place: Place) -> Job:
        """That of a manifest. Raises ValueError where it is missing, damaged or of another kind."""
        where = f"{place.name}/{MANIFEST}"
        try:
            entries = json.loads(place.read(MANIFEST))
            stored = entries.pop("sha256")
        except FileNotFoundError as error:
            raise ValueError(f"{where} is missing; name a folder of ddim generate") from error
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ValueError(f"{where} is damaged; {_MEND}") from error
        if hashlib.sha256(_canonical(entries)).hexdigest() != stored:
            raise ValueError(f"{where} is damaged; {_MEND}")
        if entries.pop("manifest") != _FORMAT:
            raise ValueError(f"{where} is of another version of ddim; use that one")
        labels = entries["labels"]
        entries |= {"labels": None if labels is None else tuple(labels)}
        entries |= {"setting": built(Setting, entries["setting"]), "way": tuple(entries["way"])}
        return built(cls, entries)


_MEND = (
    "delete it and give ddim generate the same options again: what is whole stays, and the rest is "
    "made"
)


def _canonical(entries: dict[str, Any]) -> bytes:
    return json.dumps(entries, sort_keys=True).encode()


class Worker:
    """Makes the samples of a job, in a place.

    device: such as cuda:1; the job's where None. Raises ValueError where the model is another than
    the job's. It sets torch's number of threads while it works.
    """

    def __init__(self, job: Job, out: Place | None = None, device: str | None = None) -> None:
        self._job, self._out = job, out
        with _threads(job.threads):
            model = load(job.model, device or job.device)
            if (fingerprint(model), job.config and configured(model)) != (job.weights, job.config):
                raise ValueError(
                    f"{job.model} has other weights than those of the job; give the same model"
                )
            if job.made_by != software():
                raise ValueError(
                    f"the set was made by {job.made_by}, and here is {software()}; other versions "
                    "make other bytes, so install those, or make a set anew"
                )
            self._model = model.optimize(*job.way, job.batch_size)
        self._solver, self._plan = job.setting.made(model)

    @property
    def calls(self) -> int:
        """Network calls per sample."""
        return calls(self._solver, self._plan)

    def make(self, shard: int) -> None:
        """Put a shard and then its sidecar into the place. Raises ValueError for a nan in one."""
        assert self._out is not None
        files = self.files(shard)
        self._out.write(files)
        self._out.write({self._job.sidecar(shard): sidecar(self._job, shard, files)})

    def files(self, shard: int) -> dict[str, bytes]:
        """The files of a shard."""
        job = self._job
        begin, end = job.span(shard)
        labels = None if job.labels is None else [job.label(i) or 0 for i in range(begin, end)]
        seeds = range(job.seed + begin, job.seed + end)
        part = Part(begin, self.samples(begin, end), seeds, labels, job.digits)
        return FORMATS[job.format](job.stem(shard), part)

    @torch.no_grad()
    def samples(self, begin: int, end: int) -> Tensor:
        """Samples begin to end: uint8 images (N, C, H, W), or float32 of what is none.

        Raises ValueError naming those that hold a nan or an infinity.
        """
        size, found = self._job.batch_size, []
        with _threads(self._job.threads):
            for first in range(begin // size * size, end, size):
                batch = self._batch(first)
                found.append(batch[max(begin - first, 0) : end - first])
        samples = torch.cat(found)
        if bad := (~torch.isfinite(samples.flatten(1)).all(1)).nonzero().flatten().tolist():
            named = ", ".join(str(begin + i) for i in bad[:5]) + (", …" if len(bad) > 5 else "")
            one = len(bad) == 1
            raise ValueError(
                f"sample{'' if one else 's'} {named} (seed {self._job.seed + begin + bad[0]}"
                f"{'' if one else ' and on'}) hold{'s' if one else ''} a nan or an infinity"
            )
        return to_pixels(samples) if self._job.images else samples

    def _batch(self, first: int) -> Tensor:
        """The whole batch of a first sample, past the end of the job too."""
        job, places = self._job, range(first, first + self._job.batch_size)
        noise = Seeded(min(job.seed + i, _MOST) for i in places)
        x = noise.start(self._model.shape, next(self._model.net.parameters()).device)
        labels = None if job.labels is None else [job.label(i) or 0 for i in places]
        denoiser = self._model.denoiser(labels, job.clip, job.guidance)
        with at_hand(noise, x.device) as drawn:
            return sample(denoiser, x, self._plan, self._solver, drawn).float().cpu()


def configured(model: Model) -> str:
    """A number for the configuration of a network, which its weights do not tell."""
    net = trained(model.net)
    text = f"{type(net).__name__} {getattr(net, 'config', None)} {model.sampling}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """That many of torch's threads; and convolutions of CUDA that give the same again."""
    before, chosen = torch.get_num_threads(), torch.backends.cudnn.deterministic
    torch.set_num_threads(count)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.deterministic = chosen


def sidecar(job: Job, shard: int, files: dict[str, bytes]) -> bytes:
    """The sidecar of a shard."""
    begin, end = job.span(shard)
    entries: dict[str, Any] = {"begin": begin, "end": end, "settings": job.settings}
    if job.labels is not None and job.format == "png":
        entries["labels"] = [job.label(i) for i in range(begin, end)]
    entries |= {"bytes": sum(map(len, files.values())), "sha256": digest(files)}
    return (json.dumps(entries) + "\n").encode()


def wrong(job: Job, shard: int, out: Place, names: set[str]) -> str | None:
    """Why a shard is not done, in words; None where file, hash and settings agree.

    names: of what is in the place.
    """
    expected, beside = job.names(shard), job.sidecar(shard)
    if missing := [name for name in (*expected, beside) if name not in names]:
        return f"{missing[0]} is missing"
    why = f"{beside} is damaged"
    try:
        files = {name: out.read(name) for name in expected}
        if out.read(beside) == sidecar(job, shard, files):
            return None
        entries = json.loads(out.read(beside))
        if entries["settings"] != job.settings:
            why = f"{beside} is of other settings"
        elif entries["sha256"] != digest(files):
            one = expected[0] if len(expected) == 1 else f"one of {expected[0]} to {expected[-1]}"
            why = f"{one} is damaged"
    except OSError as error:
        why = f"{expected[0]} or {beside} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return why
