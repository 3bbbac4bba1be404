"""In other people's pipelines: their networks as denoisers, our solvers as their schedulers."""

from ddim.interop.networks import denoiser_from

__all__ = ["denoiser_from"]
