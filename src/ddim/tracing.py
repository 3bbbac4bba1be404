"""Modules as programs that run without ddim: .pt2 (torch.export) and ONNX."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddim.extras import needed
from ddim.files import write

SUFFIXES = (".pt2", ".onnx")
_LARGEST_ONNX = 2_000_000_000
_AGREE = 1e-3


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


def _dynamic(names: Sequence[str]) -> dict[str, Any]:
    batch = torch.export.Dim("batch", min=1)
    return {name: {0: batch} for name in names}


def program_of(module: nn.Module, example: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    """A module as torch.export traces it, for a batch of any size."""
    return torch.export.export(module, (), dict(example), dynamic_shapes=_dynamic(list(example)))


def _pt2(module: nn.Module, example: Mapping[str, Tensor], about: str) -> tuple[bytes, Tensor]:
    program = program_of(module, example)
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
