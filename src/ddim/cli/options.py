"""The flags that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

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
Spacing = Annotated[
    str | None, typer.Option(help="trailing (usual), leading, uniform, quadratic, log_snr or rho.")
]
Times = Annotated[
    str | None, typer.Option(help="The levels themselves instead, such as 1000,600,250,80,0.")
]
OfNoNoise = Annotated[
    str | None,
    typer.Option("--solver", help="One that draws no noise: ddim (usual), unipc, deis, …."),
]
Exact = Annotated[
    str | None,
    typer.Option(
        help="lattice (every bit comes back), belm (up to rounding), or fixed_point (solves ddim)."
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
Num = Annotated[int | None, typer.Option(min=1, help="Only the first NUM images.")]
Label = Annotated[int | None, typer.Option(help="The class, for a model trained with classes.")]
Clip = Annotated[float | None, typer.Option(help="Keep the predicted image within [-CLIP, CLIP].")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per network call.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[
    str | None,
    typer.Option(help="Of the network: fp32 (usual), bf16, fp16, or auto, the fastest."),
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="What runs the network: eager (usual), compile, openvino, onnxruntime, or auto, the "
        "fastest of what is ready; ddim bench makes them ready."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]
