"""ddim import, export and push: models from elsewhere, and for elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ddim.cli.console import laid, only_one, to_clean, writable
from ddim.cli.options import Calls, Clip, Folder, Label, OfNoNoise, Spacing, Steps, Times


def bring(
    source: Folder,
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    config: Annotated[
        Path | None,
        typer.Option(help="The YAML of a ckpt.pth, or the scheduler_config.json of a bare U-Net."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="The weights of the last update, not the averaged ones.")
    ] = False,
    variant: Annotated[
        str | None, typer.Option(help="Of diffusers' weights, such as fp16.")
    ] = None,
) -> None:
    """Convert a model of diffusers, of ermongroup/ddim or of the hub into a folder of ours.

    Of diffusers: pipelines of a UNet2DModel, and checkpoints of its training, which need --config.
    Averaged (EMA) weights are taken where there are both.
    """
    import ddim

    writable(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; choose a new folder")
    if out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{out} is inside {source}; choose a folder elsewhere")
    model = ddim.load(source, config=config, raw=raw, variant=variant)
    ddim.save(model, out)
    taken, onto = _taken(model.notes), "" if model.of_images else " -o samples.npz"
    print(
        f"{out}: {model.size:,} weights for {model.shape}, target {model.target}, "
        f"T={model.schedule.T}{taken}. Next: ddim sample {out}{onto}",
        file=sys.stderr,
    )


def _taken(notes: Any) -> str:
    weights = notes.get("source", {}).get("weights")
    words = {
        "ema": "; the averaged (EMA) weights (--raw for the others)",
        "raw": "; the raw weights, not the averaged ones",
    }
    return words.get(weights, "")


def export(
    model: Folder,
    output: Annotated[
        Path, typer.Argument(help="model.pt2 (torch.export), or model.onnx (extra [export]).")
    ],
    steps: Steps = None,
    calls: Calls = None,
    spacing: Spacing = None,
    times: Times = None,
    solver: OfNoNoise = None,
    label: Label = None,
    clip: Clip = None,
) -> None:
    """Write the network as a program without ddim; with --steps, --times or --calls, a whole
    sampler, whose file and time to export grow with the steps.

    The network takes x and t (the level − 1), and label where it has classes. The sampler takes x
    from N(0, I) and gives images in [-1, 1]. Both take any batch. The file is run and compared
    with the model before it is written.
    """
    import ddim
    from ddim import export as programs, tracing

    if output.suffix not in tracing.SUFFIXES or output.is_dir():
        raise ValueError(f"{output} is no place for a program; name a .pt2 or an .onnx file")
    writable(output.parent)
    opened = ddim.load(model)
    example = programs.network_example(opened)
    only_one(calls=calls, steps=steps, times=times)
    if calls is not None and (spacing is not None or solver is not None):
        raise ValueError("--calls takes the recipe of ddim tune; leave --solver and --spacing out")
    if steps is None and times is None and calls is None:
        given = {"spacing": spacing, "solver": solver, "label": label, "clip": clip}
        if options := [f"--{name}" for name, value in given.items() if value is not None]:
            raise ValueError(
                f"{' and '.join(options)}: only for a sampler; give --steps, --times or --calls"
            )
        apart = tracing.export(opened.net, example, output, programs.about_network(opened))
        what = f"the network, inputs {', '.join(example)}"
    else:
        plan: ddim.Plan
        method: ddim.Solver
        if calls is not None:
            plan, method = ddim.find_recipe(model, calls, clip=clip).made(opened)
        else:
            plan = to_clean(laid(opened.schedule, steps, spacing, times))
            method = ddim.build(solver or "ddim")
        sampler = programs.Sampler(opened, plan, method, label, clip)
        about = programs.about_sampler(opened, plan, method)
        apart = tracing.export(sampler, {"x": example["x"]}, output, about)
        what = f"a sampler of {ddim.calls(method, plan)} network calls, input x"
    print(f"{output}: {what}; differs from the model by {apart:.1g}", file=sys.stderr)


def push(
    folder: Annotated[Path, typer.Argument(help="A model's folder on this machine.")],
    name: Annotated[str, typer.Argument(help="owner/name on the hub.")],
    license: Annotated[str | None, typer.Option(help="For the card, such as mit.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Nobody else may see it.")] = False,
) -> None:
    """Write a model card (README.md) into a model's folder and upload the folder to the hub.

    A card that is there is kept. With HF_HUB_OFFLINE=1 nothing is uploaded.
    """
    from ddim import card, files, hub, store

    hub.checked(name)
    if not store.holds_model(folder) or not list(folder.rglob("*.safetensors")):
        raise ValueError(
            f"{folder} holds no model as safetensors; ddim import makes such a folder of any"
        )
    writable(folder)
    text, written = card.card(store.load(folder), name, license), folder / "README.md"
    if kept := written.exists():
        if license is not None:
            raise ValueError(f"{written} is there and is kept; write the license into it")
    else:
        files.write(written, text.encode())
    if hub.offline():
        done = "kept as it is" if kept else "written"
        print(f"{written}: {done}. HF_HUB_OFFLINE is set: not pushed", file=sys.stderr)
        return
    print(f"{hub.push(folder, name, private=private)}: pushed", file=sys.stderr)
