"""The flags that several commands share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from ddim.cli import words

Folder = Annotated[
    Path,
    typer.Argument(
        help="A folder that ddim train or diffusers wrote, a ckpt.pth, or hf:owner/name."
    ),
]
Source = Annotated[
    str,
    typer.Argument(
        help="A folder, .zip or .tar of images, a picture, an .npz, or the word digits."
    ),
]
ImageOutput = Annotated[
    Path,
    typer.Option(
        "-o", "--out", "--output", help="grid.png, images.npz, or a folder for one PNG per seed."
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", "--num-inference-steps", help="Intervals, 1 to T; usually 20."),
]
Calls = Annotated[
    int | None,
    typer.Option(min=1, help="Network calls instead of steps, by the recipe of ddim tune."),
]
Solver = Annotated[
    str | None,
    typer.Option(
        help="ddim (usual), ddpm, heun, ipndm, deis, dpmpp, dpmpp2s, unipc or resample, with "
        "options such as ddim:eta=0.5, unipc:order=3, dpmpp:order=2,eta=1.",
        autocompletion=words.of(words.SOLVERS),
    ),
]
Eta = Annotated[
    float | None,
    typer.Option(help="That of the solver: --eta 0.5 is --solver ddim:eta=0.5; 0 draws no noise."),
]
Spacing = Annotated[
    str | None,
    typer.Option(
        help="trailing (usual), leading, uniform, quadratic, log_snr or rho.",
        autocompletion=words.of(words.SPACINGS),
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        help="linear (usual), scaled_linear, cosine, sigmoid or rectified_flow, with options such "
        "as cosine:s=0.008 or linear:T=4000.",
        autocompletion=words.of(words.SCHEDULES),
    ),
]
Times = Annotated[
    str | None, typer.Option(help="The levels themselves instead, such as 1000,600,250,80,0.")
]
OfNoNoise = Annotated[
    str | None,
    typer.Option(
        "--solver",
        help="One that draws no noise: ddim (usual), unipc, deis, ….",
        autocompletion=words.of(words.SOLVERS),
    ),
]
Exact = Annotated[
    str | None,
    typer.Option(
        help="lattice (every bit comes back), belm (up to rounding), or fixed_point (solves ddim).",
        autocompletion=words.of(words.EXACT),
    ),
]


def _extent(text: str) -> int | tuple[int, int]:
    from ddim.reading import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Size = Annotated[
    Any,  # int | tuple[int, int] | None, which typer does not take
    typer.Option(
        parser=_extent,
        metavar="SIZE",
        help="Crop and resize pictures to SIZE×SIZE, or to WIDTHxHEIGHT such as 96x64.",
    ),
]
Num = Annotated[int | None, typer.Option("-n", "--num", min=1, help="Only the first NUM images.")]
Label = Annotated[int | None, typer.Option(help="The class, for a model trained with classes.")]


def _limit(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"--clip {value:g}; choose a number above 0, 1 for images in [-1, 1]")
    return value


Clip = Annotated[
    float | None,
    typer.Option(callback=_limit, help="Keep the predicted image within [-CLIP, CLIP]."),
]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", "--seed", help="One image per seed, such as 0-15,20; usually 0-15."),
]
Guidance = Annotated[float, typer.Option(help="Scale of guidance towards the label; 1 is none.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per network call.")]
Device = Annotated[
    str,
    typer.Option(help="auto, cpu, cuda or mps.", autocompletion=words.of(words.DEVICES)),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="Of the network: fp32 (usual), bf16, fp16, or auto, the fastest.",
        autocompletion=words.of(words.PRECISIONS),
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="What runs the network: eager (usual), compile, openvino, onnxruntime, or auto, the "
        "fastest of what is ready; ddim bench makes them ready.",
        autocompletion=words.of(words.BACKENDS),
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        envvar="DDIM_CACHE", help="Where what is fitted to the data is kept; ~/.cache/ddim."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout instead.")]
