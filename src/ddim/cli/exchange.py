"""ddim import, export and push: models from elsewhere, and for elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ddim.cli.console import laid, only_one, to_clean, writable
from ddim.cli.options import Calls, Clip, Folder, Json, Label, OfNoNoise, Spacing, Steps, Times
from ddim.cli.telling import told


def bring(
    source: Folder,
    there: Annotated[
        Path | None, typer.Argument(metavar="[OUT]", help="The same as --out.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", "--output", help="The folder to write.")
    ] = None,
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
    as_json: Json = False,
) -> None:
    """Convert a model of diffusers, of ermongroup/ddim or of the hub into a folder of ours.

    Of diffusers: pipelines of a UNet2DModel, and checkpoints of its training, which need --config.
    Averaged (EMA) weights are taken where there are both.
    """
    import ddim

    folder = _output(there, out, "runs/theirs")
    writable(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; choose a new one")
    if folder.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{folder} is inside {source}; choose a folder elsewhere")
    model = ddim.load(source, config=config, raw=raw, variant=variant)
    ddim.save(model, folder)
    taken, onto = _taken(model.notes), "" if model.of_images else " -o samples.npz"
    told(
        f"{folder}: {model.size:,} weights for {model.shape}, target {model.target}, "
        f"T={model.schedule.T}{taken}. Next: ddim sample {folder}{onto}",
        {
            "out": folder,
            "weights": model.size,
            "shape": model.shape,
            "target": model.target,
            "T": model.schedule.T,
            "source": model.notes.get("source"),
        },
        as_json=as_json,
    )


def _output(there: Path | None, out: Path | None, example: str) -> Path:
    """The output that the last word or --out names."""
    if there is not None and out is not None:
        raise ValueError(f"{there} and --out {out} both name the output; give one of them")
    if (found := out or there) is None:
        raise ValueError(f"there is no output; give --out, such as -o {example}")
    return found


def _taken(notes: Any) -> str:
    weights = notes.get("source", {}).get("weights")
    words = {
        "ema": "; the averaged (EMA) weights (--raw for the others)",
        "raw": "; the raw weights, not the averaged ones",
    }
    return words.get(weights, "")


def export(
    model: Folder,
    there: Annotated[
        Path | None, typer.Argument(metavar="[OUT]", help="The same as --out.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            "--output",
            help="network.pt2 (torch.export), or network.onnx (extra [export]).",
        ),
    ] = None,
    steps: Steps = None,
    calls: Calls = None,
    spacing: Spacing = None,
    times: Times = None,
    solver: OfNoNoise = None,
    label: Label = None,
    clip: Clip = None,
    as_json: Json = False,
) -> None:
    """Write the network, or with --steps a whole sampler, as a program that needs no ddim.

    --times and --calls make a sampler too; its file and the time to export grow with the steps.
    The network takes x and t (the level − 1), and label where it has classes. The sampler takes x
    from N(0, I) and gives images in [-1, 1]. Both take any batch. The file is run and compared
    with the model before it is written.
    """
    import ddim
    from ddim import export as programs, tracing

    output = _output(there, out, "network.onnx")
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
        made, what = "network", f"the network, inputs {', '.join(example)}"
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
        made, what = "sampler", f"a sampler of {ddim.calls(method, plan)} network calls, input x"
    told(
        f"{output}: {what}; differs from the model by {apart:.1g}",
        {"out": output, "program": made, "difference": apart},
        as_json=as_json,
    )


def push(
    folder: Annotated[Path, typer.Argument(help="A model's folder on this machine.")],
    name: Annotated[str, typer.Argument(help="owner/name on the hub.")],
    license: Annotated[str | None, typer.Option(help="For the card, such as mit.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Nobody else may see it.")] = False,
    as_json: Json = False,
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
        told(
            f"{written}: {done}. HF_HUB_OFFLINE is set: not pushed",
            {"card": written, "card_kept": kept, "pushed": None},
            as_json=as_json,
        )
        return
    address = hub.push(folder, name, private=private)
    told(
        f"{address}: pushed",
        {"card": written, "card_kept": kept, "pushed": address},
        as_json=as_json,
    )
