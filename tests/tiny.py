"""A model small enough for every test, with fixed random weights."""

import torch

from ddim import Model, schedules
from ddim.nets import UNetConfig


def tiny_model(target="eps", classes=None):
    config = UNetConfig(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        num_class_embeds=classes,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    model = Model.new((1, 8, 8), schedules.linear(), target, config)
    torch.manual_seed(1)
    for weight in model.net.requires_grad_(False).parameters():
        if not weight.any():
            torch.nn.init.normal_(
                weight, std=0.05
            )  # a fresh network answers 0; this one says something
    return model


class ExactNet(torch.nn.Module):
    """out = net(x, t) on network time: the exact answer of a known data distribution, as a network.

    data: a Denoiser, such as a Mixture.   target: eps, x0 or v.
    """

    def __init__(self, data, schedule, target="eps"):
        super().__init__()
        self.data, self.schedule, self.target = data, schedule, target

    def forward(self, x, t):
        level = self.schedule.level(float(t.flatten()[0]) + 1)
        p = self.data(x, level)
        v = level.signal * p.eps - level.noise * p.x0
        return {"eps": p.eps, "x0": p.x0, "v": v}[self.target]
