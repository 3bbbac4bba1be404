"""kernels.cpp and attention.cpp, compiled once for this machine and kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from ddim.files import cache_folder, write

_SOURCES = [Path(__file__).with_name(name) for name in ("kernels.cpp", "attention.cpp")]
_HEADERS = [Path(__file__).with_name(name) for name in ("numbers.h", "products.h")]
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math")
_BUILD = (*_FLAGS, "-fopenmp", "-shared", "-fPIC")
_KINDS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_NARROW = 32
_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_long


class Norm:
    """The numbers of an nn.GroupNorm, in float32."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        self.gamma, self.beta = norm.weight.detach().float(), norm.bias.detach().float()
        self.groups, self.eps = norm.num_groups, norm.eps


@dataclass(frozen=True)
class Kernels:
    """The compiled functions; images are (B, C, H, W) and channels-last, float32 or bfloat16."""

    functions: ctypes.CDLL

    def normalise(
        self,
        images: tuple[Tensor, ...],
        norm: Norm,
        shift: Tensor | None,
        *,
        act: bool,
        tiled: bool = False,
    ) -> Tensor:
        """Group normalisation of one or two images side by side, after a shift (1 or B, C) and
        before SiLU where act; tiled: as (B, 16 C, H/2, W/2), the patches that Winograd multiplies.
        """
        images = _last(*images)
        batch, _, height, width = images[0].shape
        channels = sum(image.shape[1] for image in images)
        shape = (16 * channels, height // 2, width // 2) if tiled else (channels, height, width)
        out, rows = empty((batch, *shape), images[0]), _rows(shift)
        given = (*_given(images), *_normed(norm, rows), act, tiled)
        self._of("normalise", out.dtype)(out.data_ptr(), *given, torch.get_num_threads())
        return out

    def winograd(
        self,
        images: tuple[Tensor, ...],
        norm: Norm,
        shift: Tensor | None,
        layer: tuple[Tensor, Tensor],
        add: Tensor | None,
        some: int,
    ) -> Tensor:
        """The convolution of what `normalise` with act gives, perhaps with another image added, of
        `some` images at a time; where `multiplies`.

        layer: transformed weights (16, C' / 16, C / k, 16, k), where k is 2 in bfloat16 and 1 in
        float32, and a bias (C',).
        """
        weights, bias = layer
        images = _last(*images)
        out = empty((len(images[0]), len(bias), *images[0].shape[2:]), images[0])
        rows, others = _rows(shift), () if add is None else _last(add)
        self._of("winograd", out.dtype)(
            out.data_ptr(),
            *_given(images),
            *_normed(norm, rows),
            True,
            weights.data_ptr(),
            bias.data_ptr(),
            others[0].data_ptr() if others else None,
            len(bias),
            some,
            torch.get_num_threads(),
        )
        return out

    @property
    def multiplies(self) -> bool:
        """Whether this processor has the instructions that `winograd` is made of."""
        found: bool = self.functions.multiplies() > 0
        return found

    def gather(self, tiles: Tensor, bias: Tensor, add: Tensor | None, out: Tensor) -> None:
        """Put into out (B, C, H, W) what tiles (B, 16 C, H/2, W/2) of products amount to, with a
        bias (C,) and perhaps another image.
        """
        batch, channels, height, width = out.shape
        self._of("gather", out.dtype)(
            out.data_ptr(),
            tiles.data_ptr(),
            bias.data_ptr(),
            None if add is None else add.data_ptr(),
            batch,
            height,
            width,
            channels,
            torch.get_num_threads(),
        )

    def attend(self, tokens: Tensor, heads: int) -> Tensor:
        """softmax(q kᵀ / √width) v of each head, whose width is to be what `narrow` says.

        tokens: queries, keys and values side by side (B, 3 C, H, W), to (B, C, H, W).
        """
        tokens = tokens.contiguous(memory_format=torch.channels_last)
        batch, width, *sides = tokens.shape
        out, sizes = empty((batch, width // 3, *sides), tokens), (sides[0] * sides[1], heads)
        self._of("attend", out.dtype)(
            out.data_ptr(),
            tokens.data_ptr(),
            batch,
            *sizes,
            width // 3 // heads,
            torch.get_num_threads(),
        )
        return out

    def softmax(self, scores: Tensor) -> Tensor:
        """Of the last dimension, in place."""
        width, threads = scores.shape[-1], torch.get_num_threads()
        rows = scores.numel() // width
        self._of("softmax", scores.dtype)(scores.data_ptr(), rows, width, threads)
        return scores

    def _of(self, name: str, dtype: torch.dtype) -> Callable[..., None]:
        """The function for images of a dtype."""
        function: Callable[..., None] = getattr(self.functions, f"{name}_{_KINDS[dtype]}")
        return function


def _last(*images: Tensor) -> tuple[Tensor, ...]:
    return tuple(image.contiguous(memory_format=torch.channels_last) for image in images)


def _rows(shift: Tensor | None) -> Tensor | None:
    return None if shift is None else shift.float().contiguous()


def _given(images: tuple[Tensor, ...]) -> tuple[int | None, ...]:
    """One or two images, as the functions take them."""
    batch, channels, height, width = images[0].shape
    second, more = (images[1].data_ptr(), images[1].shape[1]) if len(images) > 1 else (None, 0)
    return images[0].data_ptr(), second, channels, more, batch, height, width


def _normed(norm: Norm, rows: Tensor | None) -> tuple[float | None, ...]:
    """A normalisation after a shift, likewise."""
    shift = None if rows is None else rows.data_ptr()
    stride = 0 if rows is None or len(rows) == 1 else rows.shape[1]
    return shift, stride, norm.gamma.data_ptr(), norm.beta.data_ptr(), norm.groups, norm.eps


def narrow(width: int) -> bool:
    """Whether heads of so many channels are for `Kernels.attend`; wider ones are for products."""
    return width % 8 == 0 and width <= _NARROW


def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Channels-last images (B, C, H, W) with nothing in them yet."""
    last = torch.channels_last
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=last)


@cache
def kernels() -> Kernels | str:
    """The functions, compiled where the cache folder has none for this machine; or why there are
    none, in words.
    """
    if not sys.platform.startswith("linux"):
        return f"they are for Linux, and this is {platform.system()}"
    path = cache_folder() / "kernels" / f"{_key()}.so"
    try:
        if path.is_file():
            try:
                return _opened(path)
            except (OSError, AttributeError):  # broken: made anew
                path.unlink()
        write(path, _compiled())
        return _opened(path)
    except (OSError, AttributeError, ValueError) as error:
        return str(error)


def _opened(path: Path) -> Kernels:
    functions, size = ctypes.CDLL(str(path)), (_INT,) * 2
    for kind in _KINDS.values():
        norm = getattr(functions, f"normalise_{kind}")
        images = (_POINTER, _POINTER, *size, _INT, _INT, _INT)
        numbers = (_POINTER, _LONG, _POINTER, _POINTER, _INT, ctypes.c_float)
        norm.argtypes = (_POINTER, *images, *numbers, _INT, _INT, _INT)
        whole = getattr(functions, f"winograd_{kind}")
        whole.argtypes = (_POINTER, *images, *numbers, _INT, *[_POINTER] * 3, *[_INT] * 3)
        getattr(functions, f"gather_{kind}").argtypes = (*[_POINTER] * 4, *[_INT] * 5)
        getattr(functions, f"attend_{kind}").argtypes = (*[_POINTER] * 2, *[_INT] * 5)
        getattr(functions, f"softmax_{kind}").argtypes = (_POINTER, _LONG, _INT, _INT)
    return Kernels(functions)


def _key() -> str:
    """A name for what the file depends on: the source, the compiler's flags and the processor."""
    known = "\n".join([*(each.read_text() for each in (*_SOURCES, *_HEADERS)), *_BUILD, machine()])
    return hashlib.sha256(known.encode()).hexdigest()[:32]


@cache
def machine() -> str:
    """The processor and what it can do, as far as this system tells."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    flags = (line for line in lines if line.startswith(("flags", "Features", "model name")))
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(flags))])


def _compiled() -> bytes:
    """The library. Raises ValueError, one clause, without a compiler that makes it."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "c++", "clang++")), None)
    if compiler is None:
        raise ValueError("there is no C++ compiler; install g++")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "kernels.so"
        command = [*compiler.split(), *_BUILD, *map(str, _SOURCES), "-o", str(target)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ValueError(f"{compiler} did not run ({error})") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            said = next((line for line in lines if "error" in line), "no reason given")
            raise ValueError(f"{compiler} failed ({said[:160]})")
        return target.read_bytes()
