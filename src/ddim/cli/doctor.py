"""ddim doctor: what is installed here, and what is missing for what."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ddim.cli.options import Json
from ddim.cli.telling import document

EXTRAS = {
    "eval": ("matplotlib", "onnxruntime", "transformers"),
    "fast": ("openvino",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "scale": ("ray", "fsspec"),
    "parquet": ("pyarrow",),
    "hf": ("datasets",),
    "diffusers": ("diffusers",),
    "log": ("tensorboard",),
    "ui": ("gradio", "matplotlib"),
    "viz": ("matplotlib",),
    "docs": ("sphinx", "furo", "myst-parser"),
}
"""The libraries of each extra."""
_ALWAYS = ("torch", "numpy", "pillow", "safetensors", "accelerate", "huggingface_hub", "typer")


def doctor(as_json: Json = False) -> None:
    """Print versions, devices, threads, extras, the compiler and the cache folder."""
    found = checked()
    if as_json:
        document(found)
        return
    print(f"ddim {found['ddim']}, Python {found['python']}, {found['system']}")
    print("\n".join(f"  {name} {text}" for name, text in found["packages"].items()))
    print(f"processor    {found['processor']}, {found['threads']} threads")
    print(f"precisions   {', '.join(found['precisions'])}")
    for gpu in found["gpus"]:
        print(f"GPU          {gpu}")
    print(f"compiler     {found['compiler'] or 'none: install g++, or networks run slower'}")
    cache = found["cache"]
    print(
        f"cache        {cache['folder']}, {cache['used_mb']:.0f} MB, {cache['free_gb']:.0f} GB free"
    )
    for name, missing in found["missing"].items():
        said = "there" if not missing else f"lacks {', '.join(missing)}: {_install(name)}"
        print(f"[{name}]".ljust(13) + said)


def checked() -> dict[str, Any]:
    """What `doctor` prints."""
    import torch

    import ddim
    from ddim.files import cache_folder
    from ddim.nets.kernels import Kernels, kernels
    from ddim.speed import about
    from ddim.ways import native

    cache, machine, made = cache_folder(), about(), kernels()
    above = next(path for path in (cache, *cache.parents) if path.exists())
    used = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    count = torch.cuda.device_count()
    devices = ["cpu", *(["cuda"] if count else [])]
    return {
        "ddim": ddim.__version__,
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "packages": {name: _version(name) for name in _ALWAYS},
        "processor": machine["processor"],
        "threads": machine["threads"],
        "precisions": native(torch.device(devices[-1])),
        "gpus": [torch.cuda.get_device_name(j) for j in range(count)],
        "compiler": _compiler() if isinstance(made, Kernels) else None,
        "kernels": "compiled" if isinstance(made, Kernels) else made,
        "cache": {
            "folder": str(cache),
            "used_mb": used / 1e6,
            "free_gb": shutil.disk_usage(above).free / 1e9,
        },
        "missing": {
            name: [each for each in libraries if _version(each) is None]
            for name, libraries in EXTRAS.items()
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _compiler() -> str:
    named = os.environ.get("CXX")
    found = named or next(filter(shutil.which, ("g++", "c++", "clang++")), None)
    return str(Path(shutil.which(found.split()[0]) or found)) if found else "kept kernels"


def _install(extra: str) -> str:
    return f'pip install -e ".[{extra}]" -c constraints.txt'
