"""A Stable Diffusion pipeline of diffusers with our solver in place of its scheduler.

    python examples/stable_diffusion.py                                # tiny, made here, 10 seconds
    python examples/stable_diffusion.py my/stable-diffusion --size 512     # yours: a folder

Needs `pip install -e ".[diffusers]" -c constraints.txt` and transformers. Without a folder it makes
the whole pipeline with random weights: text encoder, tokenizer, U-Net and VAE are there and do all
that they do in a real one, but nothing was trained, so the pictures are patterns and mean nothing.
What can be seen is how near 10 calls come to the pipeline's own fine solution, that of its DDIM in
--fine trailing steps. The figures of a trained model are others; run it on yours.

Prints the root mean square distance of the latents from the fine ones, as a share of their size:
by DDIM at the pipeline's own spacing, which begins with pure noise where a little signal belongs;
by DDIM on trailing timesteps; by our solver on the same; and by UniPC of diffusers. What is gained
is the order of the solver, and diffusers' UniPC gains it too: ours adds other solvers, plans and
fitted recipes. Writes stable_diffusion.png: a row per prompt, the fine solution first, then the
four. They look alike; the figures tell them apart.
"""

from __future__ import annotations

import argparse
import string
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import ddim
from ddim.interop.diffusers import SolverScheduler

PROMPTS = ["a red house by the sea", "a cat in the snow", "rain on a tin roof"]


def main() -> None:
    """Four schedulers in one pipeline, on the same prompts and seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="a folder of StableDiffusionPipeline")
    parser.add_argument("--size", type=int, default=32, help="side of the pictures")
    parser.add_argument("--solver", default="unipc", help="as ddim sample takes it")
    parser.add_argument("--fine", type=int, default=200, help="steps of the fine solution")
    parser.add_argument("--out", type=Path, default=Path("stable_diffusion.png"))
    chosen = parser.parse_args()
    pipe = StableDiffusionPipeline.from_pretrained(chosen.model) if chosen.model else made()
    pipe.set_progress_bar_config(disable=True)
    config, trailing = pipe.scheduler.config, {"timestep_spacing": "trailing"}
    theirs = DDIMScheduler.from_config(config, clip_sample=False, **trailing)
    ours = SolverScheduler.from_config(config, solver=chosen.solver, **trailing)
    asis = DDIMScheduler.from_config(config, clip_sample=False)
    peer = UniPCMultistepScheduler.from_config(config, **trailing)
    schedulers = {"DDIM as it comes": asis, "DDIM, trailing": theirs}
    schedulers |= {f"our {chosen.solver}": ours, "diffusers' UniPC": peer}
    fine = latents(pipe, theirs, chosen.fine, chosen.size)
    columns = [fine]
    for name, scheduler in schedulers.items():
        columns.append(latents(pipe, scheduler, 10, chosen.size))
        apart = (columns[-1] - fine).square().mean().sqrt() / fine.square().mean().sqrt()
        calls = len(pipe.scheduler.timesteps)
        print(f"{name}, {calls} calls: {apart:.4f} of its size from the fine solution")
    with torch.no_grad():
        rows = torch.stack(columns, 1).flatten(0, 1) / pipe.vae.config.scaling_factor
        pictures = pipe.vae.decode(rows).sample.clamp(-1, 1)
    ddim.save_grid(pictures, chosen.out, columns=len(columns))
    print(f"wrote {chosen.out}")


def latents(pipe: Any, scheduler: Any, steps: int, size: int) -> Tensor:
    """What the pipeline makes of the prompts, before the VAE; the seeds are always the same."""
    pipe.scheduler = scheduler
    seeds = [torch.Generator().manual_seed(i) for i in range(len(PROMPTS))]
    options = {"height": size, "width": size, "generator": seeds, "output_type": "latent"}
    return pipe(PROMPTS, num_inference_steps=steps, **options).images


def made() -> StableDiffusionPipeline:
    """All parts of the pipeline, small and with random weights; the tokenizer knows letters."""
    torch.manual_seed(0)
    letters = [*string.ascii_lowercase, *(f"{each}</w>" for each in string.ascii_lowercase)]
    words = {word: i for i, word in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 32}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text = CLIPTextConfig(vocab_size=len(words), num_attention_heads=4, **sizes, **ends)
    sizes = {"sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1}
    kinds = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    heads = {"cross_attention_dim": 32, "attention_head_dim": 8, "norm_num_groups": 8}
    unet = UNet2DConditionModel(**sizes, **kinds, **heads)
    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    vae = AutoencoderKL(block_out_channels=(16, 32), norm_num_groups=8, **kinds)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    tokenizer = CLIPTokenizer(words, [], model_max_length=32)
    parts = (vae, CLIPTextModel(text), tokenizer, unet, scheduler, None, None)
    return StableDiffusionPipeline(*parts, requires_safety_checker=False)


if __name__ == "__main__":
    main()
