"""How good a model of MNIST is, by a small classifier trained on the real digits.

Prints how sure the classifier is of the samples and of as many real digits, the share of each
class, and the Fréchet distance in its features to as many real digits, beside that of real digits
from real digits (the floor, which for few images is nearly all of it). For a model with classes,
how many samples are of the class that was asked for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import ddim
from ddim.classifier import fitted
from ddim.data import to_float, to_pixels
from ddim.metrics import frechet
from ddim.noise import stream

DRAWS, USE = 20, 100  # the use of a random stream


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="an .npz with images and labels")
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0, help="for a model with classes")
    parser.add_argument("--picture", type=Path)
    chosen = parser.parse_args()
    model, real = ddim.load(chosen.model), ddim.read(chosen.data)
    judge, accuracy = fitted(real)
    print(f"the classifier is right on {accuracy:.1%} of the digits that it never saw")
    labels = None
    if model.labels is not None:
        labels = [i % model.labels for i in range(chosen.num)]
    x = drawn(model, chosen.num, chosen.steps, labels, chosen.guidance)
    if chosen.picture:
        ddim.save_grid(x[:100], chosen.picture, columns=20)
    seen = to_float(to_pixels(x))
    with torch.no_grad():
        sure, found = judge(seen).softmax(1).max(1)
        features = judge.features(seen)
    print(f"{chosen.num} samples in {chosen.steps} steps: mean top probability {sure.mean():.3f}")
    shares = torch.bincount(found, minlength=10) / chosen.num
    print("share of each class: " + " ".join(f"{share:.1%}" for share in shares.tolist()))
    if labels is not None:
        right = (found == torch.tensor(labels)).double().mean()
        print(f"guidance {chosen.guidance:g}: {right:.1%} are of the class that was asked for")
    distances, floor, known = [], [], []
    for k in range(DRAWS):
        one, other = (real.batch(part) for part in disjoint(len(real), chosen.num, k))
        with torch.no_grad():
            known.append(float(judge(one).softmax(1).max(1).values.mean()))
            first, second = judge.features(one), judge.features(other)
        distances.append(frechet(features, first))
        floor.append(frechet(first, second))
    distance, least, certain = (sum(each) / DRAWS for each in (distances, floor, known))
    print(f"real digits: mean top probability {certain:.3f}")
    print(
        f"FD[classifier] of {chosen.num} {distance:.2f}, floor {least:.2f}: ratio "
        f"{distance / least:.2f}, excess {distance - least:.2f}"
    )


def drawn(
    model: ddim.Model, num: int, steps: int, labels: list[int] | None, guidance: float
) -> Tensor:
    """The samples of seeds 0 to num − 1, by DDIM."""
    parts = []
    for seeds in torch.split(torch.arange(num), 100):
        asked = None if labels is None else [labels[i] for i in seeds.tolist()]
        scale = 1.0 if labels is None else guidance
        start = ddim.Seeded(seeds.tolist()).start(model.shape)
        with torch.no_grad():
            parts.append(
                ddim.sample(model.denoiser(asked, guidance=scale), start, model.plan(steps))
            )
    return torch.cat(parts)


def disjoint(count: int, num: int, k: int) -> tuple[Tensor, Tensor]:
    """The k-th draw of two disjoint sets of num places out of count."""
    chosen = torch.from_numpy(stream(0, k, USE).permutation(count)[: 2 * num])
    return chosen[:num], chosen[num:]


if __name__ == "__main__":
    main()
