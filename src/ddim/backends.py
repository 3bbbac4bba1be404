"""What runs a network: torch's operations, or a compiler; BACKENDS.

A backend makes a `Program` of a `Build`. Those that compile do it for one size of batch, which a
smaller batch is padded to, and keep what they made in the user's cache folder, by the weights, the
shape, the precision, the versions and the machine: never in the folder of a model, for it is code.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ddim import __version__
from ddim.extras import needed, present
from ddim.files import cache_folder
from ddim.identity import fingerprint
from ddim.nets import UNet
from ddim.nets.fast import Fast
from ddim.nets.kernels import Kernels, kernels, machine
from ddim.nets.optimized import Program, trained
from ddim.tracing import export, program_of

if TYPE_CHECKING:
    from ddim.model import Model

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PADDED = 8


@dataclass(frozen=True, eq=False)
class Build:
    """What a backend is given: a model, and a key of PRECISIONS."""

    model: Model
    precision: str

    @cached_property
    def net(self) -> nn.Module:
        """The network that was trained, in eval mode: a copy where it is not."""
        net = trained(self.model.net)
        return copy.deepcopy(net).eval() if net.training else net

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.model.shape

    @cached_property
    def weights(self) -> str:
        """The fingerprint of the model, computed where something is kept by it."""
        return fingerprint(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return PRECISIONS[self.precision]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.net.parameters(), torch.empty(0)).device

    def example(self, batch: int) -> dict[str, Tensor]:
        """Inputs by name, for those that trace."""
        count = batch * torch.Size(self.shape).numel()
        x = torch.linspace(-1, 1, count, device=self.device).reshape(batch, *self.shape)
        given = {"x": x, "t": torch.full((batch,), 1.0, device=self.device)}
        if self.model.classes is not None:
            given["label"] = torch.zeros(batch, dtype=torch.long, device=self.device)
        return given

    def kept(self, backend: str, suffix: str, *more: str) -> Path:
        """Where what a backend made of this is, or is to be: named by all that it depends on."""
        network = f"{self.net!r} {getattr(self.net, 'config', None)}"
        known = [self.weights, network, str(self.shape), backend, _sources()]
        known += [torch.__version__, __version__, *more]
        digest = hashlib.sha256("\n".join(known).encode())
        return cache_folder() / "programs" / f"{digest.hexdigest()[:32]}{suffix}"


@cache
def _sources() -> str:
    """A number for the code that traces and what it traces."""
    here = Path(__file__).parent
    paths = [Path(__file__), here / "tracing.py", *sorted((here / "nets").glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


class Cast(nn.Module):
    """A network in another dtype, channels-last, between float32 and float32."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = copy.deepcopy(net).to(dtype), dtype
        for weight in self.net.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction, of x's dtype."""
        x_ = x.to(self.dtype)
        return (self.net(x_, t) if label is None else self.net(x_, t, label)).to(x.dtype)


class Padded:
    """A program for any batch, of programs for one size each.

    A batch of at least an eighth of a size that is there is padded to it; else one is made.
    """

    def __init__(self, make: Callable[[int], Program]) -> None:
        self._make, self._made = make, dict[int, Program]()
        self._lock = Lock()  # a program may hold its answers in one place

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """See `Program`."""
        with self._lock:
            return self._run(x, t, label)

    def _run(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        count = len(x)
        fitting = [size for size in self._made if count <= size <= _PADDED * count]
        size = min(fitting, default=count)
        if size not in self._made:
            self._made[size] = self._make(size)
        if size == count:
            return self._made[size](x, t, label)
        index = torch.arange(size, device=x.device).clamp(max=count - 1)
        rows = None if label is None else label[index]
        return self._made[size](x[index], t[index], rows)[:count]


def eager(build: Build) -> Program:
    """Torch's own operations: for a U-Net of ours in the form that `Fast` has."""
    if isinstance(build.net, UNet) and build.device.type in ("cpu", "cuda"):
        if build.device.type == "cpu" and not isinstance(found := kernels(), Kernels):
            logging.getLogger("ddim").warning("slower, without compiled kernels: %s", found)
        return Fast(build.net, build.dtype)
    return build.net if build.dtype == torch.float32 else Cast(build.net, build.dtype)


def compiled(build: Build) -> Program:
    """torch's compiler: on a CPU ahead of time, on CUDA with its graphs."""
    module = Cast(build.net, build.dtype).eval().requires_grad_(False)
    if build.device.type == "cuda":
        fast: Callable[..., Tensor] = torch.compile(module, mode="reduce-overhead", dynamic=False)
        # a copy: the next replay of the graph writes over its answer
        return Padded(lambda batch: lambda x, t, label: fast(**_given(x, t, label)).clone())
    if build.device.type != "cpu":
        raise ValueError(f"backend=compile is for cpu and cuda, not {build.device.type}; use eager")

    def make(batch: int) -> Program:
        import torch._inductor as inductor

        def compile_to(path: Path) -> None:
            program = torch.export.export(module, (), build.example(batch))
            inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"freezing": True}
            )

        path = _kept_compiled(build, batch)
        run: Any = _taken(path, compile_to, lambda: inductor.aoti_load_package(str(path)))
        return lambda x, t, label: run(**_given(x, t, label))

    return Padded(make)


def openvino(build: Build) -> Program:
    """Intel's OpenVINO, for CPUs; the extra `fast`."""
    _on_cpu(build, "openvino")
    # its telemetry would call home at the import; without it OpenVINO takes a stub of its own
    cast(dict[str, Any], sys.modules).setdefault("openvino_telemetry", None)
    ov = needed("openvino", "fast", "backend=openvino")
    path, core = _kept_by(build, "openvino"), ov.Core()

    def convert_to(fresh: Path) -> None:
        graph = ov.convert_model(program_of(build.net, build.example(2)))
        ov.save_model(graph, str(fresh), compress_to_fp16=False)
        fresh.with_suffix(".bin").replace(path.with_suffix(".bin"))

    network = _taken(path, convert_to, lambda: core.read_model(str(path)))
    options = {
        "INFERENCE_PRECISION_HINT": "f32" if build.precision == "fp32" else build.precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }

    def make(batch: int) -> Program:
        graph = network.clone()
        shapes = [(batch, *build.shape), *[(batch,)] * (len(graph.inputs) - 1)]
        graph.reshape({i: list(s) for i, s in enumerate(shapes)})
        request = core.compile_model(graph, "CPU", options).create_infer_request()

        def run(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            given = _given(x, t, label).values()
            answer = request.infer([each.numpy() for each in given])[0]
            return torch.from_numpy(answer.copy())

        return run

    return Padded(make)


def onnxruntime(build: Build) -> Program:
    """Microsoft's ONNX Runtime, for CPUs in float32; the extra `export`."""
    _on_cpu(build, "onnxruntime")
    if build.precision != "fp32":
        raise ValueError(
            f"backend=onnxruntime computes in fp32 on a CPU, not in {build.precision}; choose "
            "precision=fp32 or another backend"
        )
    ort = needed("onnxruntime", "export", "backend=onnxruntime")
    path = _kept_by(build, "onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    # its threads would go on spinning after a call, in the way of torch's
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = _taken(
        path,
        lambda fresh: export(build.net, build.example(2), fresh, {"weights": build.weights}),
        lambda: ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]),
    )

    def run(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        given = {name: each.numpy() for name, each in _given(x, t, label).items()}
        return torch.from_numpy(session.run(None, given)[0])

    return run


Backend = Callable[[Build], Program]
BACKENDS: dict[str, Backend] = {
    "eager": eager,
    "compile": compiled,
    "openvino": openvino,
    "onnxruntime": onnxruntime,
}


def ready(build: Build, backend: str, batch: int) -> bool:
    """Whether a program is there at once: its library installed, and what it compiled kept."""
    if backend == "eager":
        return True
    if backend == "compile":
        return build.device.type == "cpu" and _kept_compiled(build, batch).is_file()
    if build.device.type != "cpu" or not present(backend):
        return False
    if backend == "onnxruntime" and build.precision != "fp32":
        return False
    return _kept_by(build, backend).is_file()


def _taken(path: Path, make: Callable[[Path], object], opened: Callable[[], Any]) -> Any:
    """What a file of the cache holds; made where it is missing, and anew where it is broken.

    Raises ValueError where it cannot be made.
    """
    with _quiet():
        if path.is_file():
            try:
                return opened()
            except Exception as error:  # of whatever kind a library meets in a broken file
                logging.getLogger("ddim").warning("%s is made anew: %s", path, words(error))
        fresh = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            make(fresh)
            fresh.replace(path)
            return opened()
        except ImportError:
            raise
        except Exception as error:  # likewise
            raise ValueError(
                f"{path.parent} got no program of this network ({words(error)}); choose "
                "backend=eager, or another DDIM_CACHE"
            ) from error
        finally:
            fresh.unlink(missing_ok=True)


def words(error: Exception) -> str:
    """The first of what an error says, on one line."""
    return " ".join(f"{type(error).__name__} {error}".split())[:160]


def _kept_compiled(build: Build, batch: int) -> Path:
    return build.kept("compile", ".pt2", build.precision, str(batch), machine())


def _kept_by(build: Build, backend: str) -> Path:
    """What OpenVINO or ONNX Runtime reads: the traced network, for all precisions and machines."""
    suffix = ".xml" if backend == "openvino" else ".onnx"
    return build.kept(backend, suffix, version(backend))


def _given(x: Tensor, t: Tensor, label: Tensor | None) -> dict[str, Tensor]:
    """The inputs by name, as those who read memory want them."""
    given = {"x": x.float().contiguous(), "t": t.float().contiguous()}  # t may be fractional
    return given if label is None else {**given, "label": label.contiguous()}


def _on_cpu(build: Build, name: str) -> None:
    if build.device.type != "cpu":
        raise ValueError(
            f"backend={name} is for the CPU, and the model is on {build.device}; choose eager or "
            "compile"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of those who trace, about their own deprecations; no gradients."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield
