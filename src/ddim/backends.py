"""What runs a network: torch's operations, or a compiler; BACKENDS.

A backend makes a `Program` of a `Build`. Those that compile do it for one size of batch, which a
smaller batch is padded to.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ddim.extras import needed, present
from ddim.nets import UNet
from ddim.nets.fast import Fast
from ddim.nets.kernels import Kernels, kernels, machine
from ddim.nets.optimized import Program, answered
from ddim.programs import Build, Padded, taken
from ddim.tracing import export, program_of


def eager(build: Build) -> Program:
    """Torch's own operations; a U-Net of ours in the form that `Fast` has, on CUDA as a graph."""
    if isinstance(build.net, UNet) and build.device.type in ("cpu", "cuda"):
        if build.device.type == "cpu" and not isinstance(found := kernels(), Kernels):
            logging.getLogger("ddim").warning("slower, without compiled kernels: %s", found)
        program = Fast(build.net, build.dtype)
        return Padded(partial(_graph, build, program)) if build.device.type == "cuda" else program
    return build.net if build.dtype == torch.float32 else Cast(build.net, build.dtype)


def _graph(build: Build, program: Program, batch: int) -> Program:
    """The launches of a program as one CUDA graph, for one size of batch."""
    given = build.example(batch)
    with torch.cuda.device(build.device):
        cuda: Any = torch.cuda
        aside = cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):  # which compiles, and lays out
                answered(program, given["x"], given["t"], given.get("label"))
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            answer = answered(program, given["x"], given["t"], given.get("label"))

    def run(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        for name, each in _given(x, t, label).items():
            given[name].copy_(each)
        graph.replay()
        return answer.clone()  # the next replay writes over it

    return run


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
        run: Any = taken(path, compile_to, lambda: inductor.aoti_load_package(str(path)))
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

    network = taken(path, convert_to, lambda: core.read_model(str(path)))
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
    if not computes("onnxruntime", build.precision):
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
    session = taken(
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


def computes(backend: str, precision: str) -> bool:
    """Whether a backend computes in a precision: ONNX Runtime in fp32 alone, on a CPU."""
    return backend != "onnxruntime" or precision == "fp32"


def ready(build: Build, backend: str, batch: int) -> bool:
    """Whether a program is there at once: its library installed, and what it compiled kept."""
    if backend == "eager":
        return True
    if backend == "compile":
        return build.device.type == "cpu" and _kept_compiled(build, batch).is_file()
    if build.device.type != "cpu" or not present(backend):
        return False
    if not computes(backend, build.precision):
        return False
    return _kept_by(build, backend).is_file()


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
        return answered(self.net, x.to(self.dtype), t, label).to(x.dtype)


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
