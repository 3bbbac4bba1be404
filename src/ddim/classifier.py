"""A small convolutional classifier of the user's labelled images: its features judge samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.data import Images, shrunk, to_float
from ddim.noise import stream

DIMENSION = 64
_LARGEST = 64


@dataclass(frozen=True)
class Course:
    """How it is trained: updates of a batch, the peak rate, the share held out for its accuracy."""

    updates: int = 1000
    batch_size: int = 128
    lr: float = 3e-3
    held_out: float = 0.1


class Classifier(nn.Module):
    """Images in [-1, 1] (B, C, H, W) to logits (B, classes); `features` are the layer before.

    Sides above 64 are averaged down to 64.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.GroupNorm(8, 32),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.GroupNorm(8, 64),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.GroupNorm(8, 64),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 16, DIMENSION),
            nn.SiLU(),
        )
        self.head = nn.Linear(DIMENSION, classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 64)."""
        rows: Tensor = self.body(shrunk(x, _LARGEST))
        return rows

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def fitted(images: Images, course: Course = Course()) -> tuple[Classifier, float]:
    """A classifier trained on labelled images, a function of them alone, and its accuracy on the
    tenth that it never saw.

    Class i is the i-th of the sorted labels. Raises ValueError for images without labels, or with
    labels of one class, or fewer than 20.
    """
    targets = places(images)
    classes = int(targets.max()) + 1
    if classes < 2 or len(images) < 20:
        raise ValueError(
            f"{len(images)} images of {classes} class(es) train no classifier; give 20 images and "
            "2 classes, or leave the feature cnn out"
        )
    order = torch.from_numpy(stream(0, 0).permutation(len(images)))
    held, seen = order.tensor_split([math.ceil(course.held_out * len(images))])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Classifier(images.shape[0], classes)
    optimizer = torch.optim.AdamW(net.parameters(), lr=course.lr, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, course.lr, total_steps=course.updates)
    for update in range(course.updates):
        batch = seen[stream(0, 1 + update).integers(0, len(seen), course.batch_size)]
        objective = F.cross_entropy(net(to_float(images.pixels[batch])), targets[batch])
        optimizer.zero_grad()
        torch.autograd.backward(objective)
        optimizer.step()
        rate.step()
    net.eval().requires_grad_(False)
    right = [
        (net(to_float(images.pixels[part])).argmax(1) == targets[part]).double().sum()
        for part in torch.split(held, 256)
    ]
    return net, float(sum(right) / len(held))


def places(images: Images) -> Tensor:
    """The place of each image's label among the sorted labels, (N,). ValueError without labels."""
    if images.labels is None:
        raise ValueError(
            "the data has no labels, which the feature cnn is trained on; give an .npz with "
            "`labels`, or other --features such as pca"
        )
    return torch.from_numpy(np.unique(images.labels.numpy(), return_inverse=True)[1])
