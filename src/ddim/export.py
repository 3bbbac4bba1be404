"""Networks and whole samplers as programs that run without ddim: .pt2 (torch.export) and ONNX."""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddim.extras import needed
from ddim.files import write
from ddim.model import Model
from ddim.noise import undrawn
from ddim.plans import Plan
from ddim.rows import Fitted
from ddim.sampling import sample
from ddim.solvers import DDIM, Solver
from ddim.spec import describe

SUFFIXES = (".pt2", ".onnx")
_LARGEST_ONNX = 2_000_000_000
_AGREE = 1e-3


class Sampler(nn.Module):
    """image = sampler(x): a deterministic run on a fixed plan as one module.

    x: (B, *shape) at plan[0].   label: of every image, or None.   clip: as in `Model.denoiser`.
    Raises ValueError if the solver draws noise.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        solver: Solver = DDIM(),
        label: int | None = None,
        clip: float | None = None,
    ) -> None:
        super().__init__()
        self.net = model.net
        self._run = model.denoiser(label, clip), plan, solver

    def forward(self, x: Tensor) -> Tensor:
        """(B, *shape) at the first level of the plan to the same at its last."""
        denoiser, plan, solver = self._run
        return sample(denoiser, x, plan, solver, undrawn)


def export(module: nn.Module, example: Mapping[str, Tensor], path: str | Path, about: Any) -> float:
    """Write a module as .pt2 or .onnx, and return the greatest difference of what the file answers.

    example: its inputs by name, (2, ...) each; the batch may have any size afterwards.
    about: put into the file as JSON (ddim.json in a .pt2, the property ddim in ONNX).
    Raises ValueError for another suffix, ImportError where ONNX lacks its extra, FloatingPointError
    if the program does not agree with the module; then nothing is written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is no place for a program; name a {' or '.join(SUFFIXES)} file")
    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    if path.suffix == ".onnx" and size > _LARGEST_ONNX:
        raise ValueError(f"the weights take {size} bytes, and ONNX holds 2 GB; export a .pt2")
    module = module.eval()
    make = _pt2 if path.suffix == ".pt2" else _onnx
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about their own deprecations
        right = module(**example)
        try:
            content, answer = make(module, example, json.dumps(about))
        except (ValueError, OSError, ImportError):
            raise
        except Exception as error:  # of the exporters, which raise what they meet
            words = " ".join(str(error).split())[:160]
            raise ValueError(f"torch cannot export this to {path.suffix} ({words})") from error
        apart = (answer - right).abs().max().item()
    if not apart <= _AGREE:
        raise FloatingPointError(
            f"the exported program differs from the model by {apart:g}; nothing was written"
        )
    write(path, content)
    return apart


def network_example(model: Model) -> dict[str, Tensor]:
    """Inputs for `export` of model.net: x, t and perhaps label."""
    x = torch.linspace(-1, 1, 2 * torch.Size(model.shape).numel()).reshape(2, *model.shape)
    example = {"x": x, "t": torch.tensor([0, model.schedule.T - 1])}
    if model.classes is not None:
        example["label"] = torch.tensor([0, model.classes - 1])
    return example


def about_network(model: Model) -> dict[str, Any]:
    """What those who run an exported network have to know: the clock, target and tables."""
    return {
        "what": "the network: out = net(x, t), t = level − 1",
        "target": model.target,
        "channels": "of twice the shape's channels the first half is meant, the rest a variance",
        "shape": list(model.shape),
        "range": [-1, 1],
        "signal": model.schedule.signal.tolist(),
        "noise": model.schedule.noise.tolist(),
    }


def about_sampler(model: Model, plan: Plan, solver: Solver) -> dict[str, Any]:
    """What those who run an exported sampler have to know."""
    fitted = {"rows": solver.rows} if isinstance(solver, Fitted) else {}
    return {
        "what": "a sampler: image = sampler(x), x at the first level: from N(0, I) where that is T",
        "solver": "fitted" if fitted else describe(solver),
        **fitted,
        "times": [None if math.isnan(level.t) else float(level.t) for level in plan],
        "signal": [float(level.signal) for level in plan],
        "noise": [float(level.noise) for level in plan],
        "shape": list(model.shape),
        "range": [-1, 1],
    }


def _dynamic(names: Sequence[str]) -> dict[str, Any]:
    batch = torch.export.Dim("batch", min=1)
    return {name: {0: batch} for name in names}


def _pt2(module: nn.Module, example: Mapping[str, Tensor], about: str) -> tuple[bytes, Tensor]:
    program = torch.export.export(module, (), dict(example), dynamic_shapes=_dynamic(list(example)))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"ddim.json": about})
    return buffer.getvalue(), program.module()(**example)


def _onnx(module: nn.Module, example: Mapping[str, Tensor], about: str) -> tuple[bytes, Tensor]:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        needed(name, "export", "a .onnx file")
    import onnxruntime

    log = logging.getLogger("torch.onnx._internal.exporter")
    level = log.level
    log.setLevel(logging.ERROR)  # it says at every start that there is no torchvision
    try:
        program: Any = torch.onnx.export(
            module,
            (),
            kwargs=dict(example),
            dynamo=True,
            dynamic_shapes=_dynamic(list(example)),
            input_names=list(example),
            output_names=["out"],
            optimize=False,  # onnxruntime does, in a hundredth of the time
            verbose=False,
        )
    finally:
        log.setLevel(level)
    program.model.metadata_props["ddim"] = about
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {name: tensor.numpy() for name, tensor in example.items()})
    return content, torch.from_numpy(out)
