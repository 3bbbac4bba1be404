"""A model card: what the folder holds and how to sample from it, for the hub."""

from __future__ import annotations

import json
from typing import Any

from ddim.convert import expressible
from ddim.model import Model
from ddim.nets import Borrowed, UNet


def card(model: Model, name: str, license: str | None = None) -> str:
    """README.md of a model's folder, with the YAML that the hub reads. name: owner/name there."""
    from huggingface_hub import ModelCardData

    pipeline = isinstance(model.net, UNet | Borrowed) and expressible(
        model.schedule, model.target, model.sampling
    )
    data = ModelCardData(
        license=license,
        library_name="diffusers" if pipeline else "ddim",
        pipeline_tag="unconditional-image-generation" if model.of_images else None,
        tags=["ddim", "diffusion"],
    )
    label = "" if model.labels is None else f"  # label: 0..{model.labels - 1}"
    bound = "" if model.labels is None else "0"
    flag = "" if model.labels is None else " --label 0"
    what = {1: "vectors", 2: "signals"}.get(len(model.shape), "images")
    output = "" if model.of_images else " -o samples.npz"
    facts: dict[str, Any] = {
        what: "×".join(map(str, model.shape)),
        "weights": f"{model.size:,}",
        "target": model.target,
        "levels": model.schedule.T,
        **({} if model.labels is None else {"classes": model.labels}),
        **{key: value for key, value in model.notes.items() if key != "null_label"},
    }
    return "\n".join(
        [
            f"---\n{data.to_yaml()}\n---\n",
            f"# {name.partition('/')[2]}\n",
            f"A diffusion model of {what}, for sampling in 5 to 30 network calls with ddim.\n",
            "| | |\n|---|---|",
            *(f"| {key} | {_cell(value)} |" for key, value in facts.items()),
            "\n## Use\n",
            f"```\nddim sample hf:{name} --steps 20{flag}{output}\n```\n",
            f'```python\nimport ddim\n\nmodel = ddim.load("hf:{name}")',
            "noise = ddim.Seeded(range(16))",
            f"denoiser = model.denoiser({bound}){label}",
            f"{what} = ddim.sample(denoiser, noise.start(model.shape), model.plan(20))\n```",
            *(_diffusers(name) if pipeline and model.labels is None else ()),
        ]
    )


def _diffusers(name: str) -> tuple[str, ...]:
    return (
        "\n```python\nfrom diffusers import DDIMPipeline\n",
        f'images = DDIMPipeline.from_pretrained("{name}")(num_inference_steps=20).images\n```',
    )


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("\n", " ")
