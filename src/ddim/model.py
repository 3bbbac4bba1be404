"""A trained network with all that is needed to sample from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ddim.guidance import clip as clipped, guide
from ddim.nets import Config, network, small
from ddim.plans import Plan, Spacing, placed, plan
from ddim.process import Denoiser, Level, Prediction, Rows, Split, determinant, rows
from ddim.schedules import Schedule, linear


@dataclass(frozen=True)
class Sampling:
    """How a model's folder asks to be sampled: kept, written back, applied only when asked for.

    clip: the limit on x0, or None.   final: t of the last level, 0 or 1.   offset: what diffusers
    adds to its leading timesteps, 1 in Stable Diffusion.   threshold: quantile and maximum of
    dynamic thresholding, or None.
    """

    spacing: str = "trailing"
    clip: float | None = None
    final: int = 0
    offset: int = 0
    threshold: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.final not in (0, 1) or self.offset < 0 or not (self.clip is None or self.clip > 0):
            raise ValueError(
                f"final={self.final}, offset={self.offset}, clip={self.clip}; "
                "choose a final of 0 or 1, an offset from 0, a clip above 0 or none"
            )


@dataclass(frozen=True, eq=False)
class Model:
    """A network, the schedule and target it was trained with, and the shape of one sample.

    net: out = net(x, t) or net(x, t, label), x (B, *shape), t (B,) its own clock from 0, that is t
    − 1 here.
    notes: where it came from (data, training options), kept in ddim.json.
    Raises ValueError if the target is singular on the schedule (eps where the signal is 0).
    """

    net: nn.Module
    schedule: Schedule
    target: str
    shape: tuple[int, ...]
    sampling: Sampling = Sampling()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for t in (1, self.schedule.T):
            determinant(self.target, self.schedule.level(t))

    @classmethod
    def new(
        cls,
        shape: tuple[int, ...],
        schedule: Schedule | None = None,
        target: str = "eps",
        config: Config | None = None,
        seed: int = 0,
        classes: int | None = None,
    ) -> Model:
        """An untrained network for vectors (D,), signals (C, L) or images (C, H, W).

        schedule: linear() where None.   config: where None, a small network that suits the shape.
        seed: the weights are a function of it.   classes: how many there are; the network has one
        more, the null label, which notes name.
        Raises ValueError if the configuration is for other samples or classes.
        """
        config = small(tuple(shape), classes) if config is None else config
        if config.shape != tuple(shape):
            raise ValueError(
                f"the configuration is for samples of {config.shape}, the data has {tuple(shape)}"
            )
        if classes is not None and config.num_class_embeds != classes + 1:
            raise ValueError(
                f"num_class_embeds={config.num_class_embeds}, but {classes} classes and the null "
                f"label need {classes + 1}; set it so"
            )
        notes = {} if classes is None else {"null_label": classes}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = network(config.written())
        return cls(net, schedule or linear(), target, tuple(shape), notes=notes)

    @property
    def size(self) -> int:
        """The number of weights."""
        return sum(weight.numel() for weight in self.net.parameters())

    @property
    def classes(self) -> int | None:
        """The number of classes the network was made for, the null label among them, if its
        configuration says.
        """
        config: Any = getattr(self.net, "config", None)
        return getattr(config, "num_class_embeds", None)

    @property
    def labels(self) -> int | None:
        """The number of classes without the null label, which is the last."""
        return None if self.classes is None else self.classes - ("null_label" in self.notes)

    @property
    def of_images(self) -> bool:
        """Whether its samples can be shown as images: (1 or 3, H, W)."""
        return len(self.shape) == 3 and self.shape[0] in (1, 3)

    def optimize(
        self, precision: str = "auto", backend: str = "auto", batch_size: int = 64
    ) -> Model:
        """This model with its network run faster, by the weights as they are now, in eval mode.

        precision: fp32, bf16 or fp16 of weights and activations; the state stays as it is.
        backend: eager (torch's operations, a U-Net in a form of fewer passes), compile (torch's
            compiler), openvino or onnxruntime (CPUs alone).
        batch_size: of the calls to come; another is right too.
        auto times for a moment what is ready: eager, and what `ddim bench` or an earlier
        call compiled and the cache folder keeps. It takes the fastest whose relative error is
        within `ways.BOUNDS`; `.net.way` says which. Gradients with respect to x go through the
        network itself.
        Raises ValueError for what this machine has not, ImportError for a missing extra.
        """
        from ddim.ways import optimized

        return optimized(self, precision, backend, batch_size)

    def plan(self, steps: int | Sequence[float], spacing: str | Spacing = "trailing") -> Plan:
        """The levels of a run on this model's schedule; see `ddim.plan`."""
        return plan(self.schedule, steps, spacing)

    def denoiser(
        self,
        label: int | Sequence[int] | None = None,
        clip: float | None = None,
        guidance: float = 1.0,
        negative: int | None = None,
    ) -> Denoiser:
        """The network as a Denoiser, with its label bound; clip keeps x0 within [-clip, clip].

        label: the null label where None, if the model has one.
        guidance: the scale of classifier-free guidance away from the class `negative`, or from the
        model's null label where it is None; at 1 there is none, and calls cost half.
        At level 0 it answers x0 = x and the eps of level 1, the lowest it was trained at.
        """
        if label is None:
            if guidance != 1 or negative is not None:
                raise ValueError("guidance and negative need a label to lead to; give one")
            null = self.notes.get("null_label")
            denoise = self._bound() if null is None else self._bound(torch.tensor(null))
        else:
            asked = self._labels(label)
            denoise = self._bound(asked)
            if guidance != 1:
                away = self._labels(self._null() if negative is None else negative)
                denoise = guide(denoise, self._bound(asked, away), guidance)
        return denoise if clip is None else clipped(denoise, clip)

    def _bound(self, *labels: Tensor) -> Denoiser:
        """The network with a label for each of len(labels) equal parts of the batch, or none."""
        weight = next(self.net.parameters(), None)
        placed_labels = (
            labels if weight is None else tuple(each.to(weight.device) for each in labels)
        )
        at = lru_cache(maxsize=2048)(self._at)

        def denoise(x: Tensor, level: Level) -> Prediction:
            clock, scale, solved = at(float(level.t), float(level.signal), float(level.noise))
            like = x if weight is None else weight
            # One number for the whole batch, which a network may see from its stride of 0.
            times = torch.full((1,), clock, device=like.device).expand(x.shape[0])
            condition = _condition(placed_labels, x.shape[0], like.device)
            out = self.net((x if scale == 1 else x * scale).to(like), times, *condition)
            p = Split(x, without_variance(out.to(x), x), solved)
            return p if level.noise else Prediction(x, x, p.eps)

        return denoise

    def _at(self, t: float, signal: float, noise: float) -> tuple[float, float, Rows]:
        """The network's clock, the factor that x needs for it, and the rows of x0 and eps."""
        known = placed(Level(t, signal, noise), self.schedule) if noise else self.schedule.level(1)
        scale = float(known.noise) / noise if noise else 1.0
        (x0_x, x0_out), (eps_x, eps_out) = rows(self.target, known)
        clock = float(known.t) - 1
        solved = (scale * x0_x, x0_out), (scale * eps_x, eps_out)
        return int(clock) if clock == int(clock) else clock, scale, solved

    def _null(self) -> int:
        null = self.notes.get("null_label")
        if null is None:
            raise ValueError(
                "this model has no null label, for it was not trained without its label at times; "
                "give negative=, the class to lead away from"
            )
        return int(null)

    def _labels(self, label: int | Sequence[int]) -> Tensor:
        labels = torch.as_tensor(label)
        if self.classes is not None and not ((labels >= 0) & (labels < self.classes)).all():
            null = f", or the null label {self._null()}" if self.labels != self.classes else ""
            raise ValueError(f"label={label}; choose 0..{(self.labels or 1) - 1}{null}")
        return labels


def _condition(labels: tuple[Tensor, ...], batch: int, device: torch.device) -> tuple[Tensor, ...]:
    """What the network takes beside x and t: the labels of the whole batch, if there are any."""
    if not labels:
        return ()
    share = batch // len(labels)
    for each in labels:
        if each.ndim and each.shape != (share,):
            raise ValueError(f"{len(each)} labels for a batch of {share}; give one per image")
    return (torch.cat([each.to(device).expand(share) for each in labels]),)


def without_variance(out: Tensor, x: Tensor) -> Tensor:
    """The half of a network's answer that is about the image, where it learned a variance too.

    Nichol and Dhariwal 2021: 2C channels, the prediction first.
    """
    if out.shape == x.shape:
        return out
    twice = x.ndim > 1 and out.shape == (x.shape[0], 2 * x.shape[1], *x.shape[2:])
    return out[:, : x.shape[1]] if twice else out
