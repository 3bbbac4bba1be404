"""ddim encode and ddim reconstruct: images to latents, and back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddim.cli.console import (
    counted,
    device as find_device,
    file_output,
    laid,
    pictures_of,
    progress,
    to_clean,
)
from ddim.cli.options import (
    BatchSize,
    Device,
    Exact,
    Folder,
    Json,
    Label,
    Num,
    OfNoNoise,
    Size,
    Source,
    Spacing,
    Steps,
    Times,
)
from ddim.cli.telling import document, told

if TYPE_CHECKING:
    import torch

    from ddim.belm import Pair
    from ddim.plans import Plan
    from ddim.solvers import Solver


def encode(
    model: Folder,
    images: Source,
    output: Annotated[
        Path, typer.Option("-o", "--out", "--output", help="The file of latents to write.")
    ] = Path("latents.safetensors"),
    steps: Steps = None,
    solver: OfNoNoise = None,
    exact: Exact = None,
    spacing: Spacing = None,
    times: Times = None,
    size: Size = None,
    num: Num = None,
    label: Label = None,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Encode images to latents, which ddim sample MODEL --from FILE decodes."""
    import torch

    import ddim
    from ddim.identity import fingerprint
    from ddim.latents import Encoding, save_latents

    file_output(output, ".safetensors")
    opened, method = ddim.load(model, find_device(device)), method_of(solver, exact)
    plan = to_clean(laid(opened.schedule, steps, spacing, times))
    x = pictures_of(opened, images, size, num)
    found: list[torch.Tensor | Pair] = []
    batches = torch.split(x, batch_size)
    with progress() as bar, torch.no_grad():
        task = bar.add_task("encoding", total=_total(method, exact, plan, len(batches)))
        denoiser = counted(opened.denoiser(label), bar, task)
        for batch in batches:
            found.append(ddim.encode(denoiser, batch, plan, method, exact))
    encoding = Encoding(
        tuple(float(level.t) for level in plan),
        ddim.describe(method),
        exact,
        label,
        batch_size,
        fingerprint(opened),
        opened.target,
        opened.shape,
    )
    save_latents(_joined(found), encoding, output)
    made = {"out": output, "latents": len(x), "solver": encoding.solver, "exact": exact}
    told(
        f"{output}: {len(x)} latents. Next: ddim sample {model} --from {output} -o back.png",
        {**made, "steps": len(plan) - 1},
        as_json=as_json,
    )


def reconstruct(
    model: Folder,
    images: Source,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--out", "--output", help="The picture: each image above what came back."
        ),
    ] = Path("reconstruct.png"),
    steps: Steps = None,
    solver: OfNoNoise = None,
    exact: Exact = None,
    spacing: Spacing = None,
    times: Times = None,
    size: Size = None,
    num: Num = 16,
    label: Label = None,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Encode images, decode them, and print how far what comes back is.

    That is the mean square error of each and of all, of pixels in [0, 1]. With --exact fixed_point
    also the residual of its worst step.
    """
    import torch

    import ddim
    from ddim.pictures import save_grid

    file_output(output, ".png")
    opened, method = ddim.load(model, find_device(device)), method_of(solver, exact)
    plan = to_clean(laid(opened.schedule, steps, spacing, times))
    x = pictures_of(opened, images, size, num)
    batches, back, residuals = torch.split(x, batch_size), [], []
    with progress() as bar, torch.no_grad():
        total = _total(method, exact, plan, 2 * len(batches))
        task = bar.add_task("there and back", total=total)
        denoiser = counted(opened.denoiser(label), bar, task)
        for batch in batches:
            if exact == "fixed_point":
                inverse = ddim.invert(denoiser, batch, plan)
                residuals += inverse.residual.amax(0).tolist()
                latent: torch.Tensor | Pair = inverse.latent
                unsolved = int((~inverse.converged).sum())
                if unsolved:
                    print(
                        f"ddim: {unsolved} of {len(batch)} fixed points were not found to "
                        f"{inverse.tolerance:g}; their latents are approximate",
                        file=sys.stderr,
                    )
            else:
                latent = ddim.encode(denoiser, batch, plan, method, exact)
            back.append(ddim.decode(denoiser, latent, plan, method))
    facts = _compared(x.cpu(), torch.cat(back).cpu(), residuals)
    rows = [
        part
        for pair in zip(torch.split(x, 16), torch.split(torch.cat(back), 16), strict=True)
        for part in pair
    ]
    save_grid(_padded(rows), output, len(rows[0]))
    if as_json:
        document({"out": output, **facts})
    else:
        _show(facts)
    print(f"{output}: {len(x)} images, each above what came back", file=sys.stderr)


def method_of(solver: str | None, exact: str | None) -> Solver:
    """The solver; ddim beside --exact. Raises ValueError for an unknown one, or for both."""
    import ddim
    from ddim.inversion import EXACT

    if exact is not None and exact not in EXACT:
        raise ValueError(f"--exact {exact} is unknown; choose one of {', '.join(EXACT)}")
    if exact is not None and solver is not None:
        raise ValueError(f"--exact {exact} is a method of its own; leave --solver out")
    return ddim.build(solver or "ddim")


def _total(method: Solver, exact: str | None, plan: Plan, times: int) -> int | None:
    """Network calls, where they are known."""
    import ddim

    if exact == "fixed_point":
        return None
    return (ddim.calls(method, plan) if exact is None else len(plan) - 1) * times


def _joined(parts: list[torch.Tensor | Pair]) -> torch.Tensor | Pair:
    import torch

    import ddim

    pairs = [part for part in parts if isinstance(part, ddim.Pair)]
    if pairs:
        return ddim.Pair(
            torch.cat([pair.x for pair in pairs]), torch.cat([pair.previous for pair in pairs])
        )
    return torch.cat([part for part in parts if not isinstance(part, ddim.Pair)])


def _padded(rows: list[torch.Tensor]) -> torch.Tensor:
    """Rows of one length, the last filled with white."""
    import torch

    wide = len(rows[0])
    return torch.cat(
        [torch.cat([row, row.new_ones(wide - len(row), *row.shape[1:])]) for row in rows]
    )


def _compared(x: torch.Tensor, back: torch.Tensor, residuals: list[float]) -> dict[str, Any]:
    """How far what came back is: of all, of each image, and of its worst pixel."""
    from ddim.data import to_pixels

    square = ((back - x) / 2).square().flatten(1)
    levels = (to_pixels(back).int() - to_pixels(x).int()).abs().flatten(1).amax(1)
    facts = {
        "mse": float(square.mean()),
        "images": square.mean(1).tolist(),
        "levels": levels.tolist(),
    }
    return {**facts, **({"residuals": residuals} if residuals else {})}


def _show(facts: Mapping[str, Any]) -> None:
    residuals = facts.get("residuals", ())
    print(f"{'image':>6} {'mean square error':>18} {'worst pixel, of 255':>20}", end="")
    print(f" {'residual':>10}" if residuals else "")
    for i, (error, level) in enumerate(zip(facts["images"], facts["levels"], strict=True)):
        print(f"{i:6d} {error:18.3e} {level:20d}", end="")
        print(f" {residuals[i]:10.1e}" if residuals else "")
    print(f"{'all':>6} {facts['mse']:18.3e} {max(facts['levels']):20d}")
