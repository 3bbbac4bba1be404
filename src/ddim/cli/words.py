"""The words that flags take, for shells to complete: the tables that have them import torch."""

from __future__ import annotations

from collections.abc import Callable

SOLVERS = (
    "ddim",
    "ddpm",
    "heun",
    "ipndm",
    "deis",
    "dpmpp",
    "dpmpp2s",
    "unipc",
    "resample",
)
SPACINGS = ("trailing", "leading", "uniform", "quadratic", "log_snr", "rho")
SCHEDULES = ("linear", "scaled_linear", "cosine", "sigmoid", "rectified_flow")
TARGETS = ("eps", "x0", "v", "flow")
PRESETS = ("ermongroup-ddim", "ermongroup-ddpm", "guided-diffusion", "diffusers", "sd1")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16", "fp16", "auto")
BACKENDS = ("eager", "compile", "openvino", "onnxruntime", "auto")
FORMATS = ("npz", "png", "webdataset", "parquet")
EXACT = ("lattice", "belm", "fixed_point")
SIZES = ("tiny", "small", "base", "cifar10")
MEASUREMENTS = ("downsample", "blur")
FEATURES = ("pixels", "pca", "cnn", "inception")


def of(words: tuple[str, ...]) -> Callable[[str], list[str]]:
    """What completes the beginning of one of the words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete
